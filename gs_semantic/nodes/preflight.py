"""The doctor's look at a robot's topics while the mapper starts: waits until all is well, or says what is not.

Started beside the mapper by the launch files and by ``gs-semantic run segment``, with the same arguments.
It always ends with exit code 0: a fault is told, and the mapper goes on waiting for its end.
"""

from __future__ import annotations

import sys
import time

from gs_semantic.nodes.process import StopSignal

PATIENCE_S = 20.0  # drivers that are started together with the mapper take their time
LOOK_S = 6.0


def main() -> int:
    stop = StopSignal()  # before the imports, which take seconds
    import rclpy
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions

    from gs_semantic.nodes import installation
    from gs_semantic.nodes.arguments import plan_segment
    from gs_semantic.nodes.doctor import Setting, examine_cameras
    from gs_semantic.nodes.faults import Finding, Severity

    end = sys.argv.index("--ros-args") if "--ros-args" in sys.argv else len(sys.argv)
    words = sys.argv[1:end]  # name=value, because ROS would take name:=value for a remapping
    setting = Setting.of(plan_segment(dict(word.split("=", 1) for word in words))[0])
    stop.started()
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    node = Node("doctor", enable_rosout=True, start_parameter_services=False)

    def tell(findings: list[Finding]) -> None:
        for finding in findings:
            if finding.severity == Severity.ERROR:
                node.get_logger().error(finding.text)
            elif finding.severity == Severity.WARNING:
                node.get_logger().warning(finding.text)

    try:
        tell(installation.examine())
        start = time.monotonic()
        while not stop:
            findings = examine_cameras(node, setting, LOOK_S, until=lambda: bool(stop))
            healthy = installation.worst(findings) < Severity.ERROR
            if stop or healthy or time.monotonic() - start > PATIENCE_S:
                break
        if not stop:
            tell(findings)
            if healthy:
                node.get_logger().info("the mapper's inputs come and fit together")
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
        stop.ignore()
    return 0


if __name__ == "__main__":
    sys.exit(main())

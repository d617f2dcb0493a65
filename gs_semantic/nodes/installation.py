"""What is installed: the parts that the live nodes need, those that only some uses need, and shared memory.

Knows no ROS but by looking whether it can be imported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from xml.etree import ElementTree

from gs_semantic import __version__
from gs_semantic.errors import GsSemanticError
from gs_semantic.nodes import faults
from gs_semantic.nodes.environment import FASTDDS_PROFILES
from gs_semantic.nodes.faults import Finding, Severity, fine
from gs_semantic.share import share_path

BUILD = "Run `make build` in the source tree, or build the package again with colcon"
INTERFACES = ("gs_semantic.msg", "gs_semantic.srv")
MESSAGES = ("sensor_msgs", "geometry_msgs", "nav_msgs", "tf2_msgs", "visualization_msgs", "std_msgs")
# module, what it is for, how to get it
OPTIONAL = (
    ("gsplat", "rendering on CUDA", "pip install 'gs_semantic[cuda]'"),
    ("rosbags", "reading and writing ROS 2 bags without ROS", "pip install 'gs_semantic[bags]'"),
    ("transformers", "SAM 2, Mask2Former and other learned segmenters", "pip install 'gs_semantic[models]'"),
    ("tf2_ros", "transforms through ROS's own buffer; the built-in one is equal", "On a robot: rosdep install"),
    ("cv_bridge", "images through ROS's own bridge; the built-in one is equal", "On a robot: rosdep install"),
    ("vision_msgs", "masks and objects in vision_msgs", "On a robot: rosdep install"),
    ("launch_ros", "ros2 launch; without it use `gs-semantic run`", "On a robot: part of ros-base"),
)
MIN_SEGMENT_BYTES = 16_000_000  # several frames of colour, depth and masks at 640x480


def examine() -> list[Finding]:
    """Findings about this Python environment and this machine, in the order in which to read them."""
    return [
        fine("gs_semantic", f"{__version__}, Python {platform.python_version()}, {platform.machine()}"),
        _torch(),
        _native(),
        *_ros(),
        _shared_memory_profile(),
        *_shared_memory_space(),
        *(_optional(*part) for part in OPTIONAL),
    ]


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return faults.PART_MISSING.found("torch", part="torch", reason=error, command="pip install torch")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    return fine("torch", f"{torch.__version__}, {device}, {torch.get_num_threads()} threads")


def _native() -> Finding:
    from gs_semantic.rendering import native

    try:
        return fine("native library", f"{native.isa()}, {native.thread_count(None)} threads")
    except GsSemanticError as error:
        return faults.PART_MISSING.found("native library", part="the native library", reason=error, command=BUILD)


def _ros() -> list[Finding]:
    """rclpy and its middleware, message packages, and the package's own interfaces."""
    try:
        import rclpy

        middleware = rclpy.get_rmw_implementation_identifier()
    except (ImportError, RuntimeError) as error:
        command = "Source the setup file of ROS 2 (`. /opt/ros/DISTRO/setup.sh`), or run `make build` for the wheels"
        return [faults.PART_MISSING.found("rclpy", part="rclpy", reason=error, command=command)]
    distribution = os.environ.get("ROS_DISTRO") or _version_of("rclpy")
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    findings = [fine("rclpy", f"{distribution}, {middleware}, ROS_DOMAIN_ID {domain}")]
    for name in (*MESSAGES, *INTERFACES):
        try:
            importlib.import_module(name)
        except ImportError as error:
            command = BUILD if name in (*INTERFACES, "tf2_msgs") else "rosdep install --from-paths . --ignore-src"
            findings.append(faults.PART_MISSING.found(name, part=f"interface package {name}", reason=error, command=command))
    if len(findings) == 1:
        findings.append(fine("interfaces", ", ".join((*MESSAGES, "gs_semantic"))))
    return findings


def _version_of(package: str) -> str:
    try:
        return f"rclpy {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return "rclpy"


def _optional(module: str, purpose: str, command: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return faults.PART_OPTIONAL.found(module, part=module, purpose=purpose, command=command)
    return fine(module, f"installed ({purpose})")


# --- shared memory ----------------------------------------------------------------------------------------------------


def _shared_memory_profile() -> Finding:
    """Do images fit into the shared-memory segment that Fast DDS is told to make?"""
    middleware = os.environ.get("RMW_IMPLEMENTATION", "")
    if middleware and "fastrtps" not in middleware:
        return fine("shared memory", f"{middleware} has its own; the Fast DDS profile is not used")
    profile = share_path("config", "fastdds.xml")
    path = os.environ.get(FASTDDS_PROFILES, "")

    def fault(what: str) -> Finding:
        return faults.SHM_PROFILE.found("shared memory", what=what, profile=profile)

    if not path:
        return fault("is not set in this shell (launch files and `gs-semantic run` set it for what they start)")
    try:
        segment = largest_segment(Path(path))
    except (OSError, ElementTree.ParseError) as error:
        return fault(f"names {path}, which cannot be read: {error}")
    if segment < MIN_SEGMENT_BYTES:
        size = f"{segment / 1e6:.1f} MB" if segment else "no size at all"
        return fault(f"names {path}, whose shared-memory segment has {size}")
    return fine("shared memory", f"segment of {segment / 1e6:.0f} MB ({path})")


def largest_segment(profile: Path) -> int:
    """Bytes of the largest ``segment_size`` of a Fast DDS profile; 0 without one."""
    sizes = [
        int(element.text or 0)
        for element in ElementTree.parse(profile).iter()
        if element.tag.rpartition("}")[2] == "segment_size"
    ]
    return max(sizes, default=0)


def _shared_memory_space() -> list[Finding]:
    """Is there room for a few segments in /dev/shm?"""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return []
    segment = largest_segment(share_path("config", "fastdds.xml"))
    usage = shutil.disk_usage(folder)
    if usage.free < 4 * segment:  # mapper, camera, segmenter, a viewer
        what = f"{folder} has {usage.free / 1e6:.0f} MB free, four segments of {segment / 1e6:.0f} MB may be needed"
        return [faults.SHM_SMALL.found("shared memory", what=what)]
    return [fine("shared memory", f"{usage.free / 1e6:,.0f} MB free in {folder}")]


def worst(findings: list[Finding]) -> Severity:
    return max((finding.severity for finding in findings), default=Severity.OK)

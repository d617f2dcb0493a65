"""Parameters of the mapper node, beside those of the mapper itself (gs_semantic.mapping.config.MapperConfig)."""

from __future__ import annotations

from dataclasses import dataclass

from gs_semantic.nodes.parameters import parameter


@dataclass
class NodeParameters:
    # input
    pose_source: str = parameter("tf", "where camera poses come from", choices=("tf", "odom", "pose"))
    global_frame: str = parameter("", "frame of the map; empty: 'map' with TF, else the frame of the pose messages")
    pose_child_frame: str = parameter("", "frame that PoseStamped messages speak of; empty: the colour image's frame")
    use_depth: bool = parameter(
        True, "a frame needs depth; false: no depth topic is listened to, depth is found by matching keyframes"
    )
    input_qos: str = parameter("best_effort", "reliability requested of inputs", choices=("best_effort", "reliable"))
    sync_slop_s: float = parameter(0.0, "stamps of one frame may differ by this; 0: exactly equal", 0.0, 1.0)
    sync_wait_s: float = parameter(0.5, "a colour image waits so long for depth, camera_info and pose", 0.0, 10.0)
    mask_wait_s: float = parameter(0.05, "a colour image waits so long for its masks", 0.0, 10.0)
    # map
    device: str = parameter("auto", "where the map is rendered", choices=("auto", "cpu", "cuda"))
    load_map: str = parameter("", "map folder to start from")
    save_on_exit: str = parameter("", "map folder to write when the node ends")
    view_period_s: float = parameter(0.2, "answers show the map as it was at most so long ago", 0.0, 10.0)
    idle_optimise_s: float = parameter(5.0, "go on optimising so long after the last frame", 0.0, 86400.0)
    frame_queue: int = parameter(1, "frames that may wait for their answer; older ones are dropped", 1, 100)
    mapping_niceness: int = parameter(3, "mapping gives way to answers on a shared core (Linux nice value)", 0, 19)
    # output
    status_hz: float = parameter(1.0, "rate of ~/status", 0.1, 100.0)
    objects_hz: float = parameter(2.0, "rate of ~/objects and ~/objects/markers at most", 0.01, 100.0)
    map_points_hz: float = parameter(0.5, "rate of ~/map/points at most", 0.01, 10.0)
    map_points_max: int = parameter(200_000, "points in ~/map/points at most", 1, 10_000_000)
    answers_kept: int = parameter(30, "answered frames that query_pixel can be asked about", 1, 1000)

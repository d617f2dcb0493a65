"""Parameters of the mapper node, beside those of the mapper itself (gs_semantic.mapping.config.MapperConfig)."""

from __future__ import annotations

from dataclasses import dataclass, field

from gs_semantic.errors import InvalidInputError
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.nodes.parameters import parameter
from gs_semantic.segmentation.config import PRESETS

# fields of MapperConfig that the mapper looks at anew every time; the others are built into it
LIVE_MAPPING = frozenset(
    {
        *("depth_min_m", "depth_max_m", "ignored_classes", "max_gaussians", "max_keyframes"),
        *("keyframe_translation_m", "keyframe_rotation_deg", "keyframe_interval_s", "keyframe_queue"),
        *("refine_error", "refine_min_px", "refine_max", "carve", "depth_tolerance_m", "depth_tolerance_per_m2"),
        *("match_min_iou", "class_mismatch_factor", "mask_min_px", "confirm_observations", "cover_fraction"),
        *("split_observations", "removed_misses", "follow_moved"),
        *("merge_observations", "merge_ratio", "stale_misses", "forget_after", "mask_grow_px", "mask_grow_weight"),
        *("steps_per_keyframe", "steps_when_busy", "steps_when_idle", "identity_every", "window_recent"),
        *("optimise_width_px", "prune_opacity", "prune_scale_m", "prune_every"),
    }
)


DEPTH_USES = ("always", "auto", "never")
TRANSPORTS = ("auto", "raw", "compressed")


@dataclass
class NodeParameters:
    # input
    pose_source: str = parameter("tf", "where camera poses come from", choices=("tf", "odom", "pose"))
    global_frame: str = parameter("", "frame of the map; empty: 'map' with TF, else the frame of the pose messages")
    pose_child_frame: str = parameter("", "frame that PoseStamped messages speak of; empty: the colour image's frame")
    cameras: list[str] = field(
        default_factory=list,
        metadata={
            "text": "namespaces of the cameras' topics, e.g. [front, /rear]; empty: one camera, whose topics have none "
            "of their own"
        },
    )
    color_transport: str = parameter(
        "auto", "colour images come raw, compressed, or as somebody publishes them", choices=TRANSPORTS
    )
    depth_transport: str = parameter("auto", "the same for depth images", choices=TRANSPORTS)
    mask_transport: str = parameter("auto", "the same for mask images", choices=TRANSPORTS)
    rectified: str = parameter(
        "auto",
        "yes: images are undistorted already, p of camera_info counts; auto: those whose topic is named image_rect*",
        choices=("auto", "yes", "no"),
    )
    depth_registered: bool = parameter(
        False, "depth shows the same pixels as colour, whatever its frame_id and camera_info say"
    )
    use_depth: str = parameter(
        "always",
        "always: a frame needs depth; never: no depth topic is listened to, depth is found by matching keyframes; auto: "
        "never until a depth image comes, always from then on",
        choices=DEPTH_USES,
    )
    input_qos: str = parameter("best_effort", "reliability requested of inputs", choices=("best_effort", "reliable"))
    sync_slop_s: float = parameter(0.0, "stamps of one frame may differ by this; 0: exactly equal", 0.0, 1.0, live=True)
    sync_wait_s: float = parameter(
        0.5, "a colour image waits so long for depth, camera_info and pose", 0.0, 10.0, live=True
    )
    mask_wait_s: float = parameter(0.05, "a colour image waits so long for its masks", 0.0, 10.0, live=True)
    pose_jump_m: float = parameter(
        3.0,
        "a camera that moves farther than this between two frames (and per second) has a wrong pose: it is reported, and "
        "mapped only when the next frames agree with it",
        0.1,
        10000.0,
        live=True,
    )
    robot_mask: str = parameter(
        "",
        "image file, white where the camera sees the robot itself: there, depth, masks and colour are ignored; "
        "'{camera}' in the path stands for the camera's name",
    )
    # start
    autostart: bool = parameter(True, "configure and activate at once; false: wait for lifecycle transitions")
    # map
    device: str = parameter("auto", "where the map is rendered", choices=("auto", "cpu", "cuda"))
    load_map: str = parameter("", "map folder to start from")
    localization_map: str = parameter(
        "",
        "name or id of the map that the robot localises in: saved with the map, and a map saved with another one is refused",
        live=True,
    )
    anchor_frame: str = parameter(
        "",
        "a frame that stands still in the world, e.g. a dock or a marker: a map in which it was elsewhere is refused",
        live=True,
    )
    semantics: str = parameter(
        "", "checkpoint of a method that generalises, which labels frames without masks (docs/generalization.md)"
    )
    language: str = parameter(
        "", "folder of CLIP or SigLIP weights: objects get embeddings, and query_text understands words that are no names"
    )
    save_on_exit: str = parameter("", "map folder to write when the node ends", live=True)
    view_period_s: float = parameter(0.2, "answers show the map as it was at most so long ago", 0.0, 10.0, live=True)
    idle_optimise_s: float = parameter(20.0, "go on optimising so long after the last frame", 0.0, 86400.0, live=True)
    frame_queue: int = parameter(1, "frames that may wait for their answer; older ones are dropped", 1, 100)
    mapping_niceness: int = parameter(3, "mapping gives way to answers on a shared core (Linux nice value)", 0, 19)
    # output
    status_hz: float = parameter(1.0, "rate of ~/status", 0.1, 100.0)
    objects_hz: float = parameter(2.0, "rate of ~/objects and ~/objects/markers at most", 0.01, 100.0, live=True)
    map_points_hz: float = parameter(0.5, "rate of ~/map/points at most", 0.01, 10.0, live=True)
    map_points_max: int = parameter(200_000, "points in ~/map/points at most", 1, 10_000_000, live=True)
    answers_kept: int = parameter(30, "answered frames that query_pixel can be asked about", 1, 1000)
    splats_hz: float = parameter(5.0, "rate of ~/splats at most", 0.1, 50.0, live=True)
    grids_hz: float = parameter(0.5, "rate of ~/occupancy and ~/costmap at most", 0.01, 10.0, live=True)
    grids_resolution_m: float = parameter(0.05, "edge of a cell of the grids", 0.01, 1.0, live=True)
    grids_low_m: float = parameter(
        0.1, "heights in the map from which the grids show what stands in the way", -1000.0, 1000.0, live=True
    )
    grids_high_m: float = parameter(1.5, "and up to which", -1000.0, 1000.0, live=True)
    costmap_inscribed_m: float = parameter(
        0.2, "inner radius of the robot: ~/costmap is 99 so far around obstacles", 0.0, 10.0, live=True
    )
    costmap_inflation_m: float = parameter(0.5, "costs around obstacles end there", 0.0, 10.0, live=True)
    costmap_decay: float = parameter(5.0, "costs fall with exp(-decay x distance), 1/m", 0.0, 100.0, live=True)
    costmap_classes: list[str] = field(
        default_factory=list,
        metadata={
            "text": "classes around which costs end elsewhere, e.g. [person=1.5, plant=0.1], m", "live": True
        },
    )
    diagnostics_hz: float = parameter(1.0, "rate of /diagnostics", 0.1, 10.0)
    # training of the map while it is mapped: what ~/start_training starts
    train_method: str = parameter("gradiseg", "lifting method", live=True, name="train.method")
    train_preset: str = parameter("quick", "options to start from", choices=PRESETS, live=True, name="train.preset")
    train_options: str = parameter(
        "", "further options, NAME=VALUE separated by commas", live=True, name="train.options"
    )
    train_output: str = parameter(
        "", "folder for checkpoints, metrics and the trained map; empty: nothing is written", live=True, name="train.output"
    )
    train_niceness: int = parameter(
        5, "training gives way to answers and mapping on a shared core (Linux nice value)", 0, 19, name="train.niceness"
    )
    # budgets; 0: none
    budget_mb: float = parameter(
        0.0,
        "resident memory of the process: the mapper keeps fewer Gaussians and keyframes instead of more memory; 0: no limit",
        0.0,
        1_000_000.0,
        live=True,
        name="budget.mb",
    )
    budget_hz: float = parameter(
        0.0,
        "rate of answers: not more than this, and mapping gives way where it would be less; 0: every frame as it comes",
        0.0,
        1000.0,
        live=True,
        name="budget.hz",
    )
    budget_mbps: float = parameter(
        0.0,
        "what label images, clouds and ~/splats together may take on the wire, counted once per subscriber; 0: no limit",
        0.0,
        100_000.0,
        live=True,
        name="budget.mbps",
    )


def check(parameters: NodeParameters, config: MapperConfig) -> None:
    """Raise InvalidInputError or ValueError for values that do not go together."""
    config.validate()
    names = [name.strip("/") for name in parameters.cameras]
    if len(set(names)) != len(names) or not all(names):
        raise InvalidInputError(f"parameter cameras: {parameters.cameras} are not different names")
    if len(parameters.cameras) > 1 and parameters.pose_source == "pose" and not parameters.pose_child_frame:
        raise InvalidInputError(
            "parameter pose_child_frame is empty: with several cameras, name the frame that the poses speak of"
        )
    if parameters.grids_low_m >= parameters.grids_high_m:
        raise InvalidInputError(
            f"parameter grids_low_m = {parameters.grids_low_m:g} is not below grids_high_m = {parameters.grids_high_m:g}"
        )
    class_radii(parameters)
    if config.depth_min_m >= config.depth_max_m:
        raise InvalidInputError(
            f"parameter depth_min_m = {config.depth_min_m:g} is not below depth_max_m = {config.depth_max_m:g}"
        )


def class_radii(parameters: NodeParameters) -> dict[str, float]:
    """``costmap_classes`` by class name, m."""
    radii = {}
    for entry in parameters.costmap_classes:
        name, _, text = entry.rpartition("=")
        try:
            radii[name.strip()] = radius = float(text)
        except ValueError:
            radius = -1.0
        if not (name.strip() and 0 <= radius <= 10):
            raise InvalidInputError(f"parameter costmap_classes: '{entry}' is not a class=metres with 0 to 10 m")
    return radii

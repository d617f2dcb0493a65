"""Parameters of the mapper. One flat dataclass: every field becomes a ROS parameter and a CLI option of the same name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gs_semantic.rendering.base import RasterSettings


def _p(
    default: Any, text: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """A documented field; ``low``/``high`` bound it (checked by ``MapperConfig.validate`` and the ROS parameter)."""
    return field(default=default, metadata={"text": text, "low": low, "high": high, "choices": choices})


@dataclass
class MapperConfig:
    """Defaults suit a 640x480 depth camera indoors on two CPU cores. Units are in the names; px = pixels."""

    # input
    depth_min_m: float = _p(0.2, "depth nearer than this is ignored", 0.0, 10.0)
    depth_max_m: float = _p(15.0, "depth farther than this is ignored", 0.1, 1000.0)
    # keyframes
    keyframe_translation_m: float = _p(0.12, "camera motion that makes a keyframe", 0.0, 100.0)
    keyframe_rotation_deg: float = _p(4.0, "camera turn that makes a keyframe", 0.0, 180.0)
    keyframe_interval_s: float = _p(2.0, "a keyframe at the latest after this time", 0.0, 3600.0)
    keyframe_queue: int = _p(2, "keyframes that may wait for integration; older waiting ones are dropped", 1, 100)
    max_keyframes: int = _p(160, "keyframes kept for optimisation; the most redundant is dropped", 2, 10000)
    refine_poses: bool = _p(True, "realign keyframes with one another when the given poses are found to be noisy")
    # depth of frames that come without
    match: bool = _p(True, "find the depth of keyframes that come without by matching them with others")
    match_width_px: int = _p(320, "matching is done at about this image width", 80, 4096)
    match_planes: int = _p(128, "depths tried per pixel at most", 48, 256)
    match_near_m: float = _p(0.5, "nearest depth that is looked for", 0.01, 100.0)
    match_sources: int = _p(4, "other keyframes that one is compared with", 1, 16)
    match_memory: int = _p(10, "recent keyframes to choose these from", 2, 10000)
    match_margin: float = _p(2.0, "a depth is kept when the next best one is worse by this (cost per path)", 0.0, 100.0)
    match_cost: int = _p(20, "a depth is kept up to this matching cost (0 .. 64)", 1, 64)
    match_tolerance_per_m2: float = _p(
        0.015, "depth_tolerance_per_m2 where the depth comes from matching", 0.0, 0.5
    )
    match_tolerance: float = _p(0.03, "relative difference up to which two keyframes confirm each other", 0.001, 0.5)
    # seeding
    max_gaussians: int = _p(600_000, "upper bound of the number of Gaussians", 1000, 20_000_000)
    seed_min_size_m: float = _p(0.012, "seeds are not spaced closer than this", 0.001, 1.0)
    seed_colour_tolerance: float = _p(0.10, "colour range (0..1) within which pixels share one seed", 0.0, 1.0)
    seed_detail_px: int = _p(2, "blocks up to this size (1, 2 or 4) share one seed whatever their colours", 1, 4)
    seed_max_block_px: int = _p(8, "largest block of pixels that shares one seed (1, 2, 4 or 8)", 1, 8)
    seed_border_margin: float = _p(0.2, "a block keeps this distance, in units of its size, from borders", 0.0, 4.0)
    seed_sigma: float = _p(0.65, "standard deviation of a seed in units of its spacing", 0.2, 2.0)
    seed_border_sigma: float = _p(0.4, "the same for seeds at a depth break or label border", 0.05, 2.0)
    seed_opacity: float = _p(0.98, "opacity of a new Gaussian", 0.05, 0.999)
    depth_tolerance_m: float = _p(0.04, "depth difference that counts as badly explained, constant part", 0.001, 1.0)
    depth_tolerance_per_m2: float = _p(0.006, "the same, part that grows with depth squared (sensor noise)", 0.0, 0.1)
    refine_error: float = _p(0.09, "colour error (0..1) above which a coarse Gaussian is replaced by finer ones", 0.0, 1.0)
    refine_min_px: int = _p(10, "a Gaussian is coarse when it fills at least this many pixels", 2, 10000)
    refine_max: int = _p(3000, "Gaussians replaced per keyframe at most", 0, 1_000_000)
    # association
    association: str = _p(
        "overlap",
        "masks find their objects by overlap with votes, or by a codebook of learned features (docs/training.md)",
        choices=("overlap", "codebook"),
    )
    match_min_iou: float = _p(0.3, "overlap (IoU on pixels both know) needed to match a mask to an object", 0.05, 0.95)
    class_mismatch_factor: float = _p(0.6, "overlap is multiplied by this when the classes differ", 0.0, 1.0)
    mask_min_px: int = _p(15, "smaller masks do not open an object", 1, 100000)
    confirm_observations: int = _p(2, "keyframes that must see an object before it is published", 1, 100)
    cover_fraction: float = _p(0.6, "a mask covers an object when it holds this share of the object's visible part", 0.1, 1.0)
    merge_observations: int = _p(3, "two objects are merged after so many masks covered both", 1, 100)
    merge_ratio: float = _p(1.5, "... and so many times more often than masks kept them apart", 0.5, 100.0)
    split_observations: int = _p(4, "a part comes off an object after masks told the two apart so often", 1, 1000)
    removed_misses: int = _p(2, "an object is removed when so many keyframes in a row looked through it", 1, 1000)
    follow_moved: bool = _p(True, "recognise an object that was moved: it keeps its id, and its Gaussians move with it")
    stale_misses: int = _p(10, "an object expected in view but not found so often in a row is stale", 1, 1000)
    forget_after: int = _p(25, "a tentative object not seen for so many keyframes is forgotten", 1, 10000)
    mask_grow_px: int = _p(8, "unlabelled rims up to this width take the neighbour's label, with little weight", 0, 20)
    mask_grow_weight: float = _p(0.1, "weight of a vote from a grown rim", 0.0, 1.0)
    # words
    embed_every: int = _p(3, "every so many keyframes lends objects its features of a model that knows words", 1, 1000)
    # drawing
    eps2d: float = _p(
        0.01, "blur added to every drawn Gaussian, px^2; 3DGS has 0.3, which smears outlines by half a pixel", 0.0, 2.0
    )
    # optimisation
    optimise_width_px: int = _p(320, "width of the window of a keyframe that one step optimises", 32, 4096)
    steps_per_keyframe: int = _p(12, "optimisation steps after a keyframe", 0, 1000)
    steps_when_busy: int = _p(3, "the same while another keyframe waits", 0, 1000)
    steps_when_idle: bool = _p(True, "go on optimising while no keyframe waits")
    window_recent: int = _p(6, "recent keyframes that the optimiser prefers; the rest are drawn at random", 1, 1000)
    lr_means: float = _p(4e-4, "learning rate of positions, m", 0.0, 1.0)
    lr_quats: float = _p(1e-3, "learning rate of rotations", 0.0, 1.0)
    lr_scales: float = _p(2e-2, "learning rate of log scales", 0.0, 1.0)
    lr_opacity: float = _p(8e-2, "learning rate of opacity logits", 0.0, 1.0)
    lr_colour: float = _p(3e-2, "learning rate of colour (SH degree 0)", 0.0, 1.0)
    lr_identity: float = _p(2e-2, "learning rate of the identity features", 0.0, 1.0)
    depth_weight: float = _p(2.0, "weight of the depth loss (per metre) against the colour loss", 0.0, 100.0)
    identity_weight: float = _p(3.0, "weight of the identity loss against the colour loss", 0.0, 100.0)
    identity_moves_geometry: bool = _p(True, "let the identity loss move Gaussians, which sharpens object borders")
    identity_every: int = _p(2, "every so many steps of a keyframe is one with identity; all when idle", 1, 1000)
    identity_dims: int = _p(16, "channels of the identity feature", 4, 16)
    # pruning
    prune_opacity: float = _p(0.02, "Gaussians fainter than this are removed", 0.0, 1.0)
    prune_scale_m: float = _p(0.5, "Gaussians larger than this are removed", 0.01, 100.0)
    prune_every: int = _p(10, "keyframes between two prunings", 1, 10000)
    carve: bool = _p(True, "remove Gaussians that float in front of a measured surface")
    seed: int = _p(0, "seed of every random choice", 0, 2**31 - 1)
    ignored_classes: list[int] = field(
        default_factory=list, metadata={"text": "class ids whose masks are ignored", "low": None, "high": None}
    )

    @property
    def raster_settings(self) -> RasterSettings:
        """How the map is drawn, while it is optimised as well as in answers."""
        return RasterSettings(eps2d=self.eps2d)

    def validate(self) -> None:
        """Raise ValueError that names the field and its range."""
        for name, spec in self.__dataclass_fields__.items():
            low, high, value = spec.metadata.get("low"), spec.metadata.get("high"), getattr(self, name)
            if low is not None and not low <= value <= high:
                raise ValueError(f"{name} = {value} is outside [{low}, {high}]")
            if (choices := spec.metadata.get("choices")) and value not in choices:
                raise ValueError(f"{name} = '{value}' is none of {', '.join(choices)}")
        if self.match and self.match_near_m >= self.depth_max_m:
            raise ValueError(f"match_near_m = {self.match_near_m:g} is not below depth_max_m = {self.depth_max_m:g}")
        if self.seed_max_block_px not in (1, 2, 4, 8):
            raise ValueError(f"seed_max_block_px = {self.seed_max_block_px}: must be 1, 2, 4 or 8")

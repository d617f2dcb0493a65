"""What a training run sees: views with id images, split into training and held-out ones, and the first Gaussians."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.spatial import cKDTree

from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidInputError
from gs_semantic.evaluation.boundary import near_borders
from gs_semantic.evaluation.damage import NOISE, Damage
from gs_semantic.gaussians import Camera, Frame, GaussianMap, MaskInfo
from gs_semantic.gaussians.frame import class_image
from gs_semantic.gaussians.gaussian_map import rgb_to_sh
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.labels import LabelSet
from gs_semantic.segmentation.config import TrainingConfig
from gs_semantic.segmentation.tracking import track_ids

CANDIDATE_POINTS = 2_000_000  # points of all depth images together from which the first Gaussians are chosen
EXTENT_FACTOR = 1.1  # of the largest distance of a camera from their centre (3D Gaussian Splatting)
NEAR_M = 0.05
BORDER_PX = 2  # pixels no farther from another id are near a border
CPU = torch.device("cpu")


@dataclass(frozen=True)
class View:
    """One image to train on or to score at. rgb uint8 (H,W,3); ids int32 (H,W), 0 = unlabelled, None: no labels.

    truth: true ids (H,W), where ``ids`` are those of a tracker or damaged; only scores look at them. masks: what the
    recording knows of each id of this view. ignored: bool (H,W), where the image shows none of the scene.
    """

    name: str
    camera: Camera
    rgb: np.ndarray
    ids: np.ndarray | None = None
    truth: np.ndarray | None = None
    masks: dict[int, MaskInfo] = field(default_factory=dict)
    ignored: np.ndarray | None = None


@dataclass(frozen=True)
class Points:
    """Where the first Gaussians go: xyz float32 (N,3) in the world frame, rgb uint8 (N,3)."""

    xyz: np.ndarray
    rgb: np.ndarray


@dataclass
class Scene:
    """Training views, held-out views with true ids, and what the first Gaussians are made of (points, or a map).

    ids: int64 (C,), the ids in the training views in rising order, after 0, which is always there; a class is a
    position in it, so ids have no upper bound. infos: class of an id, where the recording knows it.
    """

    name: str
    train: list[View]
    held_out: list[View]
    points: Points | None = None
    start: GaussianMap | None = None
    labels: LabelSet = field(default_factory=LabelSet)
    infos: dict[int, MaskInfo] = field(default_factory=dict)
    ids_are_true: bool = True  # the training views have the ids of the held-out views
    semantic: bool = False  # ids are class ids
    ignored_ids: frozenset[int] = frozenset()  # true ids that are not scored
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.train) < 2:
            raise InvalidInputError(
                f"{self.name}: {len(self.train)} view to train on; at least 2 are needed (record more, or hold out fewer)"
            )
        known = {0}
        for view in self.train:
            if view.ids is not None:
                known |= set(np.unique(view.ids).tolist())
        if min(known) < 0:
            view = next(v for v in self.train if v.ids is not None and v.ids.min() < 0)
            raise InvalidInputError(f"{view.name}: the id image has negative ids; 0 is unlabelled, ids are positive")
        self.ids = np.array(sorted(known), np.int64)
        centres = np.array([view.camera.T_world_camera[:3, 3] for view in self.train])
        radius = float(np.linalg.norm(centres - centres.mean(0), axis=1).max())
        self.extent = EXTENT_FACTOR * radius if radius > 0 else 1.0
        self._tables: dict[int, np.ndarray] = {}
        self._classes: dict[tuple[int, torch.device], torch.Tensor] = {}
        self._labelled: dict[int, np.ndarray] = {}
        self._colours: dict[tuple[int, torch.device], torch.Tensor] = {}
        self._borders: dict[tuple[int, torch.device], torch.Tensor] = {}

    @property
    def class_count(self) -> int:
        """Ids of the training views, 0 among them."""
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Has any training view ids?"""
        return self.class_count > 1

    def colour(self, index: int, device: torch.device = CPU) -> torch.Tensor:
        """float32 (H,W,3), 0..1, of a training view; the bytes are brought to the device once."""
        key = index, device
        if key not in self._colours:
            self._colours[key] = torch.from_numpy(self.train[index].rgb).to(device)
        return self._colours[key].to(torch.float32) / 255

    def classes(self, index: int, device: torch.device = CPU) -> torch.Tensor | None:
        """int64 (H*W,): class of each pixel of a training view; None without labels."""
        key = index, device
        if key not in self._classes:
            table = self.class_table(index)
            if table is None:
                return None
            self._classes[key] = torch.from_numpy(table).to(device)
        return self._classes[key].long()

    def class_table(self, index: int) -> np.ndarray | None:
        """int16 or int32 (H*W,): the same on the host."""
        ids = self.train[index].ids
        if index not in self._tables and ids is not None:
            small = np.int32 if np.min_scalar_type(self.class_count).itemsize > 2 else np.int16
            self._tables[index] = np.searchsorted(self.ids, ids.ravel()).astype(small)
        return self._tables.get(index)

    def labelled_pixels(self, index: int) -> np.ndarray:
        """int32 (L,): pixels of a labelled training view with an id, on the host."""
        if index not in self._labelled:
            ids = self.train[index].ids
            assert ids is not None
            self._labelled[index] = np.flatnonzero(ids).astype(np.int32)
        return self._labelled[index]

    def borders(self, index: int, device: torch.device = CPU) -> torch.Tensor:
        """int64 (B,): pixels of a labelled training view near those of another id."""
        key = index, device
        if key not in self._borders:
            ids = self.train[index].ids
            assert ids is not None
            pixels = np.flatnonzero(near_borders(ids, BORDER_PX)).astype(np.int32)
            self._borders[key] = torch.from_numpy(pixels).to(device)
        return self._borders[key].long()


def make_scene(
    sequence: FrameSequence,
    config: TrainingConfig,
    evaluation: FrameSequence | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Scene:
    """Read a sequence whose images already have the size to train at.

    Held out are all views of ``evaluation``, those that the recording sets apart, or every k-th of the sequence. Raises InvalidInputError naming what is
    missing: too few views, neither depth nor points, no view that sees anything.
    """
    every = 0 if evaluation is not None else config.hold_out_every
    held = [index for index in range(len(sequence)) if every and index % every == every - 1]
    if sequence.test_indices:
        held = list(sequence.test_indices)
    train = [index for index in range(len(sequence)) if index not in held]
    mode = "none" if config.masks == "perfect" else config.masks
    classes = tuple(sorted(key for key in sequence.labels.names if key))
    damage = Damage(mode, config.mask_seed, classes=classes)  # type: ignore[arg-type]
    semantic = config.labels == "semantic"
    infos: dict[int, MaskInfo] = {}
    views, frames = [], []
    tracked = track_ids(sequence, train, damage, progress) if config.ids == "tracked" else None
    for position, index in enumerate(train):
        frame = sequence[index]
        ids, masks = frame.instances, frame.masks
        if ids is not None:
            ids, masks = damage.apply(ids, masks, index)
        if tracked is not None:
            ids, masks = tracked.images[position], tracked.infos
        truth = frame.instances
        if semantic and ids is not None and truth is not None:
            ids, masks, truth = *_semantic_view(ids, masks), class_image(truth, frame.masks)
        infos |= masks
        name = f"{sequence.folder} frame {index}"
        views.append(View(name, frame.camera, frame.rgb, ids if ids is not None and ids.any() else None, truth, masks))
        frames.append(frame)
        progress()
    source = evaluation or sequence
    scored = range(len(source)) if evaluation is not None else held
    scene = Scene(
        str(sequence.folder),
        views,
        [_true_view(source, index, semantic) for index in scored],
        labels=sequence.labels,
        infos=infos,
        ids_are_true=semantic or (config.ids == "recorded" and (config.masks == "perfect" or config.masks in NOISE)),
        ignored_ids=frozenset() if semantic else frozenset(source.group_ids),
        semantic=semantic,
    )
    if config.initial == "map":
        scene.start = load_map(config.initial_map)[0]
    else:
        scene.points = _first_points(sequence, frames, config)
        _leave_out_blind_views(scene)
    return scene


def _semantic_view(ids: np.ndarray, masks: dict[int, MaskInfo]) -> tuple[np.ndarray, dict[int, MaskInfo]]:
    """Class ids in the place of ids of masks, and what is known of each."""
    classes = class_image(ids, masks)
    return classes, {key: MaskInfo(key) for key in np.unique(classes).tolist() if key}


def _true_view(sequence: FrameSequence, index: int, semantic: bool) -> View:
    frame = sequence[index]
    truth = frame.instances
    if semantic:
        truth = sequence.semantic(index)
        if truth is None and frame.instances is not None:
            truth = class_image(frame.instances, frame.masks)
    return View(f"{sequence.folder} frame {index}", frame.camera, frame.rgb, truth)


def _first_points(sequence: FrameSequence, frames: Sequence[Frame], config: TrainingConfig) -> Points:
    sparse = sequence.sparse_points() if config.initial in ("auto", "points") else None
    if sparse is not None and len(sparse) and (config.initial == "points" or not sequence.has_depth):
        return _thinned(Points(sparse.xyz.astype(np.float32), sparse.rgb), config)
    if sequence.has_depth and config.initial != "points":
        return _thinned(_points_of_depth(frames, config.seed), config)
    wanted = {
        "auto": "neither depth nor reconstruction points",
        "depth": "no depth",
        "points": "no reconstruction points",
    }
    raise InvalidInputError(
        f"{sequence.folder}: has {wanted[config.initial]} to place the first Gaussians; map it first "
        "(gs-semantic map FOLDER MAP --no-depth) and start from the map: initial=map initial_map=MAP"
    )


def _points_of_depth(frames: Sequence[Frame], seed: int) -> Points:
    random = np.random.default_rng(seed)
    share = max(1, CANDIDATE_POINTS // len(frames))
    xyz, rgb = [], []
    for frame in frames:
        if frame.depth is None:
            continue
        points = frame.camera.unproject(frame.depth)
        rows, columns = np.nonzero(np.isfinite(points[..., 2]))
        if len(rows) > share:
            chosen = random.choice(len(rows), share, replace=False)
            rows, columns = rows[chosen], columns[chosen]
        xyz.append(points[rows, columns])
        rgb.append(frame.rgb[rows, columns])
    return Points(np.concatenate(xyz), np.concatenate(rgb))


def _thinned(points: Points, config: TrainingConfig) -> Points:
    """At most ``initial_gaussians`` points: one per cell of a grid as fine as that allows."""
    finite = np.isfinite(points.xyz).all(axis=1)
    points = Points(points.xyz[finite], points.rgb[finite])
    if not len(points.xyz):
        raise InvalidInputError("no point to place a Gaussian at: depth images and reconstruction are empty")
    random = np.random.default_rng(config.seed)
    order = random.permutation(len(points.xyz))
    xyz, rgb = points.xyz[order], points.rgb[order]
    size = float(np.linalg.norm(xyz.max(0) - xyz.min(0)))
    low, high = size * 1e-5, size
    kept = np.arange(len(xyz))
    if len(xyz) > config.initial_gaussians:
        for _ in range(16):  # bisection of the cell's size
            cell = (low * high) ** 0.5
            first = _one_per_cell(xyz, cell)
            if len(first) > config.initial_gaussians:
                low = cell
            else:
                high, kept = cell, first
                if len(first) > 0.97 * config.initial_gaussians:
                    break
    return Points(xyz[kept], rgb[kept])


def _one_per_cell(xyz: np.ndarray, cell: float) -> np.ndarray:
    """Rising rows: the first point of every occupied cell."""
    places = ((xyz - xyz.min(0)) / max(cell, 1e-9)).astype(np.int64)
    wide = places.max(0) + 1
    key = (places[:, 0] * wide[1] + places[:, 1]) * wide[2] + places[:, 2]
    return np.sort(np.unique(key, return_index=True)[1])


def _leave_out_blind_views(scene: Scene) -> None:
    """Views in which none of the points lies: nothing could be learned from them."""
    assert scene.points is not None
    seeing = [view for view in scene.train if _sees(view.camera, scene.points.xyz)]
    blind = [view.name for view in scene.train if not any(view is other for other in seeing)]
    if len(seeing) < 2:
        raise InvalidInputError(
            f"{scene.name}: {len(seeing)} of {len(scene.train)} views see any of the first points; poses and points do "
            "not belong together (camera-to-world, OpenCV axes, metres are expected)"
        )
    if blind:
        scene.train = seeing
        scene.warnings.append(f"{len(blind)} views see none of the first points and are left out, first {blind[0]}")
    lost = [view.name for view in scene.held_out if not _sees(view.camera, scene.points.xyz)]
    if lost:
        scene.warnings.append(f"{len(lost)} held-out views do not overlap with the training views, first {lost[0]}")


def _sees(camera: Camera, xyz: np.ndarray) -> bool:
    pose = camera.T_camera_world
    local = xyz[:: max(1, len(xyz) // 20_000)] @ pose[:3, :3].T + pose[:3, 3]
    z = local[:, 2]
    front = z > NEAR_M
    u = camera.fx * local[front, 0] / z[front] + camera.cx
    v = camera.fy * local[front, 1] / z[front] + camera.cy
    return bool(((u > -0.5) & (u < camera.width - 0.5) & (v > -0.5) & (v < camera.height - 0.5)).any())


def first_gaussians(scene: Scene, config: TrainingConfig) -> GaussianMap:
    """A map of SH degree 0: the scene's points as balls that reach to their neighbours (3D Gaussian Splatting).

    Where the scene starts from a map: its five core attributes, with the keys of its Gaussians.
    """
    if scene.start is not None:
        known = scene.start
        gaussians = GaussianMap(known.sh_degree, known.map_id, known.frame_id)
        names: Iterable[str] = ("means", "quats", "log_scales", "opacity_logits", "sh", "uid", "keyframe")
        gaussians.add(**{name: known[name] for name in names})
        gaussians.continue_from(known.next_uid, known.revision)
        return gaussians
    assert scene.points is not None
    xyz, count = scene.points.xyz, len(scene.points.xyz)
    gaussians = GaussianMap()
    neighbours = min(4, count)  # the point itself among them
    distance = np.reshape(cKDTree(xyz).query(xyz, k=neighbours)[0], (count, neighbours))[:, 1:]
    spacing = np.sqrt(np.maximum((distance**2).mean(axis=1) if neighbours > 1 else np.ones(count) * 1e-4, 1e-7))
    logit = float(np.log(config.initial_opacity / (1 - config.initial_opacity)))
    gaussians.add(
        means=torch.from_numpy(xyz),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        log_scales=torch.from_numpy(np.log(spacing)).float()[:, None].expand(count, 3),
        opacity_logits=torch.full((count,), logit),
        sh=rgb_to_sh(torch.from_numpy(scene.points.rgb).float() / 255)[:, None, :],
    )
    return gaussians

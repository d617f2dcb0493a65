"""A small room with boxes, ray cast with numpy: exact colour, depth and instance ids for any pose."""

from __future__ import annotations

import numpy as np

from gs_semantic.gaussians import Camera, Frame, MaskInfo

ROOM = (np.array([-2.0, -2.0, 0.0]), np.array([2.0, 2.0, 2.4]))
BOXES = [  # low corner, high corner, instance id, class id
    (np.array([0.6, -0.5, 0.0]), np.array([1.2, 0.1, 0.7]), 2, 2),
    (np.array([0.4, 0.5, 0.0]), np.array([0.9, 1.0, 0.5]), 3, 2),
    (np.array([1.2, -1.6, 0.0]), np.array([1.9, -1.0, 1.1]), 4, 3),
]
WALLS = 1


def look_at(eye: tuple[float, float, float], target: tuple[float, float, float]) -> np.ndarray:
    """Camera-to-world pose in the optical frame (z forward, y down), world z up."""
    position = np.asarray(eye, float)
    forward = np.asarray(target, float) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(forward, right), forward, position
    return pose


def camera(step: float = 0.0, width: int = 160, height: int = 120) -> Camera:
    """The test camera after ``step`` metres of sideways motion."""
    pose = look_at((-1.4, -0.6 + step, 1.3), (1.0, -0.2 + 0.6 * step, 0.6))
    return Camera(width, height, 0.8 * width, 0.8 * width, (width - 1) / 2, (height - 1) / 2, pose)


def frame(view: Camera, stamp_ns: int = 0) -> Frame:
    """What the camera sees."""
    v, u = np.mgrid[0 : view.height, 0 : view.width]
    rays = np.stack([(u - view.cx) / view.fx, (v - view.cy) / view.fy, np.ones(u.shape)], -1) @ view.T_world_camera[:3, :3].T
    origin = view.T_world_camera[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = _slabs(origin, rays, *ROOM)
        depth, ids = far, np.full(far.shape, WALLS, np.int32)
        for low, high, instance, _ in BOXES:
            near, far = _slabs(origin, rays, low, high)
            hit = (near < far) & (near > 0) & (near < depth)
            depth = np.where(hit, near, depth)
            ids[hit] = instance
    points = origin + rays * depth[..., None]
    checker = (np.floor(points / 0.25 + 1e-3).astype(int).sum(-1) % 2)[..., None]
    base = np.array([[90, 90, 90], [170, 160, 140], [200, 60, 50], [60, 160, 70], [70, 80, 190]])[ids]
    rgb = np.clip(base * (0.85 + 0.15 * checker), 0, 255).astype(np.uint8)
    classes = {WALLS: 1, **{instance: class_id for _, _, instance, class_id in BOXES}}
    masks = {int(i): MaskInfo(classes[int(i)]) for i in np.unique(ids)}
    return Frame(stamp_ns, view, rgb, depth.astype(np.float32), ids, masks)


def _slabs(origin: np.ndarray, rays: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entry and exit depth of rays (z-normalised, so the parameter is depth) into an axis-aligned box."""
    a, b = (low - origin) / rays, (high - origin) / rays
    return np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)


def shuffled(source: Frame, seed: int) -> Frame:
    """The same frame with mask ids drawn anew."""
    ids = np.random.default_rng(seed).permutation(np.arange(10, 250))
    table = np.zeros(256, np.int32)
    table[1:8] = ids[:7]
    masks = {int(table[i]): info for i, info in source.masks.items()}
    assert source.instances is not None
    return Frame(source.stamp_ns, source.camera, source.rgb, source.depth, table[source.instances], masks)

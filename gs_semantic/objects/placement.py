"""Where to stand to reach an object, and what stands on another: the small geometry that planners' nodes need.

z is up. Boxes are those of ``MapObject`` and ``ObjectView``: oriented, in the map frame, metres.
"""

from __future__ import annotations

import numpy as np

from gs_semantic.errors import InvalidRequestError, NothingThereError
from gs_semantic.objects.regions import PrismShape, Region
from gs_semantic.objects.registry import Box

DIRECTIONS = 36  # poses tried around an object
OWN_M = 0.05  # what is so near to the box belongs to the object
REACH_M = 0.1  # half width of the way to the object that must be free
STEP_OVER_M = 0.05  # what is lower above the floor than this is no obstacle
SINKS_M = 0.03  # an object on a table may reach so far below the table's top


def footprint(box: Box) -> np.ndarray:
    """The four corners (4, 2) of an upright box on the floor, in order."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * box.size[:2]
    return box.centre[:2] + corners @ box.rotation[:2, :2].T


def above(box: Box, height: float) -> Region:
    """What is on top of a box, up to ``height`` m above it: the region to ask for what stands on a table."""
    top = float(box.centre[2] + box.size[2] / 2)
    return Region(PrismShape(footprint(box), top - SINKS_M, height + SINKS_M))


def around(box: Box, reach: float, floor: float, height: float) -> Region:
    """The space within ``reach`` m of a box, from ``floor`` up to ``height`` above it: where a robot may stand."""
    low = box.centre[:2] - np.abs(box.rotation[:2, :2]) @ box.size[:2] / 2 - reach
    high = box.centre[:2] + np.abs(box.rotation[:2, :2]) @ box.size[:2] / 2 + reach
    corners = np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
    return Region(PrismShape(corners, floor + STEP_OVER_M, height))


def approach(
    box: Box, obstacles: np.ndarray, robot_radius: float, distance: float = 0.3, start: np.ndarray | None = None
) -> np.ndarray:
    """Pose (4, 4) on the floor from which a robot faces an object, on the free side that is nearest to ``start`` (2,).

    obstacles: points (N, 3) at heights where the robot could hit them, such as the Gaussians in ``around``; the robot's
    centre keeps ``robot_radius`` from them and stands ``distance`` + ``robot_radius`` from the box, with nothing in between
    (what lies in the box's own footprint does not count). Without ``start`` the
    most open side is taken. NothingThereError when every side is blocked.
    """
    if not (robot_radius > 0 and distance >= 0):
        raise InvalidRequestError(f"robot_radius {robot_radius} and distance {distance}: expected lengths, m")
    angle = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    outward = np.column_stack([np.cos(angle), np.sin(angle)])
    local = outward @ box.rotation[:2, :2]
    edge = np.min(box.size[:2] / 2 / np.maximum(np.abs(local), 1e-9), axis=1)  # from the centre to the box's border
    places = box.centre[:2] + outward * (edge + distance + robot_radius)[:, None]
    points = np.asarray(obstacles, np.float64).reshape(-1, 3)[:, :2]
    own = (np.abs((points - box.centre[:2]) @ box.rotation[:2, :2]) <= box.size[:2] / 2 + OWN_M).all(axis=1)
    points = points[~own]
    clearance = np.full(DIRECTIONS, np.inf)
    for number, (place, out) in enumerate(zip(places, outward, strict=True)):
        if len(points):
            along = np.clip((place - points) @ out, 0, distance + robot_radius)  # from the place towards the object
            between = np.linalg.norm(place - along[:, None] * out - points, axis=1).min() < REACH_M
            clearance[number] = -1.0 if between else np.linalg.norm(points - place, axis=1).min()
    free = np.flatnonzero(clearance >= robot_radius)
    if not len(free):
        raise NothingThereError(
            f"every side is blocked: none of {DIRECTIONS} places at {distance} m has {robot_radius} m around it"
        )
    cost = -np.minimum(clearance, 10.0) if start is None else np.linalg.norm(places - np.asarray(start)[:2], axis=1)
    best = int(free[np.argmin(cost[free])])
    pose = np.eye(4)
    forward = -outward[best]
    pose[:2, 0], pose[:2, 1] = forward, [-forward[1], forward[0]]
    pose[:2, 3] = places[best]
    pose[2, 3] = box.centre[2] - box.size[2] / 2
    return pose


def padded(box: Box, clearance: float) -> Box:
    """The box with ``clearance`` m more on every side."""
    if not clearance >= 0:
        raise InvalidRequestError(f"clearance {clearance}: expected 0 m or more")
    return Box(box.centre, box.size + 2 * clearance, box.rotation)

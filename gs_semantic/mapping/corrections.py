"""Corrections of a pose graph, as motions of all keyframes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from gs_semantic.errors import InvalidRequestError

RIGID = 1e-6


def motions(trail: Mapping[int, tuple[int, np.ndarray]], poses: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Motion (4, 4) in the world of every keyframe, by its number.

    trail: number -> stamp in ns, pose (4, 4); poses: stamp -> corrected pose. The motion at a stamp in between is
    interpolated; before the first and after the last it is theirs. InvalidRequestError names a stamp that is no
    keyframe's, or a pose that is not rigid.
    """
    if not poses:
        raise InvalidRequestError("no pose is given")
    of_stamp = {stamp: pose for stamp, pose in trail.values()}
    for stamp, pose in poses.items():
        if stamp not in of_stamp:
            nearest = min(of_stamp, key=lambda known: abs(known - stamp), default=None)
            hint = "none was taken yet" if nearest is None else f"the nearest one's is {nearest / 1e9:.6f} s"
            raise InvalidRequestError(f"stamp {stamp / 1e9:.6f} s is not that of a keyframe; {hint}")
        rotation = pose[:3, :3]
        if not (np.isfinite(pose).all() and np.allclose(rotation @ rotation.T, np.eye(3), atol=RIGID)):
            raise InvalidRequestError(f"pose at {stamp / 1e9:.6f} s: expected a rigid matrix of finite numbers")
    stamps = np.array(sorted(poses))
    given = np.stack([poses[int(stamp)] @ np.linalg.inv(of_stamp[int(stamp)]) for stamp in stamps])
    keys = list(trail)
    when = np.clip([trail[key][0] for key in keys], stamps[0], stamps[-1])
    out = np.tile(np.eye(4), (len(keys), 1, 1))
    if len(stamps) == 1:
        out[:] = given[0]
    else:
        seconds, at = (stamps - stamps[0]) / 1e9, (when - stamps[0]) / 1e9
        out[:, :3, :3] = Slerp(seconds, Rotation.from_matrix(given[:, :3, :3]))(at).as_matrix()
        # where the camera goes, not how far the origin of the world is carried around it
        places = np.stack([trail[key][1][:3, 3] for key in keys])
        shifts = np.stack([poses[int(s)][:3, 3] - of_stamp[int(s)][:3, 3] for s in stamps])
        moved = places + np.stack([np.interp(at, seconds, shifts[:, axis]) for axis in range(3)], axis=1)
        out[:, :3, 3] = moved - np.einsum("nij,nj->ni", out[:, :3, :3], places)
    return dict(zip(keys, out, strict=True))

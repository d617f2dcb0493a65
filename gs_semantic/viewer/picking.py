"""Which object is at a place of the view? The rasteriser answers, from the splats that are looked at."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from gs_semantic.gaussians import Camera
from gs_semantic.gaussians.camera import looking_along
from gs_semantic.objects.splats import map_of_splats
from gs_semantic.rendering import RasterSettings, create_rasterizer
from gs_semantic.viewer.appearance import visible

RAY_PX, RAY_FOCAL_PX = 9, 500.0  # a click is a tiny image along its ray: one pixel is 2 mrad wide


class Picker:
    """Draws ids of one set of splats ``SPLAT`` (N,); objects in ``hidden`` are not there."""

    def __init__(self, splats: np.ndarray, hidden: Collection[int] = ()) -> None:
        self._gaussians, self._ids = map_of_splats(splats[visible(splats, hidden)])
        self._rasterizer = create_rasterizer("auto", RasterSettings(eps2d=0.01))

    def ids(self, camera: Camera) -> np.ndarray:
        """Persistent object ids uint64 (H, W), 0 = none."""
        if not len(self._gaussians):
            return np.zeros((camera.height, camera.width), np.uint64)
        return self._ids[self._rasterizer.render_ids(self._gaussians, camera, self._gaussians["object"]).ids.numpy()]

    def along(self, origin: np.ndarray, direction: np.ndarray) -> int:
        """Id of the object that a ray meets first, 0 = none; both (3,), m, in the frame of the splats."""
        middle = RAY_PX // 2
        pose = looking_along(np.asarray(origin, float), np.asarray(direction, float) / np.linalg.norm(direction))
        camera = Camera(RAY_PX, RAY_PX, RAY_FOCAL_PX, RAY_FOCAL_PX, float(middle), float(middle), pose)
        return int(self.ids(camera)[middle, middle])

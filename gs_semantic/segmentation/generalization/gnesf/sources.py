"""Source views as stacked tensors; points projected into them, and maps read where they fall."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera
from gs_semantic.rendering import native

NEAR_M = 1e-3  # what is nearer is not before the camera


@dataclass(frozen=True)
class SourceViews:
    """V posed pinhole cameras of one image size (width, height). focal, principal (V,2) px, with pixel centres at
    integers; rotation (V,3,3), translation (V,3): world to camera; centres (V,3) in the world frame, metres."""

    size: tuple[int, int]
    focal: torch.Tensor
    principal: torch.Tensor
    rotation: torch.Tensor
    translation: torch.Tensor
    centres: torch.Tensor

    @classmethod
    def of(cls, cameras: Sequence[Camera]) -> SourceViews:
        """InvalidInputError: no camera, or images of several sizes."""
        sizes = {(camera.width, camera.height) for camera in cameras}
        if len(sizes) != 1:
            raise InvalidInputError(
                f"{len(cameras)} source views with sizes {sorted(sizes)}: expected one view or more, all of one size"
            )
        poses = np.stack([camera.T_camera_world for camera in cameras])
        return cls(
            sizes.pop(),
            _tensor([[camera.fx, camera.fy] for camera in cameras]),
            _tensor([[camera.cx, camera.cy] for camera in cameras]),
            _tensor(poses[:, :3, :3]),
            _tensor(poses[:, :3, 3]),
            _tensor([camera.T_world_camera[:3, 3] for camera in cameras]),
        )

    def __len__(self) -> int:
        return len(self.focal)

    def __getitem__(self, index: torch.Tensor | list[int]) -> SourceViews:
        parts = (self.focal, self.principal, self.rotation, self.translation, self.centres)
        return SourceViews(self.size, *(part[index] for part in parts))

    def to(self, device: torch.device | str) -> SourceViews:
        parts = (self.focal, self.principal, self.rotation, self.translation, self.centres)
        return SourceViews(self.size, *(part.to(device) for part in parts))

    def camera_struct(self, index: int) -> native.CameraStruct:
        """One of the cameras for the native kernels, which count pixels from the image's corner."""
        numbers = [getattr(self, name)[index].flatten().tolist() for name in ("rotation", "translation")]
        rotation, translation = (ctypes.c_float * 9)(*numbers[0]), (ctypes.c_float * 3)(*numbers[1])
        centre = [place + 0.5 for place in self.principal[index].tolist()]
        return native.CameraStruct(rotation, translation, *self.focal[index].tolist(), *centre, *self.size)

    def project(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixel places (V,P,2) and depths z (V,P) m of world points (P,3)."""
        local = torch.einsum("vij,pj->vpi", self.rotation, points) + self.translation[:, None]
        z = local[..., 2]
        safe = torch.where(z > NEAR_M, z, torch.ones_like(z))
        return self.focal[:, None] * local[..., :2] / safe[..., None] + self.principal[:, None], z

    def inside(self, places: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """bool (V,P): in front of the camera and within the image."""
        u, v = places[..., 0], places[..., 1]
        width, height = self.size
        return (z > NEAR_M) & (u > -0.5) & (v > -0.5) & (u < width - 0.5) & (v < height - 0.5)

    def read(self, maps: torch.Tensor, places: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        """Values (V,P,C) of maps (V,C,h,w), which cover the whole image at any resolution, at pixel places (V,P,2)."""
        scale = torch.tensor(self.size, dtype=places.dtype, device=places.device)
        grid = (places + 0.5) / scale * 2 - 1
        found = F.grid_sample(maps, grid[:, None], mode=mode, padding_mode="border", align_corners=False)
        return found[:, :, 0].transpose(1, 2)


def _tensor(values: object) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))

"""The central types: cameras, frames and the map; reading and writing them."""

from gs_semantic.gaussians.camera import Camera
from gs_semantic.gaussians.frame import Frame, MaskInfo
from gs_semantic.gaussians.gaussian_map import GaussianMap

__all__ = ["Camera", "Frame", "GaussianMap", "MaskInfo"]

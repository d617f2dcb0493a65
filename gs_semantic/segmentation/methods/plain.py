"""3D Gaussian Splatting without identities: the measure of what identities cost in colour."""

from __future__ import annotations

from gs_semantic.segmentation.method import LiftingMethod
from gs_semantic.segmentation.registry import register


@register
class PlainSplatting(LiftingMethod):
    """Colour and geometry alone."""

    name = "plain"
    summary = "3D Gaussian Splatting without identities"

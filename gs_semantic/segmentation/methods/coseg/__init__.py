"""CoSegGaussians (arXiv 2401.05925): unprojected features, spatial features, one small decoder for all Gaussians."""

from gs_semantic.segmentation.methods.coseg.method import CoSegGaussians

__all__ = ["CoSegGaussians"]

"""Training per scene: methods that lift 2D masks into a Gaussian map by optimisation (docs/training.md)."""

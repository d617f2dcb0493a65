"""Sources of 2D masks: geometric (RGB-D, without weights) and models of the transformers library."""

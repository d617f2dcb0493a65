"""GNeSF: generalisable semantic fields by soft voting over views (https://arxiv.org/abs/2310.15712), and on Gaussians."""

"""RT-GS2 (https://arxiv.org/abs/2405.18033): semantics and depth of Gaussian scenes that nobody labelled, in real time.

``point_transformer`` gives every Gaussian 32 numbers once a scene, trained without labels by ``contrastive``; they are
drawn into each view together with colour, and ``network`` makes of both one label image. ``view_fusion`` brings the
answers of many views back into the Gaussians, so that they no longer change with the view.
"""

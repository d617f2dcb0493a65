"""The two encoders of RT-GS2's 2D network, of blocks of the transformers library: ConvNeXt and MiT (SegFormer)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from gs_semantic.segmenters.weights import Weights
from gs_semantic.segmenters.weights import transformers as transformers_library


class ImageEncoder(nn.Module):
    """ConvNeXt (https://arxiv.org/abs/2201.03545): colour (B,3,H,W) to four maps at 1/4, 1/8, 1/16 and 1/32 of the size.

    weights: a pretrained ConvNeXt of these widths, from a folder or the user's cache.
    """

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], drop_path: float, weights: Weights | None = None
    ) -> None:
        super().__init__()
        library = transformers_library()
        config = library.ConvNextConfig(
            hidden_sizes=list(widths), depths=list(depths), drop_path_rate=drop_path, layer_scale_init_value=1e-6
        )
        model = library.ConvNextModel(config)
        if weights is not None:
            model.load_state_dict(weights.load("ConvNextModel", "cpu").state_dict())
        self.embeddings, self.stages = model.embeddings, model.encoder.stages

    def forward(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
        x = self.embeddings(image)
        for stage in self.stages:
            x = stage(x)
            yield x


class FeatureStage(nn.Module):
    """One stage of MiT (https://arxiv.org/abs/2105.15203): (B,C,H,W) to (B,width,H/stride,W/stride)."""

    def __init__(
        self, channels: int, width: int, depth: int, heads: int, reduction: int, patch: int, stride: int
    ) -> None:
        super().__init__()
        library = transformers_library()
        parts = library.models.segformer.modeling_segformer
        config = library.SegformerConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, drop_path_rate=0.0)
        config._attn_implementation = "sdpa" if hasattr(parts, "ALL_ATTENTION_FUNCTIONS") else "eager"
        self.embed = parts.SegformerOverlapPatchEmbeddings(patch, stride, channels, width)
        self.blocks = nn.ModuleList(
            parts.SegformerLayer(
                config,
                hidden_size=width,
                num_attention_heads=heads,
                drop_path=0.0,
                sequence_reduction_ratio=reduction,
                mlp_ratio=4,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, height, width = self.embed(x)
        for block in self.blocks:
            x = block(x, height, width)
            if isinstance(x, tuple):  # the library before version 5
                x = x[0]
        return self.norm(x).transpose(1, 2).reshape(len(x), -1, height, width)


def feature_stages(
    channels: int, widths: Sequence[int], depths: Sequence[int], heads: Sequence[int], averaged: bool = False
) -> Iterator[FeatureStage]:
    """The four stages of an MiT whose first one reads ``channels`` channels, at the image's size or, ``averaged``, at a
    quarter of it."""
    inputs = (channels, *widths)
    for index, (width, depth, head) in enumerate(zip(widths, depths, heads, strict=True)):
        patch, stride = (3, 2) if index else (3, 1) if averaged else (7, 4)
        yield FeatureStage(inputs[index], width, depth, head, 8 >> index, patch, stride)

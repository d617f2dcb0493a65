"""Point Transformer V3 (https://arxiv.org/abs/2312.10035) in plain PyTorch: 10 numbers per Gaussian in, 32 out.

An encoder and a decoder over grids of growing cells. At each of them points attend to each other within patches along a
space-filling curve; which curve changes from block to block. A sparse convolution tells a point where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from gs_semantic.segmentation.generalization.rt_gs2.pyramid import Level, Pyramid, build_pyramid
from gs_semantic.segmentation.generalization.rt_gs2.serialization import ORDERS, grid_cells, patch_rows
from gs_semantic.segmentation.generalization.rt_gs2.sparse import Neighbours, SubmanifoldConv

ATTENTION_POINTS = 1 << 16  # points of patches that attend in one call
STEM_KERNEL, POSITION_KERNEL = 5, 3
# of positions (m), colours, opacity and log scales (of metres) of Gaussians in rooms, about
INPUT_MIDDLES = (0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, -4.5, -4.5, -4.5)
INPUT_SPREADS = (3.0, 3.0, 3.0, 0.2, 0.2, 0.2, 0.3, 0.7, 0.7, 0.7)


@dataclass(frozen=True)
class PointTransformerConfig:
    """Sizes; the defaults are those of RT-GS2 (its published configuration of Point Transformer V3).

    The decoder's widths run from fine to coarse; the first of them is the number of features. grid_m: finest cells, m.
    standardise: inputs are brought to like spreads first, by constants; without, as the published code has it, positions
    and log scales drown the colours for long. norm_momentum: of the running means of batch norms; the published one suits
    runs of ten thousands of iterations.
    """

    in_channels: int = 10
    encoder_depths: tuple[int, ...] = (2, 2, 2, 6, 2)
    encoder_channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    encoder_heads: tuple[int, ...] = (2, 4, 8, 16, 32)
    decoder_depths: tuple[int, ...] = (2, 2, 2, 2)
    decoder_channels: tuple[int, ...] = (32, 64, 128, 256)
    decoder_heads: tuple[int, ...] = (4, 4, 8, 16)
    patch: int = 1024
    mlp_ratio: int = 4
    drop_path: float = 0.3
    grid_m: float = 0.07
    orders: tuple[str, ...] = ORDERS
    standardise: bool = False
    norm_momentum: float = 0.01

    def __post_init__(self) -> None:
        stages = len(self.encoder_channels)
        encoder = {len(self.encoder_depths), len(self.encoder_heads), stages}
        decoder = {len(self.decoder_depths), len(self.decoder_channels), len(self.decoder_heads), stages - 1}
        if len(encoder) > 1 or len(decoder) > 1:
            raise ValueError("encoder sizes need one value a stage, decoder sizes one less")

    @property
    def features(self) -> int:
        return self.decoder_channels[0]

    @classmethod
    def small(cls) -> PointTransformerConfig:
        """Trains and runs on two CPU cores."""
        return cls(
            encoder_depths=(1, 1, 2, 1),
            encoder_channels=(32, 48, 96, 128),
            encoder_heads=(2, 3, 6, 8),
            decoder_depths=(1, 1, 1),
            decoder_channels=(32, 48, 96),
            decoder_heads=(2, 3, 6),
            patch=256,
            mlp_ratio=2,
            drop_path=0.1,
            standardise=True,
            norm_momentum=0.1,
        )


class PointTransformer(nn.Module):
    """``model(xyz, features)`` (N,3) m, (N,in_channels) -> (N,32). Not normalised: the length of a vector is free."""

    def __init__(self, config: PointTransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PointTransformerConfig()
        width = config.encoder_channels
        self.stem = _Stem(config.in_channels, width[0])
        middle, spread = torch.tensor(INPUT_MIDDLES), torch.tensor(INPUT_SPREADS)
        self.register_buffer("middle", middle if config.standardise else torch.zeros_like(middle), persistent=False)
        self.register_buffer("spread", spread if config.standardise else torch.ones_like(spread), persistent=False)
        self.middle: torch.Tensor
        self.spread: torch.Tensor
        rates = torch.linspace(0, config.drop_path, sum(config.encoder_depths)).tolist()
        self.encoder = nn.ModuleList()
        self.pools = nn.ModuleList()
        for stage, depth in enumerate(config.encoder_depths):
            if stage:
                self.pools.append(_GridPool(width[stage - 1], width[stage]))
            blocks = [_Block(width[stage], config.encoder_heads[stage], rates.pop(0), config) for _ in range(depth)]
            self.encoder.append(nn.ModuleList(blocks))
        rates = torch.linspace(0, config.drop_path, sum(config.decoder_depths)).tolist()
        self.decoder = nn.ModuleList()
        self.unpools = nn.ModuleList()
        coarse = (*config.decoder_channels[1:], width[-1])
        for stage, depth in enumerate(config.decoder_depths):
            out = config.decoder_channels[stage]
            self.unpools.append(_GridUnpool(coarse[stage], width[stage], out))
            start = sum(config.decoder_depths[:stage])
            self.decoder.append(
                nn.ModuleList(
                    _Block(out, config.decoder_heads[stage], rates[start + index], config) for index in range(depth)
                )
            )

        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = config.norm_momentum

    def pyramid(self, xyz: torch.Tensor) -> Pyramid:
        """Where points (N,3) m are; may be kept for as long as they stay there."""
        config = self.config
        return build_pyramid(grid_cells(xyz, config.grid_m), len(config.encoder_channels), STEM_KERNEL, config.orders)

    def forward(self, xyz: torch.Tensor, features: torch.Tensor, pyramid: Pyramid | None = None) -> torch.Tensor:
        pyramid = pyramid or self.pyramid(xyz)
        levels = pyramid.levels
        x = self.stem((features - self.middle) / self.spread, levels[0], pyramid.stem)
        skips = []
        for stage, blocks in enumerate(self.encoder):
            if stage:
                skips.append(x)
                x = self.pools[stage - 1](x, levels[stage - 1])
            x = self._run(blocks, x, levels[stage])
        for stage in reversed(range(len(self.decoder))):
            x = self.unpools[stage](x, skips[stage], levels[stage])
            x = self._run(self.decoder[stage], x, levels[stage])
        return x

    def _run(self, blocks: nn.Module, x: torch.Tensor, level: Level) -> torch.Tensor:
        """Blocks in turn on the curves, which are shuffled while training."""
        curves = len(level.orders)
        turn = torch.randperm(curves).tolist() if self.training else range(curves)
        for index, block in enumerate(blocks.children()):
            x = block(x, level, level.orders[turn[index % curves]])
        return x


def _batch_norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=1e-3)


class _Stem(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = SubmanifoldConv(in_channels, out_channels, STEM_KERNEL, bias=False)
        self.norm = _batch_norm(out_channels)

    def forward(self, x: torch.Tensor, level: Level, neighbours: Neighbours) -> torch.Tensor:
        return F.gelu(self.norm(self.conv(x, neighbours, level.cell_of, level.cell_size)))


class _Block(nn.Module):
    """Position, attention along a curve, MLP; each added to what comes in."""

    def __init__(self, channels: int, heads: int, drop_path: float, config: PointTransformerConfig) -> None:
        super().__init__()
        self.position = SubmanifoldConv(channels, channels, POSITION_KERNEL)
        self.position_out = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = _PatchAttention(channels, heads, config.patch)
        hidden = config.mlp_ratio * channels
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.drop_path = drop_path

    def forward(self, x: torch.Tensor, level: Level, order: torch.Tensor) -> torch.Tensor:
        x = x + self.position_out(self.position(x, level.neighbours, level.cell_of, level.cell_size))
        x = x + self._dropped(self.attention(self.norm1(x), order))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _dropped(self, branch: torch.Tensor) -> torch.Tensor:
        """Stochastic depth, by the cloud."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * (float(torch.rand(()) < keep) / keep)


class _PatchAttention(nn.Module):
    """Self-attention among ``patch`` points that follow each other on a curve."""

    def __init__(self, channels: int, heads: int, patch: int) -> None:
        super().__init__()
        self.heads, self.patch = heads, patch
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        rows, own = patch_rows(len(x), self.patch, x.device)
        size, channels = rows.shape[1], x.shape[1]
        step = max(1, ATTENTION_POINTS // size)
        parts = []
        for chunk in rows.split(step):
            sorted_rows = order[chunk.reshape(-1)]
            qkv = self.qkv(x[sorted_rows]).reshape(len(chunk), size, 3, self.heads, channels // self.heads)
            query, key, value = qkv.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(query, key, value)
            parts.append(mixed.transpose(1, 2).reshape(-1, channels))
        answer = torch.cat(parts)[own]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return self.out(answer[back])


class _GridPool(nn.Module):
    """To the next coarser level: the largest value among the points of a cell."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)
        self.norm = _batch_norm(out_channels)

    def forward(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        assert level.parent is not None
        x = self.linear(x).float()
        index = level.parent[:, None].expand_as(x)
        pooled = x.new_zeros(level.parents, x.shape[1]).scatter_reduce(0, index, x, "amax", include_self=False)
        return F.gelu(self.norm(pooled))


class _GridUnpool(nn.Module):
    """Back to the finer level: the coarse features of a point's cell, added to its own of before."""

    def __init__(self, coarse: int, fine: int, out_channels: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(nn.Linear(coarse, out_channels), _batch_norm(out_channels), nn.GELU())
        self.fine = nn.Sequential(nn.Linear(fine, out_channels), _batch_norm(out_channels), nn.GELU())

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor, level: Level) -> torch.Tensor:
        assert level.parent is not None
        return self.fine(fine) + self.coarse(coarse)[level.parent]

"""The two-slot vote of object ids as a Triton kernel, over gsplat's tile lists. One program per tile, a pixel per lane."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gs_semantic.rendering.base import RasterSettings

TILE = 8  # pixels, as in the tile lists
STEP = 8  # splats between two looks at whether the tile is decided


@triton.jit
def _vote_kernel(
    means2d,
    conics,
    depths,
    opacities,
    ids,
    starts,
    flatten_ids,
    winner,
    confidence,
    depth_image,
    width,
    height,
    tiles_x,
    alpha_min,
    alpha_max,
    transmittance_min,
    rest,
    SIDE: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    tile = tl.program_id(0)
    lane = tl.arange(0, SIDE * SIDE)
    x = (tile % tiles_x) * SIDE + lane % SIDE
    y = (tile // tiles_x) * SIDE + lane // SIDE
    inside = (x < width) & (y < height)
    fx, fy = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
    alive = inside
    T = tl.full([SIDE * SIDE], 1.0, tl.float32)
    w0, w1 = tl.zeros([SIDE * SIDE], tl.float32), tl.zeros([SIDE * SIDE], tl.float32)
    z, covered = tl.zeros([SIDE * SIDE], tl.float32), tl.zeros([SIDE * SIDE], tl.float32)
    id0, id1 = tl.zeros([SIDE * SIDE], tl.int32), tl.zeros([SIDE * SIDE], tl.int32)
    i = tl.load(starts + tile)
    end = tl.load(starts + tile + 1)
    while i < end:
        for k in tl.static_range(AT_ONCE):
            there = i + k < end
            g = tl.load(flatten_ids + i + k, mask=there, other=0).to(tl.int64)
            dx = tl.load(means2d + 2 * g) - fx
            dy = tl.load(means2d + 2 * g + 1) - fy
            a, b, c = tl.load(conics + 3 * g), tl.load(conics + 3 * g + 1), tl.load(conics + 3 * g + 2)
            sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            alpha = tl.minimum(tl.load(opacities + g) * tl.exp(-sigma), alpha_max)
            drawn = alive & there & (sigma >= 0) & (alpha >= alpha_min)
            after = T * (1 - alpha)
            finished = drawn & (after <= transmittance_min)
            alive = alive & (finished == 0)
            drawn = drawn & (finished == 0)
            w = tl.where(drawn, alpha * T, 0.0)
            T = tl.where(drawn, after, T)
            z += w * tl.load(depths + g)
            covered += w
            # A slot with the same id takes the weight; else the weaker slot goes to the new id if that is heavier.
            own = tl.load(ids + g)
            in0 = id0 == own
            in1 = (in0 == 0) & (id1 == own)
            w0 += tl.where(in0, w, 0.0)
            w1 += tl.where(in1, w, 0.0)
            replace = (in0 == 0) & (in1 == 0) & (w > w1)
            w1 = tl.where(replace, w, w1)
            id1 = tl.where(replace, own, id1)
            swap = w1 > w0
            w0, w1 = tl.where(swap, w1, w0), tl.where(swap, w0, w1)
            id0, id1 = tl.where(swap, id1, id0), tl.where(swap, id0, id1)
        # A pixel is decided when what is left of its transmittance is little and cannot turn the vote.
        undecided = alive & ((T > rest) | (T + w1 > w0))
        i = tl.where(tl.max(undecided.to(tl.int32), axis=0) > 0, i + AT_ONCE, end)
    at = y * width + x
    tl.store(winner + at, id0, mask=inside)
    tl.store(confidence + at, w0, mask=inside)
    tl.store(depth_image + at, tl.where(covered > 0, z / tl.where(covered > 0, covered, 1.0), 0.0), mask=inside)


def vote(
    means2d: torch.Tensor,
    conics: torch.Tensor,
    depths: torch.Tensor,
    opacities: torch.Tensor,
    ids: torch.Tensor,
    offsets: torch.Tensor,
    flatten_ids: torch.Tensor,
    width: int,
    height: int,
    settings: RasterSettings,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids int32 (H,W), confidence (H,W), depth (H,W) m.

    means2d (N,2) pixels, conics (N,3), depths (N,) m, opacities (N,), ids int32 (N,); offsets int32 (tiles_y, tiles_x) into
    flatten_ids int32, the rows of each tile front to back. All on one device.
    """
    tiles_y, tiles_x = offsets.shape
    end = offsets.new_tensor([len(flatten_ids)])
    starts = torch.cat([offsets.reshape(-1), end]).to(torch.int32)
    winner = torch.empty(height, width, dtype=torch.int32, device=ids.device)
    confidence, depth = torch.empty(height, width, device=ids.device), torch.empty(height, width, device=ids.device)
    _vote_kernel[(tiles_x * tiles_y,)](
        *(means2d.contiguous(), conics.contiguous(), depths.contiguous(), opacities.contiguous(), ids.contiguous()),
        *(starts, flatten_ids.contiguous(), winner, confidence, depth, width, height, tiles_x),
        *(settings.alpha_min, settings.alpha_max, settings.transmittance_min, settings.vote_rest),
        SIDE=TILE,
        AT_ONCE=STEP,
        num_warps=2,
    )
    return winner, confidence, depth

"""Images as models want them, and masks of many kinds as one image of mask numbers. Needs torch only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gs_semantic.gaussians import MaskInfo
from gs_semantic.segmenters.base import Segmentation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalised(rgb: np.ndarray, size: tuple[int, int], preprocessing: dict[str, Any], device: str) -> torch.Tensor:
    """float32 (1, 3, *size) of an image uint8 (H, W, 3), resized and normalised; mean and std as the model says."""
    mean = torch.tensor(preprocessing.get("image_mean") or IMAGENET_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.get("image_std") or IMAGENET_STD, device=device).view(1, 3, 1, 1)
    # a copy: arrays of messages cannot be written to, which torch does not like
    pixels = torch.from_numpy(rgb.copy()).to(device).permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
    return (resized / 255 - mean) / std


def fitted_size(
    height: int, width: int, preprocessing: dict[str, Any], default: int, limit: int, multiple: int = 32
) -> tuple[int, int]:
    """Height and width for a model that takes any size: the shorter side as it was trained with, the longer one within
    its limit, both rounded to ``multiple`` (instead of padding)."""
    size = preprocessing.get("size") or {}
    if isinstance(size, int):
        size = {"shortest_edge": size}
    shortest, longest = size.get("shortest_edge") or default, size.get("longest_edge") or limit
    scale = min(shortest / min(height, width), longest / max(height, width))
    tall, wide = (max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))
    return tall, wide


def box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU (N, M) of boxes (N, 4) and (M, 4), each x1 y1 x2 y2."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).clamp(min=0).prod(dim=1) for box in (a, b))
    return shared / (area_a[:, None] + area_b[None] - shared).clamp(min=1e-9)


def suppressed(boxes: torch.Tensor, scores: torch.Tensor, limit: float) -> torch.Tensor:
    """Indices of the boxes that stay, best first: none overlaps a better one by more than ``limit`` (IoU)."""
    order = scores.argsort(descending=True, stable=True)
    overlap = (box_iou(boxes[order], boxes[order]) > limit).cpu().numpy()
    kept: list[int] = []
    gone = np.zeros(len(order), bool)
    for i in range(len(order)):
        if not gone[i]:
            kept.append(i)
            gone |= overlap[i]
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


def mask_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Boxes (N, 4) x1 y1 x2 y2, float32, around bool masks (N, H, W); zeros for an empty one."""
    boxes = []
    for axis in (1, 2):  # over rows: columns that are hit; over columns: rows
        hit = masks.any(dim=axis)
        count = hit.shape[1]
        first = hit.float().argmax(dim=1)
        last = count - hit.flip(1).float().argmax(dim=1)
        boxes.append(torch.stack([first, last]) * hit.any(dim=1))
    (x1, x2), (y1, y2) = boxes
    return torch.stack([x1, y1, x2, y2], dim=1).float()


def stability(logits: torch.Tensor, offset: float) -> torch.Tensor:
    """How little each mask (N, H, W) changes between the thresholds +offset and -offset: IoU of the two (N,)."""
    inner = (logits > offset).sum(dim=(1, 2)).float()
    outer = (logits > -offset).sum(dim=(1, 2)).float()
    return inner / outer.clamp(min=1)


def painted(
    logits: torch.Tensor, scores: Sequence[float], classes: Sequence[int], size: tuple[int, int], least_px: int
) -> Segmentation:
    """One label image (height, width) of overlapping mask logits (N, h, w): larger masks first, smaller ones on top.

    Masks that keep fewer than ``least_px`` pixels are left out.
    """
    instances = np.zeros(size, np.int32)
    if len(logits) == 0:
        return Segmentation(instances)
    areas = (logits > 0).sum(dim=(1, 2)).cpu().numpy()
    for number in np.argsort(-areas, kind="stable"):
        full = F.interpolate(logits[None, number : number + 1].float(), size=size, mode="bilinear", align_corners=False)
        instances[(full[0, 0] > 0).cpu().numpy()] = number + 1
    return numbered(instances, scores, classes, least_px)


def numbered(instances: np.ndarray, scores: Sequence[float], classes: Sequence[int], least_px: int) -> Segmentation:
    """Mask numbers made dense, small masks removed; ``scores`` and ``classes`` are those of the numbers 1, 2, ..."""
    pixels = np.bincount(instances.ravel(), minlength=len(scores) + 1)
    table = np.zeros(len(pixels), np.int32)
    masks: dict[int, MaskInfo] = {}
    for number in range(1, len(pixels)):
        if pixels[number] >= max(1, least_px):
            table[number] = len(masks) + 1
            masks[len(masks) + 1] = MaskInfo(int(classes[number - 1]), float(scores[number - 1]))
    return Segmentation(table[instances], masks)

"""Furniture made of simple bodies: for every class a builder whose sizes, legs, cushions, doors, ... vary with a design.

A piece stands on z = 0 around the origin, with its back towards -y. Whoever places it turns and moves its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """A body of ``gs_semantic.data.shapes`` in the frame of its piece. material: which of the piece's textures."""

    kind: str
    centre: Vector
    half: Vector
    material: int = 0
    yaw: float = 0.0


@dataclass(frozen=True)
class Piece:
    """Parts of one object, and the size (width x, depth y, height z) m of the box that holds them.

    tops: heights m of level places (x, y, z, radius) on which smaller things may stand.
    """

    kind: str
    parts: tuple[Part, ...]
    size: Vector
    tops: tuple[tuple[float, float, float, float], ...] = ()


Rng = np.random.Generator


def _box(x: float, y: float, z: float, w: float, d: float, h: float, material: int = 0) -> Part:
    """A box by its middle in x and y, its lower side z, and its full extents."""
    return Part("box", (x, y, z + h / 2), (w / 2, d / 2, h / 2), material)


def _round(kind: str, x: float, y: float, z: float, radius: float, h: float, material: int = 0) -> Part:
    return Part(kind, (x, y, z + h / 2), (radius, radius, h / 2), material)


def _legs(rng: Rng, w: float, d: float, h: float, material: int) -> list[Part]:
    """Four legs, a middle pole with a foot, or two panels under a plate of w x d at height h."""
    style = rng.choice(["square", "round", "pole", "panels"], p=[0.35, 0.3, 0.2, 0.15])
    thick = rng.uniform(0.025, 0.06)
    if style == "pole":
        foot = 0.35 * min(w, d)
        return [
            _round("can", 0, 0, 0, foot, 0.03, material),
            _round("can", 0, 0, 0.03, thick, h - 0.03, material),
        ]
    if style == "panels":
        return [_box(s * (w / 2 - thick), 0, 0, thick, 0.85 * d, h, material) for s in (-1, 1)]
    x, y = w / 2 - 1.2 * thick, d / 2 - 1.2 * thick
    if style == "square":
        return [_box(a * x, b * y, 0, thick, thick, h, material) for a in (-1, 1) for b in (-1, 1)]
    return [_round("can", a * x, b * y, 0, thick / 2, h, material) for a in (-1, 1) for b in (-1, 1)]


def _table(rng: Rng) -> Piece:
    low = rng.random() < 0.35  # a coffee table
    h = rng.uniform(0.35, 0.5) if low else rng.uniform(0.68, 0.8)
    w, d, plate = rng.uniform(0.7, 1.7), rng.uniform(0.55, 0.95), rng.uniform(0.025, 0.06)
    parts = []
    if rng.random() < 0.25:
        w = d = rng.uniform(0.7, 1.2)
        parts.append(_round("can", 0, 0, h - plate, w / 2, plate))
        parts += _legs(rng, 0.66 * w, 0.66 * w, h - plate, 1)
    else:
        parts.append(_box(0, 0, h - plate, w, d, plate))
        parts += _legs(rng, w, d, h - plate, 1)
        if rng.random() < 0.3 and not low:  # drawers of a desk
            parts.append(_box(w / 2 - 0.25, 0, 0.08, 0.38, 0.8 * d, h - plate - 0.08, 2))
    return Piece("table", tuple(parts), (w, d, h), ((-0.2 * w, 0.0, h, 0.12), (0.2 * w, 0.1 * d, h, 0.12)))


def _chair(rng: Rng) -> Piece:
    w, d, seat = rng.uniform(0.4, 0.55), rng.uniform(0.4, 0.55), rng.uniform(0.42, 0.5)
    back, plate = rng.uniform(0.35, 0.6), rng.uniform(0.03, 0.09)
    parts = [_box(0, 0, seat - plate, w, d, plate), *_legs(rng, w, d, seat - plate, 1)]
    style = rng.choice(["plate", "slats", "bars"])
    y = -d / 2 + 0.02
    if style == "plate":
        parts.append(_box(0, y, seat, w, 0.04, back))
    elif style == "slats":
        parts += [_box(s * (w / 2 - 0.02), y, seat, 0.04, 0.04, back, 1) for s in (-1, 1)]
        parts += [_box(0, y, seat + f * back, w - 0.08, 0.025, 0.07) for f in (0.3, 0.58, 0.86)]
    else:
        parts.append(_box(0, y, seat + back - 0.1, w, 0.04, 0.1))
        parts += [_round("can", x * w, y, seat, 0.014, back - 0.1, 1) for x in (-0.42, -0.2, 0.0, 0.2, 0.42)]
    if rng.random() < 0.3:
        parts += [_box(s * (w / 2), 0, seat + 0.18, 0.05, 0.8 * d, 0.04, 1) for s in (-1, 1)]
        parts += [_box(s * (w / 2), 0.35 * d, seat, 0.035, 0.035, 0.18, 1) for s in (-1, 1)]
    return Piece("chair", tuple(parts), (w + 0.05, d, seat + back))


def _sofa(rng: Rng) -> Piece:
    seats = int(rng.integers(1, 4))
    w, d = 0.75 * seats + rng.uniform(0.2, 0.5), rng.uniform(0.8, 1.0)
    seat, back, arm = rng.uniform(0.36, 0.46), rng.uniform(0.7, 0.95), rng.uniform(0.12, 0.24)
    inner = w - 2 * arm
    parts = [
        _box(0, 0, 0.06, w, d, seat - 0.18),
        _box(0, -d / 2 + 0.12, 0.06, w, 0.24, back - 0.06),
        *(_box(s * (w - arm) / 2, 0, 0.06, arm, d, rng.uniform(0.5, 0.62)) for s in (-1, 1)),
    ]
    each = inner / seats
    for i in range(seats):
        x = -inner / 2 + (i + 0.5) * each
        parts.append(_box(x, 0.1, seat - 0.12, each - 0.02, d - 0.26, 0.14, 1))
        if rng.random() < 0.7:
            parts.append(_box(x, -d / 2 + 0.32, seat + 0.02, each - 0.06, 0.16, back - seat - 0.06, 1))
        if rng.random() < 0.3:
            parts.append(Part("ball", (x, -d / 2 + 0.48, seat + 0.17), (0.2, 0.09, 0.17), 2))
    return Piece("sofa", tuple(parts), (w, d, back))


def _bed(rng: Rng) -> Piece:
    w, length = rng.uniform(0.9, 1.9), rng.uniform(1.9, 2.1)
    frame, mattress, head = rng.uniform(0.2, 0.35), rng.uniform(0.16, 0.26), rng.uniform(0.75, 1.2)
    top = frame + mattress
    parts = [
        _box(0, 0, 0.05, w, length, frame - 0.05),
        _box(0, 0.02, frame, w - 0.06, length - 0.08, mattress, 1),
        _box(0, -length / 2 + 0.04, 0, w + 0.06, 0.08, head),
        _box(0, 0.22 * length, top - 0.04, w + 0.01, 0.55 * length, 0.06, 2),
    ]
    pillows = 2 if w > 1.3 else 1
    for i in range(pillows):
        x = (i - (pillows - 1) / 2) * 0.5 * w
        parts.append(Part("ball", (x, -length / 2 + 0.32, top + 0.06), (0.36 * w / pillows, 0.19, 0.09), 1))
    if rng.random() < 0.4:
        parts.append(_box(0, length / 2 - 0.03, 0, w + 0.04, 0.06, rng.uniform(0.35, 0.6)))
    return Piece("bed", tuple(parts), (w + 0.06, length, head))


def _cabinet(rng: Rng) -> Piece:
    tall = rng.random() < 0.4
    w, d = rng.uniform(0.6, 1.6), rng.uniform(0.35, 0.6)
    h = rng.uniform(1.5, 2.1) if tall else rng.uniform(0.45, 1.0)
    parts = [_box(0, -0.01, 0, w, d - 0.02, h)]
    columns = max(1, round(w / rng.uniform(0.35, 0.6)))
    rows = 1 if tall else int(rng.integers(1, 4))
    for i in range(columns):
        for j in range(rows):
            cw, ch = w / columns, (h - 0.08) / rows
            x, z = -w / 2 + (i + 0.5) * cw, 0.06 + j * ch
            parts.append(_box(x, d / 2 - 0.015, z, cw - 0.02, 0.03, ch - 0.02, 1))
            side = 0.0 if rows > 1 else (0.35 if i % 2 == 0 else -0.35) * cw
            parts.append(Part("ball", (x + side, d / 2 + 0.015, z + 0.55 * ch), (0.025, 0.025, 0.025), 2))
    tops = () if tall else ((-0.25 * w, 0.0, h, 0.12), (0.25 * w, 0.0, h, 0.12))
    return Piece("cabinet", tuple(parts), (w, d + 0.05, h), tops)


def _shelf(rng: Rng) -> Piece:
    w, d, h = rng.uniform(0.6, 1.3), rng.uniform(0.24, 0.38), rng.uniform(0.9, 2.0)
    boards, thick = int(rng.integers(3, 6)), rng.uniform(0.018, 0.035)
    parts = [_box(s * (w - thick) / 2, 0, 0, thick, d, h) for s in (-1, 1)]
    if rng.random() < 0.6:
        parts.append(_box(0, -d / 2 + 0.01, 0, w, 0.02, h, 1))
    gap = (h - thick) / (boards - 1)
    for j in range(boards):
        parts.append(_box(0, 0, j * gap, w - 2 * thick, d, thick))
        x = -w / 2 + thick + 0.02
        while j < boards - 1 and x < w / 2 - thick - 0.1:  # books in blocks, and gaps
            block = float(rng.uniform(0.06, 0.25))
            if x + block > w / 2 - thick:
                break
            if rng.random() < 0.7:
                high = float(rng.uniform(0.45, 0.85)) * (gap - thick)
                parts.append(_box(x + block / 2, -0.02, j * gap + thick, block, 0.7 * d, high, 2 + len(parts) % 2))
            x += block + 0.015
    return Piece("shelf", tuple(parts), (w, d, h))


def _lamp(rng: Rng) -> Piece:
    h, foot = rng.uniform(1.3, 1.75), rng.uniform(0.12, 0.18)
    shade, radius = rng.uniform(0.22, 0.4), rng.uniform(0.14, 0.24)
    kind = str(rng.choice(["can", "cone", "ball"]))
    wide = 1.6 if kind == "cone" else 1.0
    parts = (
        _round("can", 0, 0, 0, foot, 0.03),
        _round("can", 0, 0, 0.03, 0.015, h - shade),
        _round(kind, 0, 0, h - shade, radius * wide, shade, 1),
    )
    return Piece("lamp", parts, (2 * radius * wide, 2 * radius * wide, h))


def _pendant(rng: Rng) -> Piece:
    """A lamp that hangs from the ceiling: z = 0 is its lower end."""
    drop, radius, shade = rng.uniform(0.2, 0.6), rng.uniform(0.16, 0.3), rng.uniform(0.14, 0.28)
    kind = str(rng.choice(["can", "cone", "ball"]))
    parts = (_round(kind, 0, 0, 0, radius, shade, 1), _round("can", 0, 0, shade, 0.012, drop))
    return Piece("lamp", parts, (2 * radius, 2 * radius, shade + drop))


def _tv(rng: Rng) -> Piece:
    w = rng.uniform(0.7, 1.3)
    h, foot = 0.58 * w, rng.uniform(0.04, 0.1)
    parts = [
        _box(0, 0, foot, w, 0.05, h),
        _box(0, 0.026, foot + 0.02, w - 0.04, 0.008, h - 0.04, 1),
        _box(0, 0, 0, 0.4 * w, 0.18, 0.02),
        _box(0, 0, 0, 0.08, 0.04, foot),
    ]
    return Piece("tv", tuple(parts), (w, 0.18, h + foot))


def _picture(rng: Rng) -> Piece:
    w, h, frame = rng.uniform(0.3, 1.0), rng.uniform(0.3, 0.8), rng.uniform(0.02, 0.06)
    parts = (_box(0, 0, 0, w, 0.03, h), _box(0, 0.012, frame, w - 2 * frame, 0.02, h - 2 * frame, 1))
    return Piece("picture", parts, (w, 0.04, h))


def _window(rng: Rng) -> Piece:
    w, h, frame = rng.uniform(0.7, 1.6), rng.uniform(0.9, 1.3), rng.uniform(0.04, 0.08)
    parts = [_box(0, 0, 0, w, 0.05, h), _box(0, 0.015, frame, w - 2 * frame, 0.04, h - 2 * frame, 1)]
    for i in range(int(rng.integers(1, 3))):
        x = (i + 1) * w / 2 - w / 2 if w < 1.1 else (2 * i - 1) * w / 6
        parts.append(_box(x, 0.02, 0, 0.7 * frame, 0.06, h))
    if rng.random() < 0.4:
        parts.append(_box(0, 0.02, 0.55 * h, w, 0.06, 0.6 * frame))
    parts.append(_box(0, 0.05, -0.03, w + 0.1, 0.14, 0.03))
    return Piece("window", tuple(parts), (w + 0.1, 0.14, h))


def _door(rng: Rng) -> Piece:
    w, h = rng.uniform(0.8, 1.0), rng.uniform(1.95, 2.1)
    parts = [
        *(_box(s * (w + 0.06) / 2, 0, 0, 0.07, 0.08, h + 0.04, 1) for s in (-1, 1)),
        _box(0, 0, h, w + 0.13, 0.08, 0.07, 1),
        _box(0, 0, 0, w, 0.05, h),
        Part("ball", (0.4 * w, 0.06, 1.0), (0.035, 0.035, 0.03), 2),
    ]
    panels = int(rng.integers(0, 4))
    for j in range(panels):
        parts.append(_box(0, 0.022, 0.15 + j * (h - 0.2) / panels, 0.7 * w, 0.02, (h - 0.2) / panels - 0.12, 1))
    return Piece("door", tuple(parts), (w + 0.13, 0.12, h + 0.07))


def _curtain(rng: Rng) -> Piece:
    """Folds beside each other, from near the floor (or a sill) to z = height."""
    w, h, radius = rng.uniform(0.3, 0.7), rng.uniform(1.4, 2.1), rng.uniform(0.03, 0.06)
    folds = max(3, int(w / (1.5 * radius)))
    parts = [_round("can", (i + 0.5) * w / folds - w / 2, 0.01 * (-1) ** i, 0, radius, h) for i in range(folds)]
    parts.append(Part("box", (0, 0, h + 0.015), (w / 2 + 0.1, 0.015, 0.015), 1))
    return Piece("curtain", tuple(parts), (w + 0.1, 2 * radius + 0.02, h + 0.03))


def _rug(rng: Rng) -> Piece:
    w, d = rng.uniform(1.2, 2.4), rng.uniform(0.9, 1.8)
    if rng.random() < 0.3:
        return Piece("rug", (_round("can", 0, 0, 0, d / 2, 0.015),), (d, d, 0.015))
    return Piece("rug", (_box(0, 0, 0, w, d, 0.012), _box(0, 0, 0, 0.8 * w, 0.75 * d, 0.016, 1)), (w, d, 0.016))


def _bin(rng: Rng) -> Piece:
    radius, h = rng.uniform(0.12, 0.2), rng.uniform(0.28, 0.6)
    if rng.random() < 0.5:
        body = _box(0, 0, 0, 2 * radius, 1.6 * radius, h)
        lid = _box(0, 0, h, 2.1 * radius, 1.7 * radius, 0.04, 1)
    else:
        body, lid = _round("can", 0, 0, 0, radius, h), _round("can", 0, 0, h, 1.05 * radius, 0.035, 1)
    return Piece("trash_can", (body, lid), (2.1 * radius, 2.1 * radius, h + 0.04))


def _plant(rng: Rng) -> Piece:
    pot, stem = rng.uniform(0.12, 0.2), rng.uniform(0.25, 0.8)
    parts = [_round("can", 0, 0, 0, pot, 1.6 * pot), _round("can", 0, 0, 1.6 * pot, 0.02, stem, 1)]
    top, reach = 1.6 * pot + stem, rng.uniform(0.15, 0.3)
    for _ in range(int(rng.integers(4, 9))):
        offset = rng.uniform(-1, 1, 3) * [reach, reach, 0.7 * reach]
        half = rng.uniform(0.06, 0.16, 3)
        x, y, z = offset + [0, 0, top]
        parts.append(Part("ball", (x, y, max(z, 1.6 * pot + half[2])), tuple(half.tolist()), 2, rng.uniform(0, 3)))
    wide = 2 * (reach + 0.16)
    return Piece("plant", tuple(parts), (wide, wide, top + reach))


def _vase(rng: Rng) -> Piece:
    radius, h = rng.uniform(0.05, 0.1), rng.uniform(0.14, 0.34)
    kind = str(rng.choice(["can", "ball", "cone"]))
    parts = [_round(kind, 0, 0, 0, radius, h)]
    if rng.random() < 0.5 and kind != "can":
        parts.append(_round("can", 0, 0, 0.7 * h, 0.4 * radius, 0.4 * h, 1))
    return Piece("vase", tuple(parts), (2 * radius, 2 * radius, 1.1 * h))


BUILDERS: dict[str, Callable[[Rng], Piece]] = {
    "bed": _bed,
    "bin": _bin,
    "cabinet": _cabinet,
    "chair": _chair,
    "curtain": _curtain,
    "door": _door,
    "lamp": _lamp,
    "pendant": _pendant,
    "picture": _picture,
    "plant": _plant,
    "rug": _rug,
    "shelf": _shelf,
    "sofa": _sofa,
    "table": _table,
    "tv": _tv,
    "vase": _vase,
    "window": _window,
}

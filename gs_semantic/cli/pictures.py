"""Pictures for people: colours of classes and objects, contact sheets, the view from above. All images are RGB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from gs_semantic.errors import StorageError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.labels import palette
from gs_semantic.mapping.events import LabelImages
from gs_semantic.objects.registry import Box, MapObject, ObjectRegistry
from gs_semantic.rendering.base import Rasterizer

CAPTION_PX = 22
GAP_PX = 4
BACKGROUND = (24, 24, 28)
TEXT = (235, 235, 235)
DEPTH_SHOWN_M = 8.0  # far end of the depth colours


@dataclass(frozen=True)
class Palette:
    """Colour tables uint8 (K, 3) by class id and by object slot."""

    classes: np.ndarray
    slots: np.ndarray

    @classmethod
    def of(cls, objects: ObjectRegistry) -> Palette:
        return cls(palette(max(objects.labels.names, default=0) + 1), palette(objects.slots, seed=3))

    def semantic(self, class_ids: np.ndarray) -> np.ndarray:
        return self.classes[np.minimum(class_ids, len(self.classes) - 1)]

    def instance(self, slots: np.ndarray) -> np.ndarray:
        return self.slots[np.minimum(slots, len(self.slots) - 1)]

    def shown(self, labels: LabelImages) -> list[np.ndarray]:
        """Semantic, instance, confidence and depth images for looking at."""
        return [
            self.semantic(labels.semantic),
            self.instance(labels.instance),
            np.repeat(labels.confidence[..., None], 3, axis=2),
            depth_colours(labels.depth),
        ]


def depth_colours(depth: np.ndarray) -> np.ndarray:
    """Depth in metres as colours; black where there is none."""
    known = np.isfinite(depth) & (depth > 0)
    scaled = np.clip(np.where(known, depth, 0) / DEPTH_SHOWN_M, 0, 1) * 255
    colours = cv2.cvtColor(cv2.applyColorMap(255 - scaled.astype(np.uint8), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return np.where(known[..., None], colours, 0).astype(np.uint8)


def mask_colours(instances: np.ndarray) -> np.ndarray:
    """Ids of single-frame masks as colours: the same id, the same colour, in every frame."""
    return palette(int(instances.max()) + 1, seed=3)[instances]


def millimetres(depth: np.ndarray) -> np.ndarray:
    """Depth in metres as uint16 millimetres, 0 = none."""
    return np.clip(np.nan_to_num(depth) * 1000 + 0.5, 0, 65535).astype(np.uint16)


def smallest_type(ids: np.ndarray) -> np.ndarray:
    """Ids as uint8 where they fit, else uint16."""
    return ids.astype(np.uint8 if ids.size == 0 or ids.max() < 256 else np.uint16)


# --- files ------------------------------------------------------------------------------------------------------------


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Make an output folder; what fails while writing into it becomes a StorageError that names it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        raise StorageError(f"{folder}: cannot write: {error.strerror or error}; give another folder") from error


def write_image(path: Path, image: np.ndarray) -> None:
    """PNG of an RGB or single-channel (8 or 16 bit) image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(image)).save(path, compress_level=3)


# --- sheets -----------------------------------------------------------------------------------------------------------


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], row_titles: Sequence[str] = (), width: int = 320
) -> np.ndarray:
    """Rows of RGB images, each scaled to ``width`` pixels, with a title over every column and beside every row."""
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    height = round(rows[0][0].shape[0] * width / rows[0][0].shape[1])
    margin = 64 if row_titles else 0
    canvas = np.full(
        (CAPTION_PX + len(rows) * (height + GAP_PX), margin + len(titles) * (width + GAP_PX), 3), BACKGROUND, np.uint8
    )
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            shrinks = image.shape[1] > width
            scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)
            top, left = CAPTION_PX + r * (height + GAP_PX), margin + c * (width + GAP_PX)
            canvas[top : top + height, left : left + width] = scaled
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(15)
    for c, title in enumerate(titles):
        draw.text((margin + c * (width + GAP_PX) + width / 2, 3), title, TEXT, font, anchor="ma")
    for r, title in enumerate(row_titles):
        draw.text((4, CAPTION_PX + r * (height + GAP_PX) + height / 2), title, TEXT, font, anchor="lm")
    return np.asarray(picture)


def with_legend(sheet: np.ndarray, named: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """An RGB image with names and their colours uint8 (3,) in lines below it."""
    font = ImageFont.load_default(15)
    places, x, line = [], GAP_PX, 0
    for name, _ in named:
        length = CAPTION_PX + round(font.getlength(name)) + 14
        if x + length > sheet.shape[1] and x > GAP_PX:
            x, line = GAP_PX, line + 1
        places.append((x, sheet.shape[0] + line * CAPTION_PX))
        x += length
    below = np.full(((line + 1) * CAPTION_PX, sheet.shape[1], 3), BACKGROUND, np.uint8)
    picture = Image.fromarray(np.concatenate([sheet, below]))
    draw = ImageDraw.Draw(picture)
    for (x, y), (name, colour) in zip(places, named, strict=True):
        draw.rectangle((x, y + 4, x + 14, y + 18), fill=tuple(colour.tolist()))
        draw.text((x + 19, y + 3), name, TEXT, font)
    return np.asarray(picture)


# --- from above -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """How to look from above: rows of ``axes`` (3, 3) are right, down (in the picture) and into the ground."""

    axes: np.ndarray
    eye_m: float  # along up

    @classmethod
    def of(cls, poses: np.ndarray) -> Ground:
        """From camera poses (K, 4, 4): up is the world axis that the cameras' upper edge points to on average."""
        up = -poses[:, :3, 1].mean(axis=0)
        axis = int(np.abs(up).argmax())
        up = np.eye(3)[axis] * np.sign(up[axis])
        right = np.eye(3)[(axis + 1) % 3]
        return cls(np.stack([right, np.cross(-up, right), -up]), float((poses[:, :3, 3] @ up).mean()))


def top_view(
    gaussians: GaussianMap,
    objects: Sequence[tuple[MapObject, str]],
    rasterizer: Rasterizer,
    ground: Ground,
    longest_px: int = 1400,
) -> np.ndarray:
    """The map without what is above the cameras' heads, and the named boxes of its objects; RGB."""
    up = -ground.axes[2]
    means = gaussians.means.numpy()
    below = means @ up < ground.eye_m + 0.4
    kept = gaussians.snapshot()
    kept.keep(torch.from_numpy(below))
    plane = kept.means.numpy() @ ground.axes[:2].T
    low, high = np.percentile(plane, 0.2, axis=0) - 0.3, np.percentile(plane, 99.8, axis=0) + 0.3
    scale = longest_px / float((high - low).max())  # pixels per metre
    width, height = (int(np.ceil(side * scale)) for side in high - low)
    distance = 20 * float((high - low).max())  # so far above that the view is almost parallel
    pose = np.eye(4)
    pose[:3, :3] = ground.axes.T
    pose[:3, 3] = ground.axes[:2].T @ ((low + high) / 2) + up * (ground.eye_m + distance)
    focal = scale * distance
    camera = Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2, pose)
    with torch.no_grad():
        rgb = rasterizer.render(kept, camera).rgb.clamp(0, 1).numpy()
    picture = Image.fromarray((rgb * 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    colours = palette(max((obj.slot for obj, _ in objects), default=0) + 1, seed=3)
    area = float(np.prod(high - low))
    taken: list[tuple[float, float, float, float]] = []
    for obj, name in sorted(objects, key=lambda pair: -pair[0].num_gaussians):
        if obj.box is None:
            continue
        corners = (box_corners(obj.box) @ ground.axes[:2].T - low) * scale
        outline = cv2.convexHull(corners.astype(np.float32))[:, 0]
        if cv2.contourArea(outline) / scale**2 > area / 4:
            continue  # floors and walls: the whole picture
        colour = tuple(int(c) for c in colours[obj.slot])
        points = [tuple(point) for point in outline.tolist()]
        draw.line([*points, points[0]], fill=colour, width=2)
        x, y = outline.mean(axis=0).tolist()
        extent = draw.textbbox((x, y), name, font, anchor="mm")
        if any(_overlap(extent, other) for other in taken):
            continue  # a smaller object's name would be drawn over a larger one's
        taken.append(extent)
        draw.text((x, y), name, (255, 255, 255), font, anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(picture)


def box_corners(box: Box) -> np.ndarray:
    """The eight corners (8, 3) in the map frame."""
    signs = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5])).reshape(3, -1).T
    return (signs * box.size) @ np.asarray(box.rotation).T + box.centre


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

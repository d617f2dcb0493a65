"""The viewer's level of detail: how far a view is from that of the whole map, what it takes, and whether a browser draws it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_semantic.data.opaque_room import OBJECTS, opaque_room, room_camera
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.mapping.view import MapView, pack_registry
from gs_semantic.objects.packing import unpack_objects
from gs_semantic.objects.registry import ObjectRegistry, ObjectState
from gs_semantic.objects.splats import SplatCopy, SplatSender, make_splats, map_of_splats
from gs_semantic.rendering import RasterSettings, create_rasterizer
from gs_semantic.viewer.appearance import colours
from gs_semantic.viewer.detail import PARTS, Detail, as_splats, full, part_of
from gs_semantic.viewer.picking import Picker
from gs_semantic.viewer.settings import NUMBERS
from gs_semantic.viewer.source import Snapshot, by_id

SENT_BYTES = 32  # a splat, to the browser
SIZE = (640, 480)
TURN = 0.7  # rad between the first and the last view of the room, from one of its corners
BROWSER_PATIENCE_S = 300.0
EDGE_PX = 30  # the page's own signs lie in the corners of the view
CHUNK_BYTES = 1_000_000
CHANGED_M = 0.5  # half the side of the part of the map that changes in the measurement of changes


def run_viewer_bench(
    gaussians: int = 1_000_000,
    numbers: Sequence[int] = NUMBERS,
    views: int = 8,
    path: Path | None = None,
    screenshot: Path | None = None,
) -> dict[str, Any]:
    """A room of that many Gaussians seen from a corner of it, or the map at ``path`` from where it was mapped, ``views`` times.

    For each of ``numbers``: psnr_db of so many merged splats against all of them, both drawn by the rasteriser, mean over the views,
    least_psnr_db, and single_psnr_db, of so many of the Gaussians themselves, those that cover most of the view. tree_s: making the
    tree of a revision; choose_ms: cut, covariances and colours of one sending, of the largest number; first_pick_s, pick_ms: a click
    on a new revision, and on one that was clicked before; stream_mb, change_mb: the mapper's stream to the viewer, the whole map
    and a change in a cube of 1 m; page_mb, page_change_mb: the same to the page. screenshot: see ``see``.
    """
    if path is None:
        shown, objects = opaque_room(gaussians), ObjectRegistry()
        for _ in range(OBJECTS):
            objects.open().state = ObjectState.CONFIRMED
        cameras = [room_camera(*SIZE, TURN * (number / max(views - 1, 1) - 0.5)) for number in range(views)]
    else:
        shown, objects = load_map(path)
        if not shown.views:
            raise InvalidRequestError(f"{path}: the map does not say from where it was seen; save it with this version")
        cameras = [shown.views[round(place)] for place in np.linspace(0, len(shown.views) - 1, views)]
    view = MapView.of(shown, objects, 0, pack_registry(objects))
    every = make_splats(view, np.arange(len(shown)))
    results: dict[str, Any] = {"gaussians": len(every), "views": len(cameras)}
    start = time.perf_counter()
    tree = Detail(every)
    tree.cut(min(numbers), cameras[0])
    results["tree_s"] = time.perf_counter() - start
    results |= _quality(every, tree, cameras, numbers)
    results |= _picks(every, cameras[0])
    results |= _changes(shown, objects, tree, cameras[len(cameras) // 2], max(numbers))
    if screenshot is not None:
        snapshot = Snapshot(
            "bench", shown.revision, shown.frame_id, every, by_id(unpack_objects(view.objects.to_bytes()))
        )
        results |= see(snapshot, cameras[len(cameras) // 2], screenshot, max(numbers))
    return results


def _quality(every: np.ndarray, tree: Detail, cameras: Sequence[Camera], numbers: Sequence[int]) -> dict[str, float]:
    whole = _draw(every, cameras)
    results: dict[str, float] = {}
    seconds = []
    for number in numbers:
        merged, single = [], []
        for camera, expected in zip(cameras, whole, strict=True):
            start = time.perf_counter()
            nodes = tree.cut(number, camera).nodes
            full(nodes["covariance"], nodes["position"], camera)
            colours(nodes, {}, "colour")
            seconds.append(time.perf_counter() - start)
            merged.append(psnr(_draw(as_splats(nodes), [camera])[0], np.round(expected * 255).astype(np.uint8)))
            chosen = every[largest(every, number, camera)]
            single.append(psnr(_draw(chosen, [camera])[0], np.round(expected * 255).astype(np.uint8)))
        results |= {
            f"psnr_{number}_db": float(np.mean(merged)),
            f"least_psnr_{number}_db": float(np.min(merged)),
            f"single_psnr_{number}_db": float(np.mean(single)),
        }
    return {**results, "choose_ms": 1e3 * float(np.median(seconds[-len(cameras) :]))}


def _draw(splats: np.ndarray, cameras: Sequence[Camera]) -> list[np.ndarray]:
    rasterizer = create_rasterizer("auto", RasterSettings(eps2d=0.3))  # the blur that browsers draw with
    gaussians, _ = map_of_splats(splats)
    with torch.no_grad():
        return [rasterizer.render(gaussians, camera).rgb.clamp(0, 1).numpy() for camera in cameras]


def largest(splats: np.ndarray, limit: int, camera: Camera) -> np.ndarray:
    """Rows of at most ``limit`` splats that cover most of a camera's image: what can be done without merging."""
    if len(splats) <= limit:
        return np.arange(len(splats))
    scale = np.sort(splats["scale"].astype(np.float32), axis=1)
    local = splats["position"] @ camera.T_camera_world[:3, :3].T.astype(np.float32) + camera.T_camera_world[:3, 3]
    inside = local[:, 2] > 0
    for axis, focal, size in ((0, camera.fx, camera.width), (1, camera.fy, camera.height)):
        inside &= np.abs(local[:, axis]) * focal < 1.3 * size / 2 * local[:, 2]
    distance = np.maximum(np.square(local).sum(1), 0.3**2)
    cover = scale[:, 2] * scale[:, 1] * splats["opacity"] / distance * np.where(inside, 1.0, 0.02)
    return np.argpartition(-cover, limit)[:limit]


def _picks(every: np.ndarray, camera: Camera) -> dict[str, float]:
    picks = []
    start = time.perf_counter()
    picker = Picker(every)
    for _ in range(4):
        picker.along(camera.T_world_camera[:3, 3], camera.T_world_camera[:3, 2])
        picks.append(time.perf_counter() - start)
        start = time.perf_counter()
    return {"first_pick_s": picks[0], "pick_ms": 1e3 * float(np.median(picks[1:]))}


def _changes(
    gaussians: GaussianMap, objects: ObjectRegistry, tree: Detail, camera: Camera, number: int
) -> dict[str, float]:
    """What is sent when the colours of a part of the map change, here of what lies in the middle of the camera's view."""
    sender, copy = SplatSender(), SplatCopy()

    def stream() -> int:
        view = MapView.of(gaussians, objects, 0, pack_registry(objects))
        sender.update(view)
        sent = 0
        while (chunk := sender.take(view, CHUNK_BYTES)) is not None:
            copy.apply(chunk)
            sent += len(chunk.data)
        return sent

    whole = stream()
    before = tree.cut(number, camera)
    means = gaussians.means.numpy()
    local = means @ camera.T_camera_world[:3, :3].T.astype(np.float32) + camera.T_camera_world[:3, 3]
    ahead = np.flatnonzero((local[:, 2] > 0.5) & (np.abs(local[:, :2]) < 0.1 * local[:, 2:]).all(1))
    middle = np.median(means[ahead if len(ahead) else slice(None)], axis=0)
    rows = torch.from_numpy(np.flatnonzero((np.abs(means - middle) < CHANGED_M).all(1)))
    with torch.no_grad():
        gaussians.sh[rows] = -gaussians.sh[rows]
    gaussians.touch(rows)
    changed = stream()
    after = Detail(copy.splats).cut(number, camera, threshold=before.threshold)
    again = 0
    for part in range(PARTS):
        old, new = (cut.nodes[part_of(cut.nodes["position"]) == part] for cut in (before, after))
        again += len(new) * (old.tobytes() != new.tobytes())
    return {
        "stream_mb": whole / 1e6,
        "changed_gaussians": len(rows),
        "change_mb": changed / 1e6,
        "page_mb": len(after.nodes) * SENT_BYTES / 1e6,
        "page_change_mb": again * SENT_BYTES / 1e6,
    }


class Still:
    """A source of one snapshot."""

    title = "bench"

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def newest(self) -> Snapshot:
        return self._snapshot

    def earlier(self) -> Sequence[Snapshot]:
        return ()

    def rename(self, object_id: int, name: str) -> None:
        raise InvalidRequestError("a bench renames nothing")

    def select(self, object_id: int) -> None:
        """Nobody else looks."""

    def close(self) -> None:
        """Nothing is open."""


def see(snapshot: Snapshot, camera: Camera, screenshot: Path, limit: int) -> dict[str, float]:
    """Open the map in headless Chromium, look as the camera does, and write what the window shows. browser_open_s: until the page
    has splats; browser_splats, browser_picture_s: how many suited it, and how long a picture of them takes; browser_psnr_db: what it
    shows against the whole map, drawn by the rasteriser."""
    from gs_semantic.benchmarks.browser import Page, headless_chromium, until
    from gs_semantic.viewer.server import Viewer

    with Viewer(Still(snapshot), port=0, splats=limit) as viewer, headless_chromium() as browser:
        start = time.perf_counter()
        page = Page(browser, viewer)
        opened = time.perf_counter() - start
        until(lambda: page.session.settled, "a number of splats that suits the browser", BROWSER_PATIENCE_S)
        position = camera.T_world_camera[:3, 3]
        seen_from = page.look(tuple(position), tuple(position + 2 * camera.T_world_camera[:3, 2]))
        seen = page.still()
        page.screenshot().save(screenshot)
        shown, seconds = page.session.shown, page.session.picture_s
    expected = np.round(_draw(snapshot.splats, [seen_from])[0] * 255).astype(np.uint8)
    middle = (slice(EDGE_PX, -EDGE_PX), slice(EDGE_PX, -EDGE_PX))
    return {
        "browser_open_s": opened,
        "browser_splats": shown,
        "browser_picture_s": seconds,
        "browser_psnr_db": psnr(seen[middle].astype(np.float32) / 255, expected[middle]),
    }

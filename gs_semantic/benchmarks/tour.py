"""The demo's client: keeps pictures while the map grows, asks every service, saves the map, loads it and compares."""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from sensor_msgs.msg import Image

from gs_semantic.benchmarks.tasks import Once
from gs_semantic.client import SemanticMap
from gs_semantic.data.formats import open_sequence
from gs_semantic.errors import EmptyMapError, GsSemanticError
from gs_semantic.gaussians import Camera
from gs_semantic.nodes import conversions, qos
from gs_semantic.objects.packing import ObjectView

if TYPE_CHECKING:
    from gs_semantic.benchmarks.measure import Recorder

KEPT_FRAMES = 15
REGION_RADIUS_M = 1.5
OBJECT_PATIENCE_S = 60.0
TOPICS = {
    "colour": "color/image",
    "masks": "instance/image",
    "semantic": "mapper/semantic/image",
    "instance": "mapper/instance/image",
    "confidence": "mapper/semantic/confidence",
}


class Tour(Once):
    """Once, with snapshots on the way and questions at the end; the pictures are ``snapshot_<n>.npz`` files."""

    def __init__(self, recorder: Recorder, planner: SemanticMap, options: argparse.Namespace) -> None:
        super().__init__(recorder, planner, options)
        self.sequence = open_sequence(options.sequence)
        self.indices = [int(word) for word in options.indices.split(",")]
        count = len(self.indices)
        # the last ones of equal parts: early snapshots show little, the last one shows all
        self.wanted = {round((k + 1) * count / options.snapshots) for k in range(options.snapshots)} - {0}
        self.questions: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._first_ns: int | None = None  # stamp of the first frame
        self._messages: dict[str, dict[int, Image]] = {name: {} for name in TOPICS}
        for name, topic in TOPICS.items():
            recorder.keep.append(
                recorder.create_subscription(Image, topic, self._keeper(name), qos.sensor_input("reliable"))
            )

    def _keeper(self, name: str) -> Any:
        kept = self._messages[name]

        def keep(image: Image) -> None:
            stamp = conversions.to_ns(image.header.stamp)
            with self._lock:
                if name == "colour" and self._first_ns is None:
                    self._first_ns = stamp
                kept[stamp] = image
                while len(kept) > KEPT_FRAMES:
                    del kept[min(kept)]

        return keep

    # --- while the recording plays ----------------------------------------------------------------------------------

    def answered(self, answers: int) -> None:
        with self._lock:
            stamps = set.intersection(*(set(kept) for kept in self._messages.values()))
            if not stamps or self._first_ns is None:
                return
            stamp = max(stamps)
            images = {name: kept[stamp] for name, kept in self._messages.items()}
            number = round((stamp - self._first_ns) * 1e-9 * self.options.rate_hz) + 1
        if self.wanted and number >= min(self.wanted):
            try:
                self.snapshot(number, images)
            except EmptyMapError:
                return  # the first frame is still being mapped; the picture is taken at a later answer
            self.wanted = {other for other in self.wanted if other > number}

    def snapshot(self, number: int, images: dict[str, Image]) -> None:
        """Keep what the topics and the map show of the ``number``-th frame (from 1)."""
        pixels = {name: conversions.read_image(image, TOPICS[name], [image.encoding]) for name, image in images.items()}
        camera = self.camera(number)
        view = self.planner.render_view(camera.T_world_camera, camera, depth=True)
        assert view.color is not None and view.depth is not None
        arrays = {**pixels, "number": np.array(number), "map_colour": view.color, "depth": view.depth}
        np.savez(self.options.result.with_name(f"snapshot_{number:06d}.npz"), allow_pickle=False, **arrays)

    def camera(self, number: int) -> Camera:
        """Camera of the ``number``-th frame that was played (from 1)."""
        return self.sequence.camera(self.indices[min(number, len(self.indices)) - 1])

    def played(self) -> None:
        """On a machine under load the map may be frames behind: until there is an object to ask about."""
        deadline = time.monotonic() + OBJECT_PATIENCE_S
        while time.monotonic() < deadline and all(obj.centroid is None for obj in self.planner.list_objects()):
            time.sleep(0.1)

    # --- afterwards -------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        outcome = super().run()
        self.ask()
        self.reload()
        return {**outcome, "questions": self.questions}

    def note(self, question: str, answer: str) -> None:
        self.questions.append((question, answer))

    def ask(self) -> None:
        """Every query once."""
        planner, camera = self.planner, self.camera(len(self.indices))
        objects = planner.list_objects()
        if all(obj.centroid is None for obj in objects):
            raise GsSemanticError("list_objects: the map has no objects after the whole recording")
        classes = Counter(obj.label for obj in objects).most_common(5)
        self.note("list_objects", f"{len(objects)} objects: {', '.join(f'{n} {name}' for name, n in classes)}, ...")
        u, v, stamp = self.labelled_pixel()
        pixel = planner.query_pixel(u, v, stamp_ns=stamp)
        seen = f"{pixel.object.label}, object {pixel.object.id}, {pixel.depth:.2f} m ahead"
        self.note(f"query_pixel({u}, {v})", seen)
        target = self.target(objects)
        found = planner.get_object(target.id, gaussians=True)
        self.note(f"get_object({target.id})", f"{describe(found.object)}, {len(found.gaussians):,} Gaussians received")
        assert target.centroid is not None
        near = planner.query_sphere(target.centroid, REGION_RADIUS_M)
        names = ", ".join(f"{obj.label} {obj.id}" for obj in near.objects[:4])
        self.note(f"query_region({REGION_RADIUS_M:g} m around it)", f"{len(near.objects)} objects: {names}, ...")
        view = planner.render_view(camera.T_world_camera, camera, instance=True)
        self.note("render_view(last pose)", f"{camera.width}x{camera.height}, {len(view.object_ids)} objects in view")

    def labelled_pixel(self) -> tuple[int, int, int]:
        """Column, row and stamp: in the newest instance image with an object, the labelled pixel nearest to its middle."""
        with self._lock:
            kept = sorted(self._messages["instance"].items(), reverse=True)
        for stamp, image in kept:
            rows, columns = np.nonzero(conversions.read_image(image, TOPICS["instance"], [image.encoding]))
            if len(rows):
                nearest = np.hypot(rows - image.height / 2, columns - image.width / 2).argmin()
                return int(columns[nearest]), int(rows[nearest]), stamp
        raise GsSemanticError("instance/image: the last frames show no object of the map")

    @staticmethod
    def target(objects: Iterable[ObjectView]) -> ObjectView:
        """Something that a robot might go to: neither the largest things (floor, walls) nor scraps."""
        ranked = sorted((obj for obj in objects if obj.centroid is not None), key=lambda obj: obj.num_gaussians)
        return ranked[len(ranked) * 2 // 3]

    def reload(self) -> None:
        """Forget the map, load the saved one, and compare all answers."""
        planner, camera = self.planner, self.camera(len(self.indices))
        before = self.answers(camera)
        planner.reset()
        left = len(planner.list_objects())
        planner.load(str(self.options.save))
        after = self.answers(camera)
        differing = [name for name in before if before[name] != after[name]]
        if left or differing:
            raise GsSemanticError(f"save and load: {', '.join(differing) or 'reset'} did not come back as it was")
        self.note("save_map, reset, load_map", f"{', '.join(before)} are the same as before")

    def answers(self, camera: Camera) -> dict[str, Any]:
        """What must not change by saving and loading."""
        objects = self.planner.list_objects()
        target = self.target(objects)
        view = self.planner.render_view(
            camera.T_world_camera, camera, semantic=True, instance=True, confidence=True, depth=True
        )
        images = (view.color, view.semantic, view.instance, view.confidence, view.depth)
        return {
            "objects": [(obj.id, obj.label, obj.num_gaussians, obj.state) for obj in objects],
            "Gaussians": np.sort(self.planner.get_object(target.id, gaussians=True).gaussians, order="uid").tobytes(),
            "images": [None if image is None else image.tobytes() for image in images],
        }


def describe(obj: ObjectView) -> str:
    """An object in a few words."""
    words = [f"{obj.label}, confidence {obj.confidence:.2f}"]
    if obj.box is not None:
        words.append(" x ".join(f"{side:.1f}" for side in obj.box.size) + " m")
    if obj.centroid is not None:
        words.append("at ({:.1f}, {:.1f}, {:.1f})".format(*obj.centroid))
    return ", ".join(words)

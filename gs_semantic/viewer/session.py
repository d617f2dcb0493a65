"""One open page: its panel, its camera and the splats that it was sent. Used by the viewer's thread alone, but for ``click``
and the buttons, which hand over."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gs_semantic.errors import GsSemanticError
from gs_semantic.gaussians import Camera
from gs_semantic.objects.packing import quaternion_to_matrix
from gs_semantic.objects.registry import Box
from gs_semantic.viewer.appearance import MODES, colours
from gs_semantic.viewer.card import card, plain
from gs_semantic.viewer.detail import PARTS, full, part_of
from gs_semantic.viewer.history import History
from gs_semantic.viewer.pace import Pace
from gs_semantic.viewer.picking import Picker
from gs_semantic.viewer.source import MapSource, Snapshot

if TYPE_CHECKING:
    import viser

NOTHING = "none"
REST_S = 0.25  # a camera that has not moved for so long stands still
PERIOD_S = 0.5  # between two sendings of a map that changes, at least, and
REST = 2  # times as long as the last one took
MOVED = 0.1  # share of the distance to what is looked at; smaller moves change nothing that is worth sending
PAGE_BYTES_S = 4_000_000  # to a page that looks at a map that changes
UNIT = 10.0  # splats are sent in decimetres: viser's half floats hold variances from 6e-8 to 65504
LARGEST_M = 20.0
BOX_RGB = (255, 220, 0)


class Session:
    """See the module. ``selected`` and ``hidden`` are ids of objects."""

    def __init__(
        self,
        client: viser.ClientHandle,
        source: MapSource,
        history: History,
        splats: int,
        wake: threading.Event,
        edits: Executor,
    ) -> None:
        self.client = client
        self._edits = edits
        self._source, self._history, self._wake = source, history, wake
        self._pace = Pace(splats)
        self._threshold: float | None = None  # of the last cut
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.selected, self.hidden = 0, frozenset[int]()
        self.snapshot = Snapshot()
        self.shown = 0  # splats that the page has
        self.bytes_sent = 0  # of splats
        self._drawn: tuple[object, ...] = ()
        self._drawn_camera: Camera | None = None
        self._next_s = 0.0
        self._allowed = self._pace.allowed  # splats, in what the page has
        self._picker: tuple[Snapshot, frozenset[int], Picker] | None = None
        self._parts: dict[int, viser.GaussianSplatHandle] = {}
        self._marks: list[viser.SceneNodeHandle] = []  # of the selected object
        self._placed = False
        self._place = 1  # on the time line
        self._make_panel()
        client.scene.on_click()(lambda event: self.click(event.ray_origin, event.ray_direction))

    def _make_panel(self) -> None:
        gui = self.client.gui
        self._mode = gui.add_dropdown("Colours", MODES, initial_value=MODES[0])
        self._time = gui.add_slider(
            "Time line", 0, 1, 1, 1, disabled=True, hint="Revisions of the map; right: the newest"
        )
        self._status = gui.add_markdown("waiting for a map ...")
        self._choice = gui.add_dropdown("Object", (NOTHING,), initial_value=NOTHING, hint="Or click one in the view")
        self._choices: dict[str, int] = {NOTHING: 0}
        self._chosen = NOTHING
        self._card = gui.add_markdown("Click an object.")
        self._name = gui.add_text("Name", "", disabled=True)
        self._rename = gui.add_button("Rename", disabled=True)
        self._hide = gui.add_button("Hide", disabled=True)
        self._show_all = gui.add_button("Show hidden objects", disabled=True)
        self._box = gui.add_checkbox("Box of the selected object", True)
        for button, action in (
            (self._rename, self._do_rename),
            (self._hide, self._do_hide),
            (self._show_all, self._do_show_all),
        ):
            button.on_click(lambda _, action=action: self._hand_over(action))

    # --- from other threads -----------------------------------------------------------------------------------------

    def click(self, origin: tuple[float, ...], direction: tuple[float, ...]) -> None:
        """Select what a ray meets first."""
        self._hand_over(lambda: self.select(self.picker.along(np.array(origin), np.array(direction))))

    def _hand_over(self, action: Callable[[], None]) -> None:
        self._asked.put(action)
        self._wake.set()

    # --- what the page asks for -------------------------------------------------------------------------------------

    @property
    def picker(self) -> Picker:
        """Of what is looked at now."""
        if self._picker is None or self._picker[0] is not self.snapshot or self._picker[1] != self.hidden:
            self._picker = (self.snapshot, self.hidden, Picker(self.snapshot.splats, self.hidden))
        return self._picker[2]

    def select(self, object_id: int) -> None:
        """Highlight an object and show its card; 0: none."""
        self.selected = object_id if object_id in self.snapshot.objects else 0
        self._source.select(self.selected)
        obj = self.snapshot.objects.get(self.selected)
        self._name.value = obj.name if obj else ""
        self._chosen = self._choice.value = next(k for k, v in self._choices.items() if v == self.selected)

    def _do_rename(self) -> None:
        object_id, name = self.selected, self._name.value
        self._edits.submit(self._edit, lambda: self._source.rename(object_id, name))

    def _edit(self, action: Callable[[], None]) -> None:
        """In the thread of edits; what goes wrong is told by ``update``."""

        def fail(error: Exception) -> None:
            raise error

        try:
            action()
        except Exception as error:  # noqa: BLE001 - raised again where it is told
            self._hand_over(partial(fail, error))
        self._wake.set()

    def _do_hide(self) -> None:
        self.hidden ^= {self.selected}

    def _do_show_all(self) -> None:
        self.hidden = frozenset()

    # --- the loop ---------------------------------------------------------------------------------------------------

    def update(self, newest: Snapshot) -> None:
        """Do what the page asked for and send what it does not show yet."""
        self._follow(newest)
        if self._choice.value != self._chosen:
            self.select(self._choices.get(self._choice.value, 0))
        while not self._asked.empty():
            try:
                self._asked.get()()
            except GsSemanticError as error:
                self.client.add_notification("Not done", str(error), with_close_button=True, color="red")
        self._show_object()
        self._draw()

    def _follow(self, newest: Snapshot) -> None:
        """Look at the revision that the time line is set to."""
        earlier = self._history.before(newest.revision)
        steps = max(len(earlier), 1)
        place = min(int(self._time.value), len(earlier))
        if self._time.value >= self._time.max:  # follows the newest
            place = steps
        elif place == self._place:  # not moved: the same snapshot, even when others went
            place = next((i for i, snapshot in enumerate(earlier) if snapshot is self.snapshot), place)
        _set(self._time, "max", steps)
        _set(self._time, "value", place)
        _set(self._time, "disabled", not earlier)
        self._place = place
        snapshot = newest if place >= len(earlier) else earlier[place]
        if snapshot is self.snapshot:
            return
        self.snapshot = snapshot
        objects = sorted(snapshot.objects.values(), key=lambda obj: (obj.label, obj.id))
        choices = {NOTHING: 0} | {f"{obj.label} ({obj.id})": obj.id for obj in objects}
        if choices != self._choices:
            self._choices = choices
            self._choice.options = tuple(choices)
        kept = next((text for text, value in choices.items() if value == self.selected), NOTHING)
        self.selected = choices[kept]
        self._chosen = kept
        _set(self._choice, "value", kept)

    def _show_object(self) -> None:
        obj = self.snapshot.objects.get(self.selected)
        text = "Click an object." if obj is None else card(obj, _class_names(self.snapshot))
        if self.selected in self.hidden:
            text += "\n\nhidden"
        _set(self._card, "content", text)
        _set(self._hide, "label", "Show" if self.selected in self.hidden else "Hide")
        for handle in (self._name, self._rename, self._hide):
            _set(handle, "disabled", obj is None)
        _set(self._show_all, "disabled", not self.hidden)

    def _draw(self) -> None:
        camera, now = self._camera(), time.monotonic()
        state = (self.snapshot, self._mode.value, self.selected, self.hidden, self._box.value)
        same = len(self._drawn) == len(state) and all(
            a is b or a == b for a, b in zip(self._drawn[1:], state[1:], strict=True)
        )
        moved = self._has_moved(camera)
        changed, more = not same or self._drawn[0] is not self.snapshot, self._pace.allowed != self._allowed
        if not (changed or moved or more):
            return
        if same and not moved and not more and now < self._next_s:
            return  # only the map has changed: not so often
        self._drawn, self._drawn_camera, self._allowed = state, camera, self._pace.allowed
        before = self.bytes_sent
        self._send(camera)
        took = time.monotonic() - now
        self._next_s = now + took + max(PERIOD_S, REST * took, (self.bytes_sent - before) / PAGE_BYTES_S)
        if self._reduced:
            self._pace.measure(self.client, self._wake)

    def _has_moved(self, camera: Camera) -> bool:
        before = self._drawn_camera
        if before is None:
            return True
        if time.time() - self.client.camera.update_timestamp < REST_S:
            return False
        if self._reduced:
            return not np.allclose(before.T_world_camera, camera.T_world_camera) or before.fx != camera.fx
        reach = np.linalg.norm(np.subtract(self.client.camera.look_at, self.client.camera.position))
        step = np.linalg.norm(before.T_world_camera[:3, 3] - camera.T_world_camera[:3, 3])
        return bool(step > MOVED * reach) or before.fx != camera.fx

    @property
    def settled(self) -> bool:
        """Has the page as many splats as its browser draws?"""
        return not self._reduced or (self._pace.settled and self._pace.allowed == self._allowed)

    @property
    def picture_s(self) -> float:
        """How long the page took for a picture, when it was measured last; 0: never."""
        return self._pace.seconds or 0.0

    @property
    def _reduced(self) -> bool:
        """Does the page get less than all splats?"""
        return len(self.snapshot.splats) > self._allowed

    def _send(self, camera: Camera) -> None:
        tree = self._history.detail(self.snapshot)
        nodes, self._threshold = tree.cut(self._allowed, camera, self.hidden, self._threshold)
        self.shown = len(nodes)
        confidence = None if self.snapshot.confidence is None else nodes["confidence"]
        rgb = colours(nodes, self.snapshot.objects, str(self._mode.value), self.selected, confidence)
        spread = full(nodes["covariance"], nodes["position"], camera) * UNIT**2
        spread = np.clip(spread, -((LARGEST_M * UNIT) ** 2), (LARGEST_M * UNIT) ** 2)
        part = part_of(nodes["position"])
        with self.client.atomic():
            for number in range(PARTS):
                own = part == number
                self._send_part(
                    number,
                    nodes["position"][own] * np.float32(UNIT),
                    spread[own],
                    rgb[own],
                    nodes["opacity"][own, None],
                )
            self._send_box()
            self._status.content = self._told()
        if not self._placed and len(nodes):
            self._placed = True
            self._look_inside()

    def _send_part(self, number: int, *values: np.ndarray) -> None:
        handle = self._parts.get(number)
        if not len(values[0]):
            if handle is not None:
                _set(handle, "visible", False)
            return
        if handle is None:
            handle = self.client.scene.add_gaussian_splats(f"/map/{number}", *values, scale=1 / UNIT)
            self._parts[number] = handle
            self.bytes_sent += handle.buffer.nbytes
            return
        before = handle.buffer
        handle.set_gaussians(*values)  # nothing is sent when all is as it was
        if before.shape != handle.buffer.shape or (before != handle.buffer).any():
            self.bytes_sent += handle.buffer.nbytes
        _set(handle, "visible", True)

    def _send_box(self) -> None:
        scene = self.client.scene
        obj = self.snapshot.objects.get(self.selected)
        for part in self._marks:
            part.remove()
        self._marks = []
        if obj is None or obj.box is None or not self._box.value or self.selected in self.hidden:
            return
        edges = edges_of(obj.box)
        top = obj.box.centre + [0, 0, edges[..., 2].max() - obj.box.centre[2]]
        self._marks = [
            scene.add_line_segments("/selected/box", edges, BOX_RGB, thickness=2.0, thickness_units="screen"),
            scene.add_label("/selected/name", obj.label, position=top),
        ]

    def _told(self) -> str:
        total, snapshot = len(self.snapshot.splats), self.snapshot
        part = f"{self.shown:,} for" if self._reduced else "all" if self.shown == total else f"{self.shown:,} of"
        text = f"{plain(snapshot.name)} revision {snapshot.revision}: {part} {total:,} Gaussians"
        if self._reduced:
            text += f", merged where this view does not show it{self._pace.told}"
        return f"{text}; {len(snapshot.objects)} objects"

    # --- the camera -------------------------------------------------------------------------------------------------

    def _camera(self) -> Camera:
        return camera_of(self.client.camera)

    def _look_inside(self) -> None:
        """Begin inside of the map: what was mapped in a room is seen from inside."""
        position = self.snapshot.splats["position"]
        position = position[np.isfinite(position).all(axis=1)]
        if not len(position):
            return
        low, high = np.percentile(position, (5, 95), axis=0)
        size = np.maximum(high - low, 0.1)
        along = np.array([1.0, 0.0, 0.0]) if size[0] >= size[1] else np.array([0.0, 1.0, 0.0])
        middle = (low + high) / 2
        camera = self.client.camera
        with self.client.atomic():
            camera.up_direction = (0.0, 0.0, 1.0)
            camera.position = middle - 0.45 * size * along + [0, 0, 0.2 * size[2]]
            camera.look_at = middle - [0, 0, 0.1 * size[2]]


def camera_of(handle: viser.CameraHandle) -> Camera:
    """The pinhole camera of a page's view; viser's field of view is the vertical one."""
    height, width = max(int(handle.image_height), 1), max(int(handle.image_width), 1)
    focal = height / 2 / np.tan(handle.fov / 2)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = quaternion_to_matrix(np.roll(handle.wxyz, -1)), handle.position
    return Camera(width, height, focal, focal, width / 2 - 0.5, height / 2 - 0.5, pose)


def edges_of(box: Box) -> np.ndarray:
    """The twelve edges (12, 2, 3) of a box."""
    corners = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    pairs = [(a, b) for a, b in itertools.combinations(range(8), 2) if (corners[a] != corners[b]).sum() == 1]
    return (corners[np.array(pairs)] * box.size) @ box.rotation.T + box.centre


def _class_names(snapshot: Snapshot) -> dict[int, str]:
    return {obj.class_id: obj.class_name for obj in snapshot.objects.values()}


def _set(handle: object, name: str, value: object) -> None:
    """Change what the panel shows; what is shown already is not sent again."""
    if getattr(handle, name) != value:
        setattr(handle, name, value)

"""Reader of ROS 2 bags (mcap, sqlite3) as sequences of posed frames; needs no ROS.

Topics are given by name, or found by type, encoding and name. A frame is a colour image that has a pose at its stamp,
depth and masks within ``tolerance_ms`` of it where the bag has such topics, and the camera_info of its time. Poses come
from /tf and /tf_static, from Odometry (of the body; /tf_static gives the camera on it) or PoseStamped (of the camera).
"""

from __future__ import annotations

import itertools
import re
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from gs_semantic.data.bag_files import Bag, Topic
from gs_semantic.data.images import Lens
from gs_semantic.data.register import DepthRegistration
from gs_semantic.data.sequence import FrameSequence
from gs_semantic.data.trajectory import interpolated_poses, nearest
from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.gaussians import Camera, Frame, MaskInfo
from gs_semantic.labels import LabelSet
from gs_semantic.nodes import images
from gs_semantic.nodes.calibration import is_rectified, read_lens
from gs_semantic.nodes.transforms import TransformBuffer, TransformError, ancestors, checked_transform

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
TF_TYPE = "tf2_msgs/msg/TFMessage"
POSE_SOURCES = ("auto", "tf", "odom", "pose")
GLOBAL_FRAMES = ("map", "odom", "world")
REGISTERED_WORDS = re.compile(r"aligned|registered")
FIRST_TRANSFORMS = 1000  # enough to know the tree
MAX_POSE_GAP_NS = 500_000_000
MASK_WORDS = re.compile(r"instance|mask|segment|label", re.IGNORECASE)
COLOUR_WORDS = re.compile(r"colou?r|rgb", re.IGNORECASE)
OTHER_WORDS = re.compile(r"infra|/ir/|left|right|depth|semantic|confidence", re.IGNORECASE)
ALL_TIME_S = 1e9  # a bag's transforms are all kept


@dataclass(frozen=True)
class BagTopics:
    """The topics of one camera in a bag; empty: there is none. ``pose_source`` is tf, odom or pose."""

    color: str = ""
    camera_info: str = ""
    depth: str = ""
    depth_info: str = ""
    instance: str = ""
    instance_info: str = ""
    label_map: str = ""
    odom: str = ""
    pose: str = ""
    pose_source: str = "auto"


def find_topics(bag: Bag, given: BagTopics | None = None) -> BagTopics:
    """The topics of a bag; those ``given`` are checked and kept.

    InvalidInputError lists what the bag holds when there is no colour image or no camera_info.
    """
    given = given or BagTopics()
    for spec in fields(given):
        name = getattr(given, spec.name)
        if spec.name == "pose_source":
            if name not in POSE_SOURCES:
                raise InvalidRequestError(f"pose_source '{name}': expected one of {', '.join(POSE_SOURCES)}")
        elif name and name not in bag.topics:
            raise InvalidInputError(f"{bag.path}: has no topic {name} ({spec.name}); it has {_listed(bag)}")
    colours, depths, masks = _images(bag)
    color = given.color or _best(colours, lambda t: (bool(COLOUR_WORDS.search(t.name)), not OTHER_WORDS.search(t.name)))
    if not color:
        raise InvalidInputError(f"{bag.path}: has no colour image topic; it has {_listed(bag)}")
    infos = bag.of_type("sensor_msgs/msg/CameraInfo")
    info = given.camera_info or _best(infos, lambda t: (_shared(t.name, color), not OTHER_WORDS.search(t.name)))
    if not info:
        raise InvalidInputError(
            f"{bag.path}: has no camera_info topic (sensor_msgs/msg/CameraInfo) for {color}; it has {_listed(bag)}"
        )
    depth = given.depth or _best(depths, lambda t: ("aligned" in t.name, _shared(t.name, color)))
    others = [topic for topic in infos if topic.name != info]
    instance = given.instance or _best(masks, lambda t: (_shared(t.name, color),))
    odoms, poses = bag.of_type("nav_msgs/msg/Odometry"), bag.of_type("geometry_msgs/msg/PoseStamped")
    return replace(
        given,
        color=color,
        camera_info=info,
        depth=depth,
        depth_info=given.depth_info or (_best(others, lambda t: (_shared(t.name, depth),)) if depth else ""),
        instance=instance,
        instance_info=given.instance_info or _best(bag.of_type("gs_semantic/msg/MaskInfo"), lambda t: (t.count,)),
        label_map=given.label_map or _best(bag.of_type("gs_semantic/msg/LabelMap"), lambda t: (t.count,)),
        odom=given.odom or _best(odoms, lambda t: (t.count,)),
        pose=given.pose or _best(poses, lambda t: (t.count,)),
    )


def find_poses(bag: Bag, topics: BagTopics) -> tuple[str, str]:
    """Pose source (tf, odom or pose) and global frame that the beginning of a bag suggests; the frame may be empty."""
    moving = [topic.name for topic in bag.of_type(TF_TYPE) if not is_static(topic)]
    source = "tf" if moving else "odom" if topics.odom else "pose" if topics.pose else "tf"
    if source != "tf":
        return source, ""
    parents: dict[str, str] = {}
    tree = [topic.name for topic in bag.of_type(TF_TYPE)]
    for name, _, data in itertools.islice(bag.messages(tree), FIRST_TRANSFORMS) if tree else ():
        for item in bag.decode(name, data).transforms:
            parents[item.child_frame_id.lstrip("/")] = item.header.frame_id.lstrip("/")
    first = next(bag.messages([topics.color]), None)
    camera = "" if first is None else _header(first[2], topics.color)[1].lstrip("/")
    return source, global_frame_of(ancestors(parents, camera)) if camera in parents else ""


def global_frame_of(above: list[str]) -> str:
    """Which of the frames above a camera is the map's: a customary name, else the root."""
    return next((name for name in GLOBAL_FRAMES if name in above), above[-1])


def is_static(topic: Topic) -> bool:
    """Whether a topic of transforms holds static ones."""
    return topic.latched or topic.name.endswith("tf_static")


def _images(bag: Bag) -> tuple[list[Topic], list[Topic], list[Topic]]:
    """Image topics that can be colour, depth and masks, by the encoding of their first message and by name."""
    colours, depths, masks = list[Topic](), list[Topic](), list[Topic]()
    for topic in bag.of_type(*IMAGE_TYPES):
        first = next(bag.messages([topic.name]), None)
        if first is None:
            continue
        message = bag.decode(topic.name, first[2])
        encoding = _encoding(message)
        if MASK_WORDS.search(topic.name):
            if encoding in images.INSTANCE:
                masks.append(topic)
        elif encoding in images.DEPTH or "compressedDepth" in topic.name:
            depths.append(topic)
        elif encoding in images.COLOUR:
            colours.append(topic)
    return colours, depths, masks


def _encoding(message: Any) -> str:
    """Encoding of an image; of a compressed one that from which it was made, as its format says."""
    if not images.is_compressed(message):
        return str(message.encoding)
    first = re.split(r"[;\s]", str(message.format).strip(), maxsplit=1)[0]
    return first if first in images.LAYOUTS else "rgb8"  # cameras may say only "jpeg"


def _best(topics: Iterable[Topic], score: Any) -> str:
    """Name of the topic with the best score, then with raw images, then with most messages; empty without topics."""
    ranked = sorted(topics, key=lambda t: (*score(t), not t.type.endswith("CompressedImage"), t.count, t.name))
    return ranked[-1].name if ranked else ""


def _shared(first: str, second: str) -> int:
    """Leading parts of the names that are the same."""
    pairs = zip(first.split("/"), second.split("/"), strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), 0)


def _listed(bag: Bag) -> str:
    return ", ".join(f"{topic.name} ({topic.type})" for topic in bag.topics.values()) or "no topics"


@dataclass(frozen=True)
class _Index:
    """Stamps (ns, rising), times in the bag, and frame names of the messages of one topic."""

    stamps: np.ndarray
    times: np.ndarray
    frames: list[str]

    @classmethod
    def of(cls, rows: dict[int, tuple[int, str]]) -> _Index:
        stamps = sorted(rows)
        return cls(
            np.array(stamps, np.int64), np.array([rows[s][0] for s in stamps], np.int64), [rows[s][1] for s in stamps]
        )


class BagSequence(FrameSequence):
    """The posed colour images of a bag. ``skipped``: why images were left out, and how many; ``damage``: see Bag."""

    format = "bag"

    def __init__(
        self,
        path: str | Path,
        *,
        topics: BagTopics | None = None,
        global_frame: str = "",
        tolerance_ms: float = 20.0,
        **options: Any,
    ) -> None:
        """``global_frame``: frame of the poses; empty: map, odom or world, else the root of the camera's tree."""
        super().__init__(path, **options)
        self.bag = Bag(path)
        self.skipped: Counter[str] = Counter()
        self.topics = find_topics(self.bag, topics)
        self._global_frame, self._tolerance_ns = global_frame, int(tolerance_ms * 1e6)
        self._lock = threading.Lock()
        self._transforms = TransformBuffer(ALL_TIME_S)
        self._parents: dict[str, str] = {}
        self._moving: set[str] = set()
        self._lenses: list[tuple[int, Lens]] = []
        self._depth_lenses: list[tuple[int, Lens]] = []
        self._registration: tuple[Lens, Lens, DepthRegistration] | None = None
        self._tracks: dict[str, dict[int, tuple[np.ndarray, str]]] = {"odom": {}, "pose": {}}
        self._masks_by_stamp: dict[int, dict[int, MaskInfo]] = {}
        indices = self._scan()
        self.has_depth, self.has_instances = bool(self.topics.depth), bool(self.topics.instance)
        self._select(indices)

    @property
    def damage(self) -> list[str]:
        return self.bag.damage

    # --- the first pass ---------------------------------------------------------------------------------------------

    def _scan(self) -> dict[str, _Index]:
        """Read all that is small, and of images only where they are."""
        topics = self.topics
        pictures = {name for name in (topics.color, topics.depth, topics.instance) if name}
        rows: dict[str, dict[int, tuple[int, str]]] = {name: {} for name in pictures}
        static = {topic.name for topic in self.bag.of_type(TF_TYPE) if is_static(topic)}
        moving = {topic.name for topic in self.bag.of_type(TF_TYPE)} - static
        small = {
            topics.camera_info,
            topics.depth_info,
            topics.instance_info,
            topics.label_map,
            topics.odom,
            topics.pose,
        } - {""}
        for name, time_ns, data in self.bag.messages(pictures | small | static | moving):
            if name in pictures:
                stamp, frame = _header(data, f"{self.folder}: {name}")
                rows[name][stamp or time_ns] = (time_ns, frame)
                continue
            try:
                message = self.bag.decode(name, data)
            except InvalidInputError as error:
                self.skipped[str(error)] += 1
                continue
            if name in static or name in moving:
                self._add_transforms(message, name, name in static)
            elif name == topics.camera_info:
                self._add_lens(message, name, self._lenses)
            elif name == topics.depth_info:
                self._add_lens(message, name, self._depth_lenses)
            elif name == topics.instance_info:
                scores = zip(message.ids.tolist(), message.class_ids.tolist(), message.scores.tolist(), strict=False)
                self._masks_by_stamp[_stamp(message)] = {key: MaskInfo(kind, score) for key, kind, score in scores}
            elif name == topics.label_map:
                names = zip(message.class_ids.tolist(), message.names, strict=False)
                self.labels = LabelSet({0: "void", **{key: str(text) for key, text in names}})
            else:
                self._add_pose(message, "odom" if name == topics.odom else "pose")
        if not self._lenses:
            raise InvalidInputError(
                f"{self.folder}: topic {topics.camera_info} holds no usable camera_info: {self._reasons()}"
                + self._hint()
            )
        return {name: _Index.of(found) for name, found in rows.items()}

    def _add_transforms(self, message: Any, topic: str, static: bool) -> None:
        for item in message.transforms:
            t, q = item.transform.translation, item.transform.rotation
            parent, child = item.header.frame_id.lstrip("/"), item.child_frame_id.lstrip("/")
            try:
                matrix = checked_transform(
                    np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]), f"{topic}: transform of '{child}'"
                )
                self._transforms.insert(parent, child, _stamp(item), matrix, static)
            except InvalidInputError as error:
                self.skipped[str(error)] += 1
                continue
            self._parents[child] = parent
            if not static:
                self._moving.add(child)

    def _add_lens(self, message: Any, topic: str, lenses: list[tuple[int, Lens]]) -> None:
        images_topic = self.topics.color if lenses is self._lenses else self.topics.depth
        try:
            lens = read_lens(message, topic, is_rectified(images_topic))
        except InvalidInputError as error:
            self.skipped[str(error)] += 1
            return
        if not lenses or not _same(lenses[-1][1], lens):
            lenses.append((_stamp(message), lens))

    def _add_pose(self, message: Any, kind: str) -> None:
        pose = message.pose.pose if kind == "odom" else message.pose
        p, q = pose.position, pose.orientation
        topic = self.topics.odom if kind == "odom" else self.topics.pose
        try:
            matrix = checked_transform(
                np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]), f"{topic}: field pose"
            )
        except InvalidInputError as error:
            self.skipped[str(error)] += 1
            return
        child = message.child_frame_id.lstrip("/") if kind == "odom" else ""
        self._tracks[kind][_stamp(message)] = (matrix, child)

    # --- the frames -------------------------------------------------------------------------------------------------

    def _select(self, indices: dict[str, _Index]) -> None:
        """Match the topics by stamp, and keep the images that have a pose and all that they need."""
        topics, colour = self.topics, indices[self.topics.color]
        if not len(colour.stamps):
            raise InvalidInputError(f"{self.folder}: topic {topics.color} holds no images" + self._hint())
        partners = {
            name: nearest(indices[name].stamps, colour.stamps, self._tolerance_ns)
            for name in (topics.depth, topics.instance)
            if name
        }
        poses = list(self._poses(colour))
        kept: list[int] = []
        for i, pose in enumerate(poses):
            missing = [name for name, partner in partners.items() if partner[i] < 0]
            if pose is None:
                continue
            if topics.depth in missing:
                self.skipped[f"{topics.depth}: no image within {self._tolerance_ns / 1e6:g} ms of {topics.color}"] += 1
                continue
            kept.append(i)
        if not kept:
            raise InvalidInputError(
                f"{self.folder}: no image of {topics.color} can be used: {self._reasons()}" + self._hint()
            )
        self.poses = np.stack([pose for i in kept if (pose := poses[i]) is not None])
        self._stamps = colour.stamps[kept]
        self._times = colour.times[kept]
        self._frames = [colour.frames[i].lstrip("/") for i in kept]
        self._partners: dict[str, list[tuple[int, int] | None]] = {}  # (time, stamp) per frame
        for name, partner in partners.items():
            index = indices[name]
            self._partners[name] = [
                (int(index.times[partner[i]]), int(index.stamps[partner[i]])) if partner[i] >= 0 else None for i in kept
            ]

    def _reasons(self) -> str:
        return "; ".join(f"{text} ({count} times)" for text, count in self.skipped.most_common(3)) or "there is none"

    def _hint(self) -> str:
        return "".join(f". {sentence}" for sentence in self.damage)

    def _poses(self, colour: _Index) -> Iterator[np.ndarray | None]:
        """Camera-to-world pose at every colour stamp; None, and a reason in ``skipped``, where there is none."""
        source = self.topics.pose_source
        camera_frame = Counter(colour.frames).most_common(1)[0][0].lstrip("/")
        above = ancestors(self._parents, camera_frame)
        if source == "auto":
            moves = any(frame in self._moving for frame in above)
            source = "tf" if moves else "odom" if self._tracks["odom"] else "pose" if self._tracks["pose"] else ""
            if not source and self._global_frame:
                source = "tf"  # a camera that stands still in that frame
        if not source:
            raise InvalidInputError(
                f"{self.folder}: holds no camera poses: no transform on /tf moves frame '{camera_frame}' of "
                f"{self.topics.color}, and there is no Odometry and no PoseStamped; record /tf and /tf_static too"
                + self._hint()
            )
        self.topics = replace(self.topics, pose_source=source)
        if source == "tf":
            target = self._global_frame or global_frame_of(above)
            self._global_frame = target
            for stamp, frame in zip(colour.stamps.tolist(), colour.frames, strict=True):
                yield self._looked_up(target, frame, stamp)
            return
        yield from self._tracked(source, colour)

    def _looked_up(self, target: str, frame: str, stamp: int) -> np.ndarray | None:
        if not frame:
            self.skipped[f"{self.topics.color}: frame_id is empty, so /tf cannot tell the pose"] += 1
            return None
        try:
            return self._transforms.lookup(target, frame, stamp)
        except TransformError as error:
            self.skipped[re.sub(r"[\d.,]+ m?s", "some time", str(error))] += 1
            return None

    def _tracked(self, source: str, colour: _Index) -> Iterator[np.ndarray | None]:
        track, topic = self._tracks[source], self.topics.odom if source == "odom" else self.topics.pose
        stamps = np.array(sorted(track), np.int64)
        poses, known = interpolated_poses(
            stamps, [track[stamp][0] for stamp in stamps.tolist()], colour.stamps, MAX_POSE_GAP_NS
        )
        body = next(iter(track.values()))[1] if track else ""
        for i, (stamp, frame) in enumerate(zip(colour.stamps.tolist(), colour.frames, strict=True)):
            if not known[i]:
                self.skipped[f"{topic or source}: no poses around the stamp of an image of {self.topics.color}"] += 1
                yield None
            elif source == "pose":
                yield poses[i]
            else:
                on_body = np.eye(4) if body == frame.lstrip("/") else self._looked_up(body, frame, stamp)
                yield None if on_body is None else poses[i] @ on_body

    def stamp_ns(self, index: int) -> int:
        return int(self._stamps[self._checked(index)])

    def _lens(self, index: int, lenses: list[tuple[int, Lens]] | None = None) -> Lens:
        """That of the last camera_info that is not newer than the image, else the first."""
        stamp, lenses = int(self._stamps[index]), lenses or self._lenses
        return next((lens for since, lens in reversed(lenses) if since <= stamp), lenses[0][1])

    def _camera(self, index: int) -> Camera:
        return self._lens(index).camera.at(self.poses[index])

    def _read(self, index: int) -> Frame:
        topics, lens, stamp = self.topics, self._lens(index), int(self._stamps[index])
        where = f"{self.folder}: {topics.color}"
        rgb = images.read_colour(self._message(topics.color, int(self._times[index]), stamp), where)
        size = (lens.recorded.height, lens.recorded.width)
        self._check_size(rgb, size, where)
        depth = instances = None
        masks: dict[int, MaskInfo] = {}
        if topics.depth and (at := self._partners[topics.depth][index]) is not None:
            depth = self._registered(self._message(topics.depth, *at), index, lens)
        if topics.instance and (at := self._partners[topics.instance][index]) is not None:
            where = f"{self.folder}: {topics.instance}"
            instances = images.read_instances(self._message(topics.instance, *at), where)
            self._check_size(instances, size, where)
            instances = lens.undistort(instances, labels=True)
            masks = self._masks_by_stamp.get(at[1], {})
        return Frame(stamp, self._camera(index), lens.undistort(rgb), depth, instances, masks)

    def _registered(self, message: Any, index: int, lens: Lens) -> np.ndarray:
        """Depth as the undistorted colour camera sees it."""
        where = f"{self.folder}: {self.topics.depth}"
        depth, colour_frame = images.read_depth(message, where), self._frames[index]
        frame = message.header.frame_id.lstrip("/") or colour_frame
        size = (lens.recorded.height, lens.recorded.width)
        same_frame = frame == colour_frame or REGISTERED_WORDS.search(self.topics.depth)
        if depth.shape == size and same_frame:
            return lens.undistort(depth, labels=True)
        what = (
            f"{where}: is not registered to {self.topics.color}: image is {depth.shape[1]}x{depth.shape[0]} in frame "
            f"'{frame}', colour is {size[1]}x{size[0]} in frame '{colour_frame}'"
        )
        depth_lens = self._lens(index, self._depth_lenses) if self._depth_lenses else None
        if depth_lens is None or (depth_lens.recorded.height, depth_lens.recorded.width) != depth.shape:
            raise InvalidInputError(f"{what}; to register it the bag needs the camera_info of the depth image")
        try:
            T_colour_depth = self._transforms.lookup(colour_frame, frame, int(self._stamps[index]))
        except TransformError as error:
            raise InvalidInputError(f"{what}; to register it the bag needs the transform: {error}") from error
        if self._registration is None or self._registration[0] is not depth_lens or self._registration[1] is not lens:
            self._registration = (depth_lens, lens, DepthRegistration(depth_lens, lens.camera))
        return self._registration[2](depth, T_colour_depth)

    def _check_size(self, pixels: np.ndarray, size: tuple[int, int], where: str) -> None:
        if pixels.shape[:2] != size:
            raise InvalidInputError(
                f"{where}: image is {pixels.shape[1]}x{pixels.shape[0]}, {self.topics.camera_info} says "
                f"{size[1]}x{size[0]}; masks must be registered to the colour image"
            )

    def _message(self, topic: str, time_ns: int, stamp: int) -> Any:
        with self._lock:  # the library reads one file handle
            for _, found, data in self.bag.messages([topic], time_ns, time_ns + 1):
                if (_header(data, topic)[0] or found) == stamp:
                    return self.bag.decode(topic, data)
        raise InvalidInputError(f"{self.folder}: {topic}: the message of {time_ns / 1e9:.3f} s cannot be read again")


def _same(first: Lens, second: Lens) -> bool:
    size = (first.recorded.width, first.recorded.height) == (second.recorded.width, second.recorded.height)
    same_K = np.array_equal(first.recorded.K, second.recorded.K)
    return size and same_K and np.array_equal(first.coefficients, second.coefficients)


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def _header(data: bytes, where: str) -> tuple[int, str]:
    """Stamp and frame_id of a serialised message that begins with a header, without decoding the rest."""
    order = "<" if len(data) > 1 and data[1] & 1 else ">"
    try:
        seconds, nanoseconds, length = struct.unpack_from(f"{order}iII", data, 4)
        frame = bytes(data[16 : 16 + max(0, length - 1)]).decode("utf-8", errors="replace")
    except struct.error:
        raise InvalidInputError(f"{where}: a message is cut short, it has {len(data)} bytes") from None
    return seconds * 1_000_000_000 + nanoseconds, frame

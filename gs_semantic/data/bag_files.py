"""ROS 2 bags as files: topics and serialised messages by time, also of a bag that was cut short.

Works without ROS, through the library rosbags (extra ``bags``). A bag is a folder with metadata.yaml, a folder whose
recorder was killed before it wrote one, or a single .mcap or .db3 file. What is damaged is read as far as it goes;
``Bag.damage`` says how far that was.
"""

from __future__ import annotations

import mmap
import re
import sqlite3
import struct
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

from gs_semantic.errors import InvalidInputError, MissingExtraError
from gs_semantic.share import share_path

if TYPE_CHECKING:
    from rosbags.rosbag2 import Reader
    from rosbags.typesys.store import Typestore

SUFFIXES = (".mcap", ".db3")
METADATA = "metadata.yaml"
OUR_MESSAGES = ("MaskInfo", "LabelMap")

Message = tuple[str, int, bytes]  # topic, time of the recording in ns, CDR bytes


@dataclass(frozen=True)
class Topic:
    """A recorded topic; ``count`` is -1 where the file does not tell. ``latched``: offered as transient local."""

    name: str
    type: str
    count: int
    definition: str
    latched: bool = False


class Storage(Protocol):
    """One file, or a whole undamaged bag."""

    topics: list[Topic]
    span: tuple[int, int]  # times of the first and last message, ns

    def messages(self, names: Collection[str], start: int | None, stop: int | None) -> Iterator[Message]: ...

    def close(self) -> None: ...


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a file with one of its suffixes, or a folder with one in it."""
    if path.is_file():
        return path.suffix in SUFFIXES
    return path.is_dir() and bool(storage_files(path) or (path / METADATA).is_file())


def storage_files(path: Path) -> list[Path]:
    """The files of a bag in the order of their numbers."""
    if path.is_file():
        return [path]
    files = (file for file in path.iterdir() if file.suffix in SUFFIXES)
    return sorted(files, key=lambda file: [int(part) if part.isdecimal() else part for part in _parts(file.stem)])


def _parts(stem: str) -> list[str]:
    return re.split(r"(\d+)", stem)


def import_rosbags() -> None:
    """MissingExtraError that names the extra when rosbags is not installed."""
    try:
        import rosbags.rosbag2  # noqa: F401
    except ImportError:
        raise MissingExtraError.for_module("rosbags", "bags", "reading and writing ROS 2 bags") from None


class Bag:
    """An open bag; a context manager. ``topics`` by name; ``damage``: sentences about what could not be read."""

    def __init__(self, path: str | Path) -> None:
        """InvalidInputError names the file when nothing can be read of it."""
        import_rosbags()
        self.path = Path(path)
        self.damage: list[str] = []
        if not self.path.exists():
            raise InvalidInputError(
                f"{self.path}: no such bag; expected a folder with {METADATA}, a .mcap or a .db3 file"
            )
        self._storages = self._open()
        self.topics: dict[str, Topic] = {}
        for storage in self._storages:
            for topic in storage.topics:
                known = self.topics.get(topic.name)
                if known is not None and known.type != topic.type:
                    raise InvalidInputError(
                        f"{self.path}: topic {topic.name} has two types, {known.type} and {topic.type}"
                    )
                count = topic.count if known is None or known.count < 0 else known.count + max(topic.count, 0)
                self.topics[topic.name] = Topic(
                    topic.name,
                    topic.type,
                    count,
                    topic.definition or (known.definition if known else ""),
                    topic.latched,
                )
        self._types = _typestore(self.topics.values())

    def __enter__(self) -> Bag:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for storage in self._storages:
            storage.close()

    @property
    def span(self) -> tuple[int, int]:
        """Times of the first and the last message, ns."""
        starts, ends = zip(*(storage.span for storage in self._storages), strict=True)
        return min(starts), max(ends)

    def of_type(self, *types: str) -> list[Topic]:
        """The topics of one of these types, e.g. ``sensor_msgs/msg/Image``, that hold messages."""
        return [topic for topic in self.topics.values() if topic.type in types and topic.count != 0]

    def messages(
        self, names: Collection[str] = (), start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        """Messages of some topics (none: all) with ``start <= time < stop`` in the order of their times.

        Where a file breaks off, this ends (the next file follows), and ``damage`` has another sentence.
        """
        wanted = set(names or self.topics)
        for storage in self._storages:
            last = start
            try:
                for message in storage.messages(wanted & {topic.name for topic in storage.topics}, start, stop):
                    last = message[1]
                    yield message
            except Exception as error:  # noqa: BLE001 (of many kinds: the library's, those of decompression, of SQLite)
                self._note(f"{self.path}: damaged after {_seconds(last)}: {error}; what comes before is used")

    def decode(self, topic: str, data: bytes) -> Any:
        """The message of its bytes; InvalidInputError naming the topic when they are none."""
        kind = self.topics[topic].type
        try:
            return self._types.deserialize_cdr(data, kind)
        except Exception as error:
            raise InvalidInputError(f"{self.path}: {topic}: a message is not a {kind}: {error!r}") from error

    def encode(self, kind: str, message: Any) -> bytes:
        """CDR bytes of a message of a type."""
        return bytes(self._types.serialize_cdr(message, kind))

    def make(self, kind: str, **fields: Any) -> Any:
        """A message of a type, all fields given."""
        return self._types.types[kind](**fields)

    def begins_with_header(self, topic: str) -> bool:
        """Whether the messages of a topic begin with a std_msgs/Header, whose stamp lies at byte 4."""
        kind = self.topics[topic].type
        return kind in self._types.fielddefs and any(
            field[1][1] == "std_msgs/msg/Header" for field in self._types.fielddefs[kind][1][:1]
        )

    def _note(self, sentence: str) -> None:
        if sentence not in self.damage:
            self.damage.append(sentence)

    # --- opening ----------------------------------------------------------------------------------------------------

    def _open(self) -> list[Storage]:
        """The whole bag when it is sound, else what can be read of each file."""
        try:
            return [_Sound(self.path)]
        except Exception as error:  # noqa: BLE001 (damaged files lead to errors of many kinds)
            why = str(error) or type(error).__name__
        storages: list[Storage] = []
        try:
            files = storage_files(self.path)
        except OSError as error:
            raise InvalidInputError(f"{self.path}: cannot be read: {error}") from error
        if self.path.is_dir() and not (self.path / METADATA).is_file():
            self._note(f"{self.path / METADATA}: no such file; the recording was not ended properly")
        for file in files:
            try:
                storages.append(self._open_file(file))
            except InvalidInputError as error:
                self._note(str(error))
        if not storages:
            raise InvalidInputError(
                f"{self.path}: nothing can be read of this bag: {self.damage[-1] if self.damage else why}"
            )
        return storages

    def _open_file(self, file: Path) -> Storage:
        try:
            return _Sound(file)
        except Exception as error:  # noqa: BLE001 (see above)
            why = str(error) or type(error).__name__
        size = file.stat().st_size
        storage = _CutMcap(file) if file.suffix == ".mcap" else _CutDatabase(file)
        if isinstance(storage, _CutMcap):
            read = f"{storage.readable:,} of {size:,} bytes"
        else:
            read = f"{storage.count:,} messages"
        self._note(f"{file}: the file is cut short ({why.rstrip('.')}); read {read}, up to {_seconds(storage.span[1])}")
        return storage


def _seconds(time_ns: int | None) -> str:
    return "its beginning" if not time_ns else f"time {time_ns / 1e9:.3f} s"


# --- storages ---------------------------------------------------------------------------------------------------------


class _Sound:
    """Through the library."""

    def __init__(self, path: Any) -> None:
        from rosbags.interfaces import ConnectionExtRosbag2, QosDurability
        from rosbags.rosbag2 import Reader

        self._reader: Reader = Reader(path)
        self._reader.open()
        self.span = (self._reader.start_time, self._reader.end_time - 1)
        self.topics = []
        for connection in self._reader.connections:
            assert isinstance(connection.ext, ConnectionExtRosbag2)
            latched = any(q.durability is QosDurability.TRANSIENT_LOCAL for q in connection.ext.offered_qos_profiles)
            definition = connection.msgdef.data if connection.msgdef.format.name == "MSG" else ""
            self.topics.append(Topic(connection.topic, connection.msgtype, connection.msgcount, definition, latched))

    def messages(self, names: Collection[str], start: int | None, stop: int | None) -> Iterator[Message]:
        chosen = [connection for connection in self._reader.connections if connection.topic in names]
        if not chosen:
            return
        for connection, time_ns, data in self._reader.messages(chosen, start, stop):
            yield connection.topic, time_ns, bytes(data)

    def close(self) -> None:
        self._reader.close()


MCAP_MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x03, 0x04, 0x05, 0x06  # records (https://mcap.dev/spec)
MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, number, log time, publish time
CHUNKS_KEPT = 4


class _CutMcap:
    """An MCAP file without its index, which stands at the end: its whole records, in the order of their times."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with file.open("rb") as stream:
            if stream.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
                raise InvalidInputError(f"{file}: nothing can be read of it: it is not an MCAP file")
            self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.readable = len(MCAP_MAGIC)
        self._schemas: dict[int, tuple[str, str]] = {}  # name, definition
        self._channels: dict[int, Topic] = {}
        self._entries: list[tuple[int, int, int, int, int]] = []  # time, chunk (0: none), start and end there, channel
        self._chunk = lru_cache(CHUNKS_KEPT)(self._unpacked)
        for kind, start, end in _records(self._bytes, len(MCAP_MAGIC)):
            if kind == CHUNK:
                try:
                    content = self._chunk(start)
                except Exception:  # noqa: BLE001 (of many kinds: whatever damaged data leads to)
                    break  # as if it were cut short here
                for inner, first, last in _records(content, 0):
                    self._take(inner, content, first, last, start)
            else:
                self._take(kind, self._bytes, start, end, 0)
            self.readable = end
        if not self._entries:
            raise InvalidInputError(f"{file}: nothing can be read of it: it is cut short before its first message")
        self._entries.sort(key=lambda entry: entry[0])
        self.span = (self._entries[0][0], self._entries[-1][0])
        counts = Counter(entry[4] for entry in self._entries)
        self.topics = [replace(topic, count=counts[number]) for number, topic in self._channels.items()]

    def _take(self, kind: int, content: bytes | mmap.mmap, start: int, end: int, chunk: int) -> None:
        if kind == MESSAGE:
            channel, _, time_ns, _ = MESSAGE_HEAD.unpack_from(content, start)
            self._entries.append((time_ns, chunk, start + MESSAGE_HEAD.size, end, channel))
        elif kind == SCHEMA:
            (number,) = struct.unpack_from("<H", content, start)
            name, at = _text(content, start + 2)
            encoding, at = _text(content, at)
            definition = _text(content, at)[0]
            self._schemas[number] = (name, definition if encoding == "ros2msg" else "")
        elif kind == CHANNEL:
            number, schema = struct.unpack_from("<HH", content, start)
            topic, at = _text(content, start + 4)
            metadata = bytes(content[_text(content, at)[1] : end])
            name, definition = self._schemas.get(schema, ("", ""))
            latched = re.search(rb"durability: (1|transient_local)", metadata) is not None
            self._channels.setdefault(number, Topic(topic, name, 0, definition, latched))

    def _unpacked(self, start: int) -> bytes:
        """The records of a chunk."""
        size, checksum = struct.unpack_from("<QI", self._bytes, start + 16)
        compression, at = _text(self._bytes, start + 28)
        (packed,) = struct.unpack_from("<Q", self._bytes, at)
        content = self._bytes[at + 8 : at + 8 + packed]
        if compression:
            content = _decompress(compression, content)
        if len(content) != size or (checksum and crc32(content) != checksum):
            raise ValueError("a chunk is damaged")
        return content

    def messages(self, names: Collection[str], start: int | None, stop: int | None) -> Iterator[Message]:
        wanted = {number: topic.name for number, topic in self._channels.items() if topic.name in names}
        low = 0 if start is None else bisect_left(self._entries, (start,))
        for time_ns, chunk, first, last, channel in islice(self._entries, low, None):
            if stop is not None and time_ns >= stop:
                return
            if channel in wanted:
                content = self._chunk(chunk) if chunk else self._bytes
                yield wanted[channel], time_ns, content[first:last]

    def close(self) -> None:
        self._chunk.cache_clear()
        self._bytes.close()


def _records(content: bytes | mmap.mmap, at: int) -> Iterator[tuple[int, int, int]]:
    """Kind, beginning and end of the complete records from a place on."""
    while at + 9 <= len(content):
        start = at + 9
        end = start + struct.unpack_from("<Q", content, at + 1)[0]
        if end > len(content):
            return
        yield content[at], start, end
        at = end


def _text(content: bytes | mmap.mmap, at: int) -> tuple[str, int]:
    """A text and where it ends."""
    end = at + 4 + struct.unpack_from("<I", content, at)[0]
    return bytes(content[at + 4 : end]).decode("utf-8", errors="replace"), end


def _decompress(kind: str, data: bytes) -> bytes:
    """By the libraries that rosbags brings along."""
    if kind == "lz4":
        import lz4.frame

        return bytes(lz4.frame.decompress(data))
    if kind != "zstd":
        raise ValueError(f"its compression '{kind}' is not known")
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return bytes(zstd.decompress(data))


class _CutDatabase:
    """A SQLite bag of which pages are missing: its messages in the order of their numbers until one is not there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            self._database.execute("PRAGMA writable_schema=ON")  # or SQLite opens no file that is too short
            columns = {row[1] for row in self._database.execute("PRAGMA table_info(topics)")}
            qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
            rows = self._database.execute(f"SELECT id, name, type, {qos} FROM topics").fetchall()
        except sqlite3.Error as error:
            raise InvalidInputError(f"{file}: nothing can be read of it: {error}") from error
        if not rows:
            raise InvalidInputError(f"{file}: has no topics")
        self._names = {row[0]: row[1] for row in rows}
        counts = dict.fromkeys(self._names, 0)
        self._readable, self.count = 0, 0
        start, end = 2**63 - 1, 0
        with suppress(sqlite3.Error):  # where it breaks off
            for number, topic, time_ns in self._database.execute("SELECT id, topic_id, timestamp FROM messages"):
                counts[topic] += 1
                start, end = min(start, time_ns), max(end, time_ns)
                self._readable, self.count = number, self.count + 1
        self.span = (start, end)
        definitions: dict[str, str] = {}
        with suppress(sqlite3.Error):  # older bags have no such table
            for kind, text in self._database.execute(
                "SELECT topic_type, encoded_message_definition FROM message_definitions WHERE encoding = 'ros2msg'"
            ):
                definitions[kind] = text
        self.topics = [
            Topic(
                name,
                kind,
                counts[number],
                definitions.get(kind, ""),
                bool(re.search(r"durability: (1|transient)", qos)),
            )
            for number, name, kind, qos in rows
        ]

    def messages(self, names: Collection[str], start: int | None, stop: int | None) -> Iterator[Message]:
        wanted = [number for number, name in self._names.items() if name in names]
        query = (
            "SELECT topic_id, timestamp, data FROM messages NOT INDEXED "
            f"WHERE id <= ? AND topic_id IN ({','.join('?' * len(wanted))}) AND timestamp >= ? AND timestamp < ? ORDER BY id"
        )
        low, high = (0 if start is None else start), (2**63 - 1 if stop is None else stop)
        for topic, time_ns, data in self._database.execute(query, (self._readable, *wanted, low, high)):
            yield self._names[topic], time_ns, data

    def close(self) -> None:
        self._database.close()


# --- types ------------------------------------------------------------------------------------------------------------


def typestore() -> Typestore:
    """The standard messages of ROS 2 and those of this package that recordings hold."""
    import_rosbags()
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_KILTED)
    for name in OUR_MESSAGES:
        text = share_path("msg", f"{name}.msg").read_text(encoding="utf-8")
        store.register(get_types_from_msg(text, f"gs_semantic/msg/{name}"))
    return store


def _typestore(topics: Collection[Topic]) -> Typestore:
    """The same with what the bag itself defines beyond it."""
    from rosbags.typesys import get_types_from_msg

    store = typestore()
    for topic in topics:
        if topic.definition and topic.type not in store.types:
            with suppress(Exception):  # a definition that is not understood: only this topic cannot be decoded
                found = get_types_from_msg(topic.definition, topic.type)
                store.register({name: kind for name, kind in found.items() if name not in store.types})
    return store

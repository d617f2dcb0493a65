"""Look at recorded sequences, write them as ROS 2 bags or as folders of images, and make scenes in code.

Formats that are read: our own folders of images, ROS 2 bags (mcap, sqlite3), TUM RGB-D, Replica, ScanNet, nerfstudio and
instant-ngp, COLMAP, Gaussian Grouping, LERF-Mask. docs/data.md describes each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gs_semantic.cli import options

if TYPE_CHECKING:
    from gs_semantic.data.sequence import FrameSequence

EXAMPLES = """examples:
  gs-semantic data info sample/house
  gs-semantic data to-bag sample/house house_bag --masks shuffled
  gs-semantic data to-bag my_scan scan_bag --format sqlite3 --images compressed
  gs-semantic data convert house_bag house_copy --max-width 320
  gs-semantic data make-objects many --count 100 && gs-semantic map many/train many_map --masks shuffled
  gs-semantic data make-rooms rooms --count 24 --test 20 --jobs 2"""

INFO_FRAMES = 20  # looked at for shares and the box
SEQUENCE: dict[str, Any] = {"type": Path, "help": "recorded sequence, of any format"}


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="data_verb", required=True, metavar="WHAT")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXAMPLES,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        return sub

    info = add("info", "Format, frames, sizes, share of pixels with depth, labels and bounding box of a sequence.")
    info.add_argument("sequence", **SEQUENCE)
    options.add_json(info)
    to_bag = add("to-bag", "Write a sequence as a ROS 2 bag, as a camera would have sent it.")
    to_bag.add_argument("sequence", **SEQUENCE)
    to_bag.add_argument("bag", type=Path, help="folder of the bag to write; an older bag there is replaced")
    to_bag.add_argument("--format", choices=("mcap", "sqlite3"), default="mcap", help="storage of the bag [mcap]")
    to_bag.add_argument(
        "--images",
        choices=("raw", "compressed"),
        default="raw",
        help="raw, or JPEG for colour and PNG for the rest [raw]",
    )
    to_bag.add_argument("--namespace", default="/gs_semantic", help="of the camera's topics [/gs_semantic]")
    options.add_masks(to_bag, default="perfect")
    convert = add("convert", "Write a sequence as a folder of images in our own format.")
    convert.add_argument("sequence", **SEQUENCE)
    convert.add_argument("folder", type=Path, help="folder to write; it must not exist yet")
    for sub in (to_bag, convert):
        options.add_noise(sub)
        sub.add_argument(
            "--max-width", type=int, default=0, metavar="PX", help="scale wider images down to this [0: no]"
        )
        sub.add_argument("--every", type=int, default=1, metavar="K", help="take every K-th frame only [1]")
    convert.set_defaults(seed=0)
    make = add("make-objects", "Make a room with many small objects: views for mapping in train/, others in test/.")
    make.add_argument("folder", type=Path, help="folder to write; it must not exist yet")
    make.add_argument("--count", type=int, default=25, metavar="N", help="objects [25]")
    make.add_argument("--seed", type=int, default=0, help="another seed, another scene [0]")
    make.add_argument("--views", type=int, default=80, metavar="N", help="views in train/ [80]")
    make.add_argument("--test-views", type=int, default=20, metavar="N", help="views in test/, between those [20]")
    make.add_argument("--size", default="320x240", metavar="WxH", help="image size [320x240]")
    rooms = add(
        "make-rooms", "Make furnished rooms with classes, instances and depth, to train methods that generalise."
    )
    rooms.add_argument("folder", type=Path, help="folder to write; rooms that are there already are kept")
    rooms.add_argument("--count", type=int, default=24, metavar="N", help="rooms to train on [24]")
    rooms.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first room to train on [0]")
    rooms.add_argument("--validation", type=int, default=4, metavar="N", help="rooms to choose checkpoints at [4]")
    rooms.add_argument("--test", type=int, default=0, metavar="N", help="unseen rooms for scores, 20 are published [0]")
    rooms.add_argument("--views", type=int, default=40, metavar="N", help="views of each room [40]")
    rooms.add_argument("--novel", type=int, default=10, metavar="N", help="further views of each, between those [10]")
    rooms.add_argument("--size", default="160x120", metavar="WxH", help="image size [160x120]")
    rooms.add_argument("--depth-noise", action="store_true", help="noise of 1.5 mm x z^2 and 5 %% holes on the depth")
    rooms.add_argument("--plain", action="store_true", help="no change of exposure, no blur, no grain")
    rooms.add_argument("--maps", action="store_true", help="map every room, too, which training does else when it is due")
    rooms.add_argument("--jobs", type=int, default=1, metavar="N", help="processes [1]")


def run(arguments: argparse.Namespace) -> int:
    verbs = {
        "info": run_info,
        "to-bag": run_to_bag,
        "convert": run_convert,
        "make-objects": run_make_objects,
        "make-rooms": run_make_rooms,
    }
    return verbs[arguments.data_verb](arguments)


def run_info(arguments: argparse.Namespace) -> int:
    from gs_semantic.data.formats import open_sequence

    sequence = open_sequence(arguments.sequence)
    options.report(arguments, f"{arguments.sequence}", describe(sequence))
    for sentence in getattr(sequence, "damage", []):
        print(f"damaged: {sentence}")
    for reason, count in getattr(sequence, "skipped", {}).items():
        print(f"left out, {count} times: {reason}")
    return 0


def describe(sequence: FrameSequence) -> dict[str, Any]:
    """What is worth knowing of a sequence, by name; shares and box are of a few frames all over it."""
    import numpy as np

    count = len(sequence)
    sizes = sorted({(sequence.camera(i).width, sequence.camera(i).height) for i in range(count)})
    results: dict[str, Any] = {
        "format": sequence.format,
        "frames": count,
        "size": ", ".join(f"{width}x{height}" for width, height in sizes),
        "duration_s": (sequence.stamp_ns(count - 1) - sequence.stamp_ns(0)) * 1e-9,
        "depth": sequence.has_depth,
        "instances": sequence.has_instances,
        "semantic": sequence.has_semantic,
    }
    if topics := getattr(sequence, "topics", None):  # of a bag
        found = {spec.name: getattr(topics, spec.name) for spec in fields(topics)}
        results["topics"] = ", ".join(f"{name} {topic}" for name, topic in found.items() if topic)
    places = sequence.poses[:, :3, 3]
    results["path_m"] = float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())
    depth_shares, label_shares, ids, classes, points = [], [], set[int](), set[int](), [places.astype(np.float32)]
    for index in np.unique(np.linspace(0, count - 1, min(count, INFO_FRAMES)).round().astype(int)).tolist():
        frame = sequence[index]
        if frame.depth is not None:
            valid = np.isfinite(frame.depth) & (frame.depth > 0)
            depth_shares.append(valid.mean())
            points.append(frame.camera.unproject(frame.depth)[valid][::97])
        if frame.instances is not None:
            label_shares.append((frame.instances > 0).mean())
            ids |= set(np.unique(frame.instances).tolist()) - {0}
            classes |= {info.class_id for info in frame.masks.values()} - {0}
    sparse = sequence.sparse_points()
    if sparse is not None:
        results["sparse_points"] = len(sparse)
        points.append(sparse.xyz)
    if depth_shares:
        results["depth_share"] = float(np.mean(depth_shares))
    if label_shares:
        names = ", ".join(sequence.labels.name(key) for key in sorted(classes))
        results |= {"labelled_share": float(np.mean(label_shares)), "mask_ids": len(ids), "classes": names}
    low, high = np.percentile(np.concatenate(points), [0.5, 99.5], axis=0)
    for name, corner in (("box_low_m", low), ("box_high_m", high)):
        results[name] = " ".join(f"{value:.2f}" for value in corner)
    return results


def _opened(arguments: argparse.Namespace) -> tuple[FrameSequence, list[int]]:
    from gs_semantic.data.formats import open_sequence
    from gs_semantic.errors import InvalidRequestError

    if arguments.every < 1 or arguments.max_width < 0:
        raise InvalidRequestError("--every: expected a number from 1 on; --max-width: expected 0 or a number of pixels")
    sequence = open_sequence(arguments.sequence, noise=options.noise_of(arguments), max_width=arguments.max_width)
    return sequence, list(range(0, len(sequence), arguments.every))


def run_to_bag(arguments: argparse.Namespace) -> int:
    from gs_semantic.data.bag_writer import write_sequence

    sequence, indices = _opened(arguments)
    with options.progress_bar("writing", len(indices)) as advance:
        frames = write_sequence(
            sequence,
            arguments.bag,
            storage=arguments.format,
            images=arguments.images,
            damage=options.damage_of(arguments),
            indices=indices,
            namespace=arguments.namespace,
            progress=advance,
        )
    _print_written(arguments.bag, frames, arguments.bag.rglob("*"))
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    from gs_semantic.data.folder_writer import write_folder

    sequence, indices = _opened(arguments)
    with options.progress_bar("writing", len(indices)) as advance:
        write_folder(sequence, arguments.folder, indices, advance)
    _print_written(arguments.folder, len(indices), arguments.folder.rglob("*"))
    return 0


def run_make_objects(arguments: argparse.Namespace) -> int:
    from gs_semantic.data.folder_writer import write_folder
    from gs_semantic.data.procedural import ObjectScene, ProceduralSequence
    from gs_semantic.errors import InvalidRequestError, StorageError

    size = options.size(arguments.size)
    if arguments.views < 1 or arguments.test_views < 1:
        raise InvalidRequestError("--views, --test-views: expected a number from 1 on")
    if arguments.folder.exists():
        raise StorageError(f"{arguments.folder}: is there already; choose another name")
    scene = ObjectScene.make(arguments.count, arguments.seed)
    with options.progress_bar("making", arguments.views + arguments.test_views) as advance:
        for name, count, phase in (("train", arguments.views, 0.0), ("test", arguments.test_views, 0.5)):
            sequence = ProceduralSequence(scene, scene.cameras(count, size, phase), cache=1)
            write_folder(sequence, arguments.folder / name, progress=advance)
    _print_written(arguments.folder, arguments.views + arguments.test_views, arguments.folder.rglob("*"))
    return 0


def run_make_rooms(arguments: argparse.Namespace) -> int:
    from gs_semantic.data.room_writer import RoomFormat, room_folder, seeds_of, write_rooms
    from gs_semantic.errors import InvalidRequestError

    counts = {"train": arguments.count, "validation": arguments.validation, "test": arguments.test}
    if min(counts.values()) < 0 or not any(counts.values()):
        raise InvalidRequestError("--count, --validation, --test: expected numbers from 0 on, and one room or more")
    width, height = options.size(arguments.size)
    form = RoomFormat(width, height, arguments.views, arguments.novel, not arguments.plain, arguments.depth_noise)
    rooms = [(split, seed) for split, count in counts.items() for seed in seeds_of(split, count, arguments.first)]
    with options.progress_bar("rooms", len(rooms)) as advance:
        write_rooms(arguments.folder, rooms, form, arguments.jobs, advance)
    if arguments.maps:
        from gs_semantic.segmentation.generalization.scenes import make_maps

        folders = [room_folder(arguments.folder, split, seed) for split, seed in rooms]
        with options.progress_bar("maps", len(folders)) as advance:
            make_maps(folders, arguments.jobs, advance)
    _print_written(arguments.folder, len(rooms) * (form.views + form.novel), arguments.folder.rglob("*"))
    return 0


def _print_written(path: Path, frames: int, files: Iterable[Path]) -> None:
    size = sum(file.stat().st_size for file in files if file.is_file())
    print(f"{path}: {frames} frames, {size / 1e6:.1f} MB")

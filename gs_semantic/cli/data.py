"""Look at recorded sequences and write them as ROS 2 bags or as folders of images.

Formats that are read: our own folders of images, ROS 2 bags (mcap, sqlite3), TUM RGB-D, Replica, ScanNet, nerfstudio and
instant-ngp, COLMAP, Gaussian Grouping, LERF-Mask. docs/data.md describes each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gs_semantic.cli import options

if TYPE_CHECKING:
    from gs_semantic.data.sequence import FrameSequence

EXAMPLES = """examples:
  gs-semantic data info sample/house
  gs-semantic data to-bag sample/house house_bag --masks shuffled
  gs-semantic data to-bag my_scan scan_bag --format sqlite3 --images compressed
  gs-semantic data convert house_bag house_copy --max-width 320"""

INFO_FRAMES = 20  # looked at for shares and the box


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
        sub.add_argument("sequence", type=Path, help="recorded sequence, of any format")
        return sub

    info = add("info", "Format, frames, sizes, share of pixels with depth, labels and bounding box of a sequence.")
    options.add_json(info)
    to_bag = add("to-bag", "Write a sequence as a ROS 2 bag, as a camera would have sent it.")
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
    convert.add_argument("folder", type=Path, help="folder to write; it must not exist yet")
    for sub in (to_bag, convert):
        options.add_noise(sub)
        sub.add_argument(
            "--max-width", type=int, default=0, metavar="PX", help="scale wider images down to this [0: no]"
        )
        sub.add_argument("--every", type=int, default=1, metavar="K", help="take every K-th frame only [1]")
    convert.set_defaults(seed=0)


def run(arguments: argparse.Namespace) -> int:
    return {"info": run_info, "to-bag": run_to_bag, "convert": run_convert}[arguments.data_verb](arguments)


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


def _print_written(path: Path, frames: int, files: Iterable[Path]) -> None:
    size = sum(file.stat().st_size for file in files if file.is_file())
    print(f"{path}: {frames} frames, {size / 1e6:.1f} MB")

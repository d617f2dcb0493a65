"""Which format a recording has, and its reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gs_semantic.data.bag import BagSequence
from gs_semantic.data.bag_files import is_bag
from gs_semantic.data.colmap import ColmapSequence, find_model
from gs_semantic.data.grouping import GroupingSequence, is_grouping
from gs_semantic.data.nerfstudio import TransformsSequence, find_transforms
from gs_semantic.data.replica import ReplicaSequence
from gs_semantic.data.scannet import ScanNetSequence
from gs_semantic.data.sequence import FrameSequence, RgbdSequence
from gs_semantic.data.tum import TumSequence
from gs_semantic.errors import InvalidInputError, InvalidRequestError


@dataclass(frozen=True)
class Format:
    """A format: how to recognise it, how to read it, and what to expect in its folder."""

    name: str
    recognises: Callable[[Path], bool]
    open: Callable[..., FrameSequence]
    expects: str


def _holds(*names: str) -> Callable[[Path], bool]:
    return lambda path: all((path / name).exists() for name in names)


FORMATS = (  # in the order in which they are tried: the first that recognises the path reads it
    Format("rgbd", _holds("traj.txt", "rgb"), RgbdSequence, "rgb/, traj.txt and intrinsics.json"),
    Format(
        "nerfstudio",
        lambda path: find_transforms(path) is not None,
        TransformsSequence,
        "transforms.json (also as path)",
    ),
    Format("replica", _holds("traj.txt", "results"), ReplicaSequence, "results/, traj.txt and cam_params.json"),
    Format("scannet", _holds("color", "depth", "pose"), ScanNetSequence, "color/, depth/, pose/ and intrinsic/"),
    Format("tum", _holds("rgb.txt"), TumSequence, "rgb.txt, depth.txt and groundtruth.txt"),
    Format("bag", is_bag, BagSequence, "a ROS 2 bag: its folder, or a .mcap or .db3 file"),
    Format(
        "gaussian_grouping",
        is_grouping,
        GroupingSequence,
        "a COLMAP model with object_mask/ or test_mask/ (LERF-Mask)",
    ),
    Format("colmap", lambda path: find_model(path) is not None, ColmapSequence, "sparse/0/cameras.bin and images.bin"),
)


def format_of(path: str | Path) -> Format:
    """The format of a recording; InvalidInputError lists what is known when it has none of them."""
    path = Path(path)
    if not path.exists():
        raise InvalidInputError(f"{path}: no such folder or file; expected a recorded sequence")
    for candidate in FORMATS:
        if candidate.recognises(path):
            return candidate
    known = "; ".join(f"{candidate.name}: {candidate.expects}" for candidate in FORMATS)
    raise InvalidInputError(f"{path}: is no recording in a known format. Expected one of: {known}")


def open_sequence(path: str | Path, *, format: str = "", **options: Any) -> FrameSequence:
    """Open a recorded sequence of any format; ``format`` names it instead of finding out.

    ``options`` are those of FrameSequence (noise, cache, max_width, period_ns, start_ns) and of the format's reader.
    """
    if format:
        chosen = next((candidate for candidate in FORMATS if candidate.name == format), None)
        if chosen is None:
            raise InvalidRequestError(f"format '{format}': expected one of {', '.join(f.name for f in FORMATS)}")
        return chosen.open(path, **options)
    return format_of(path).open(path, **options)

"""Edit a map object by object and write the result: as a map folder, or as a PLY file when OUT ends in .ply.

remove takes objects out, extract keeps nothing else, move turns and shifts them, swap lets two change places, mesh makes
triangles of them (.ply or .glb); merge-maps adds a second map of the same place and says which id each of its objects
has then; identify labels Gaussians by a field that `train coseg` left. Objects are named by their ids or names
(`gs-semantic edit list MAP` shows both). The map itself stays as it is unless OUT is the same folder; either way the old
content stays whole until the new one is complete.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gs_semantic.cli import options

if TYPE_CHECKING:
    from gs_semantic.gaussians import GaussianMap
    from gs_semantic.objects.edit import Selection
    from gs_semantic.objects.registry import ObjectRegistry

EXAMPLES = """examples:
  gs-semantic edit list house_map
  gs-semantic edit remove house_map without_chairs --object 12 31
  gs-semantic edit remove house_map clean --object sofa --rule grouping
  gs-semantic edit extract house_map mug.ply --object 17
  gs-semantic edit move house_map moved --object 12 --by 0.5 0 0 --turn 0 0 90
  gs-semantic edit swap house_map swapped --object 12 31
  gs-semantic edit identify grown_map labelled --field house_coseg/checkpoint.pt --sequence sample/house --unlabelled
  gs-semantic edit merge-maps monday tuesday both --json ids.json
  gs-semantic edit mesh house_map chair.glb --object 12 --trajectory sample/house"""


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="edit_verb", required=True, metavar="WHAT")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXAMPLES,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        sub.add_argument("map", type=Path, help="map folder")
        if name == "merge-maps":
            sub.add_argument("second", type=Path, help="map folder that is added")
        if name != "list":
            what = "mesh to write, .ply or .glb" if name == "mesh" else "map folder or .ply file to write"
            sub.add_argument("out", type=Path, help=f"{what}; an older one is replaced")
        if name not in ("list", "identify", "merge-maps"):
            sub.add_argument("--object", nargs="+", required=True, metavar="ID", help="ids or names of objects")
            sub.add_argument(
                "--rule",
                choices=("label", "grouping"),
                default="label",
                help="Gaussians of an object: those labelled so, or as Gaussian Grouping removes objects: more probable "
                "than --probability, and all inside their hull [label]",
            )
            sub.add_argument("--probability", type=float, default=0.3, help="of --rule grouping [0.3]")
        options.add_json(sub)
        return sub

    add("list", "Ids, names, sizes and places of the objects of a map.")
    add("remove", "Take objects out of a map.")
    add("extract", "Keep nothing but the given objects.")
    moving = add("move", "Turn and shift objects.")
    moving.add_argument(
        "--by", type=float, nargs=3, default=(0.0, 0.0, 0.0), metavar=("X", "Y", "Z"), help="shift, m in the map frame"
    )
    moving.add_argument(
        "--turn",
        type=float,
        nargs=3,
        default=(0.0, 0.0, 0.0),
        metavar=("RX", "RY", "RZ"),
        help="degrees about the map's x, then y, then z axis, around the middle of the objects",
    )
    add("swap", "Let two objects change places.")
    merging = add("merge-maps", "Make one map of two of the same place; ids of the first one stay.")
    merging.add_argument(
        "--pose",
        type=float,
        nargs=4,
        metavar=("X", "Y", "Z", "YAW"),
        help="where the second map's frame is in the first one's, m and degrees about z [as their anchors say, or the same]",
    )
    identify = add("identify", "Label Gaussians by a trained CoSegGaussians field, without training.")
    identify.add_argument("--field", type=Path, required=True, help="checkpoint.pt of a `gs-semantic train coseg` run")
    identify.add_argument("--sequence", type=Path, required=True, help="recorded views that show the Gaussians")
    identify.add_argument(
        "--unlabelled", action="store_true", help="label only what has no object yet, as what the mapper added later"
    )
    mesh = add("mesh", "Make a triangle mesh of objects, from depth rendered at many views (needs Open3D).")
    mesh.add_argument(
        "--trajectory", type=Path, help="sequence whose views are used, best that of the map [views from all around]"
    )
    mesh.add_argument("--voxel", type=float, metavar="M", help="size of the details [a hundredth of the object]")


def run(arguments: argparse.Namespace) -> int:
    from gs_semantic.gaussians.map_folder import load_map

    gaussians, objects = load_map(arguments.map)
    if arguments.edit_verb == "list":
        return run_list(arguments, objects)
    if arguments.edit_verb == "mesh":
        return run_mesh(arguments, gaussians, objects)
    if arguments.edit_verb == "identify":
        return run_identify(arguments, gaussians, objects)
    if arguments.edit_verb == "merge-maps":
        return run_merge_maps(arguments, gaussians, objects)
    before = len(gaussians), len(objects)
    _apply(arguments, gaussians, objects)
    _write(arguments.out, gaussians, objects)
    results = {
        "gaussians_before": before[0],
        "gaussians": len(gaussians),
        "objects_before": before[1],
        "objects": len(objects),
    }
    options.report(arguments, f"{arguments.out}: {arguments.map} after {arguments.edit_verb}", results)
    return 0


def run_merge_maps(arguments: argparse.Namespace, gaussians: GaussianMap, objects: ObjectRegistry) -> int:
    """Two maps as one, and what became of the second one's objects."""
    import numpy as np

    from gs_semantic.gaussians.map_folder import load_map
    from gs_semantic.objects.edit import turn_about
    from gs_semantic.objects.merging import merge_maps

    pose = None
    if arguments.pose is not None:
        *shift, yaw = arguments.pose
        pose = turn_about(np.zeros(3), np.array([0.0, 0.0, yaw]), np.array(shift))
    report = merge_maps((gaussians, objects), load_map(arguments.second), pose)
    _write(arguments.out, gaussians, objects)
    results: dict[str, object] = {
        "gaussians": len(gaussians),
        "gaussians_added": report.added,
        "gaussians_covered": report.covered,
        **{f"objects_{what}": report.count(what) for what in ("same", "added", "deleted", "empty")},
        "objects": len(objects.present()),
    }
    for found in report.objects:
        said = "".join(f"; {text}" for text in found.disagreements)
        overlap = f", overlap {found.overlap:.2f}" if found.what == "same" else ""
        results[f"id_{found.second_id}"] = (
            f"{found.what}{f' as {found.id}' if found.id else ''}: {found.label}{overlap}{said}"
        )
    options.report(arguments, f"{arguments.out}: {arguments.map} with {arguments.second}", results)
    return 0


def _write(out: Path, gaussians: GaussianMap, objects: ObjectRegistry) -> None:
    from gs_semantic.gaussians.map_folder import save_map
    from gs_semantic.gaussians.ply import save_ply

    if out.suffix.lower() == ".ply":
        save_ply(out, gaussians)
    else:
        save_map(out, gaussians, objects)


def run_identify(arguments: argparse.Namespace, gaussians: GaussianMap, objects: ObjectRegistry) -> int:
    """Objects for Gaussians from what recorded views show of them."""
    import numpy as np

    from gs_semantic.data.formats import open_sequence
    from gs_semantic.segmentation.methods.coseg.trained import TrainedField

    field = TrainedField.load(arguments.field)
    sequence = open_sequence(arguments.sequence, max_width=field.config.width)
    views = [(frame.camera, frame.rgb) for frame in sequence]
    rows = np.arange(len(gaussians))
    if arguments.unlabelled and "object" in gaussians:
        rows = rows[gaussians["object"].numpy() == 0]
    labelled = field.label(gaussians, objects, views, rows)
    _write(arguments.out, gaussians, objects)
    results = {"gaussians": len(gaussians), "asked": len(rows), "labelled": labelled, "objects": len(objects)}
    options.report(arguments, f"{arguments.out}: {arguments.map} identified by {arguments.field}", results)
    return 0


def _apply(arguments: argparse.Namespace, gaussians: GaussianMap, objects: ObjectRegistry) -> None:
    import numpy as np

    from gs_semantic.errors import InvalidRequestError
    from gs_semantic.objects import edit

    chosen = edit.find_objects(objects, arguments.object)
    selection = _selection(arguments)
    if arguments.edit_verb == "remove":
        edit.remove(gaussians, objects, chosen, selection)
    elif arguments.edit_verb == "extract":
        edit.extract(gaussians, objects, chosen, selection)
    elif arguments.edit_verb == "swap":
        if len(chosen) != 2:
            raise InvalidRequestError(f"swap: expected two objects, got {len(chosen)}")
        edit.swap(gaussians, objects, chosen[0], chosen[1], selection)
    else:
        placed = [obj.centroid for obj in chosen if obj.centroid is not None]
        centre = np.mean(placed, axis=0) if placed else np.zeros(3)
        motion = edit.turn_about(centre, np.array(arguments.turn), np.array(arguments.by))
        edit.move(gaussians, objects, chosen, motion, selection)


def _selection(arguments: argparse.Namespace) -> Selection:
    from gs_semantic.objects.edit import Selection

    return Selection(arguments.probability, hull=True) if arguments.rule == "grouping" else Selection()


def run_mesh(arguments: argparse.Namespace, gaussians: GaussianMap, objects: ObjectRegistry) -> int:
    from gs_semantic.data.formats import open_sequence
    from gs_semantic.objects import edit
    from gs_semantic.objects.mesh import object_mesh
    from gs_semantic.rendering import create_rasterizer

    cameras = None
    if arguments.trajectory:
        sequence = open_sequence(arguments.trajectory)
        cameras = [sequence.camera(index) for index in range(len(sequence))]
    edit.extract(gaussians, objects, edit.find_objects(objects, arguments.object), _selection(arguments))
    mesh = object_mesh(gaussians, create_rasterizer(), cameras, arguments.voxel)
    mesh.save(arguments.out)
    size = mesh.vertices.max(axis=0) - mesh.vertices.min(axis=0)
    results = {
        "gaussians": len(gaussians),
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.triangles),
        **{f"size_{axis}_m": float(value) for axis, value in zip("xyz", size, strict=True)},
    }
    options.report(arguments, f"{arguments.out}: mesh from {arguments.map}", results)
    return 0


def run_list(arguments: argparse.Namespace, objects: ObjectRegistry) -> int:
    results = {}
    for obj in sorted(objects, key=lambda obj: obj.id):
        place = "" if obj.centroid is None else " at " + " ".join(f"{value:.2f}" for value in obj.centroid) + " m"
        results[str(obj.id)] = (
            f"{objects.class_name(obj)}, {obj.state.name.lower()}, {obj.num_gaussians} Gaussians{place}"
        )
    options.report(arguments, f"objects of {arguments.map}", results)
    return 0

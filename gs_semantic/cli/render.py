"""Render views of a map folder to PNG images: colour, semantic, instance, confidence and depth, and a contact sheet.

Depth is written in millimetres (16 bit), instance ids as they are in the map (16 bit), classes as ids (8 or 16 bit).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gs_semantic.cli import options

EXAMPLES = """examples:
  gs-semantic render house_map views --trajectory sample/house_eval
  gs-semantic render house_map views --trajectory sample/house --every 10 --size 320x240
  gs-semantic render house_map views --intrinsics sample/house/intrinsics.json \\
      --pose 0 0 1.2  -0.5 0.5 -0.5 0.5    # x y z  qx qy qz qw of the optical frame"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("map", type=Path, help="map folder")
    parser.add_argument("output", type=Path, help="folder for the images")
    parser.add_argument("--trajectory", type=Path, help="sequence, or folder with traj.txt and intrinsics.json")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="take every K-th pose of the trajectory [1]")
    parser.add_argument(
        "--pose",
        type=float,
        nargs=7,
        action="append",
        default=[],
        metavar=("X", "Y", "Z", "QX", "QY", "QZ", "QW"),
        help="a camera pose in the map frame; may be repeated; needs --intrinsics",
    )
    parser.add_argument("--intrinsics", type=Path, help="intrinsics.json of the camera for --pose")
    parser.add_argument("--size", metavar="WxH", help="image size, other than the camera's")


def run(arguments: argparse.Namespace) -> int:
    from gs_semantic.cli import pictures
    from gs_semantic.mapping.offline import MapOffline

    cameras = list(_cameras(arguments))
    shown = MapOffline.open(arguments.map)
    palette = pictures.Palette.of(shown.mapper.objects)
    rows = []
    with options.progress_bar("rendering", len(cameras)) as advance, pictures.writing(arguments.output):
        for number, camera in enumerate(cameras):
            labels, rgb = shown.render_labels(camera), shown.render_colour(camera)
            images = {
                "colour": rgb,
                "semantic": pictures.smallest_type(labels.semantic),
                "instance": labels.instance.astype("uint16"),
                "confidence": labels.confidence,
                "depth": pictures.millimetres(labels.depth),
            }
            for kind, image in images.items():
                pictures.write_image(arguments.output / kind / f"{number:06d}.png", image)
            rows.append([rgb, *palette.shown(labels)])
            advance()
        sheet = pictures.contact_sheet(rows, ["colour", "semantic", "instance", "confidence", "depth"])
        pictures.write_image(arguments.output / "contact_sheet.png", sheet)
    print(f"{len(cameras)} views in {arguments.output}; look at {arguments.output / 'contact_sheet.png'}")
    return 0


def _cameras(arguments: argparse.Namespace):
    import numpy as np
    from scipy.spatial.transform import Rotation

    from gs_semantic.data.sequence import read_intrinsics, read_trajectory
    from gs_semantic.errors import InvalidRequestError

    if not arguments.trajectory and not arguments.pose:
        raise InvalidRequestError("give --trajectory FOLDER, or --pose with --intrinsics")
    if arguments.pose and not arguments.intrinsics:
        raise InvalidRequestError("--pose needs --intrinsics FILE: the camera to look with")
    if arguments.every < 1:
        raise InvalidRequestError(f"--every {arguments.every}: must be 1 or more")
    views = []
    if arguments.trajectory and not (arguments.trajectory / "intrinsics.json").is_file():
        from gs_semantic.data.formats import open_sequence

        sequence = open_sequence(arguments.trajectory)
        views += [sequence.camera(index) for index in range(0, len(sequence), arguments.every)]
    elif arguments.trajectory:
        camera, _, _ = read_intrinsics(arguments.trajectory / "intrinsics.json")
        views += [camera.at(pose) for pose in read_trajectory(arguments.trajectory / "traj.txt")[:: arguments.every]]
    for x, y, z, *quaternion in arguments.pose:
        if not np.isclose(np.linalg.norm(quaternion), 1, atol=1e-2):
            raise InvalidRequestError(f"--pose: the quaternion {quaternion} is not of length 1")
        camera, _, _ = read_intrinsics(arguments.intrinsics)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = Rotation.from_quat(quaternion).as_matrix(), (x, y, z)
        views.append(camera.at(pose))
    if arguments.size:
        views = [camera.resized(*options.size(arguments.size)) for camera in views]
    return views

"""Recordings in the formats of others: the same little scene written in each and read back, and damaged ones."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).parent))

from blobs import CAMERA, COLOURS, FRAMES, HEIGHT, POINTS, WIDTH, Blobs
from colmap_files import COLMAP_PARAMETERS, save, write_colmap

from gs_semantic.data.formats import FORMATS, format_of, open_sequence
from gs_semantic.data.images import Lens
from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.gaussians import Camera


def matrix_lines(poses: np.ndarray) -> str:
    return "".join(" ".join(repr(float(v)) for v in pose.ravel()) + "\n" for pose in poses)


# --- COLMAP -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False], ids=["bin", "txt"])
@pytest.mark.parametrize("model", COLMAP_PARAMETERS)
def test_colmap(tmp_path, model, binary):
    blobs = write_colmap(tmp_path, binary, model)
    sequence = open_sequence(tmp_path, period_ns=10)
    assert sequence.format == "colmap" and len(sequence) == FRAMES and not sequence.has_depth
    for i, frame in enumerate(sequence):
        blobs.check(frame, i)
        assert frame.stamp_ns == 10 * i and frame.depth is None and frame.instances is None
        assert frame.camera.cx == 80.0 and frame.camera.cy == 58.5  # half a pixel less than COLMAP's
    points = sequence.sparse_points()
    assert np.allclose(points.xyz, blobs.points, atol=1e-5) and np.array_equal(points.rgb, COLOURS)


@pytest.mark.parametrize("sparse", [".", "sparse", "colmap/sparse/0"])
def test_colmap_models_in_other_folders(tmp_path, sparse):
    blobs = write_colmap(tmp_path, True, sparse=sparse)
    blobs.check(open_sequence(tmp_path)[1], 1)
    blobs.check(open_sequence(tmp_path / sparse)[2], 2)


def test_a_lens_leaves_no_empty_rim(tmp_path):
    blobs = write_colmap(tmp_path, True, "SIMPLE_RADIAL")
    frame = open_sequence(tmp_path)[0]
    assert frame.camera.fx > blobs.camera.fx  # without the zoom the corners would lie outside of the photograph
    corners = frame.rgb[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert np.abs(corners - 40).max() < 12


def colmap_words(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / "sparse/0" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


COLMAP_FAULTS: dict[str, tuple[bool, Callable[[Path], object], str]] = {
    "truncated cameras": (True, lambda f: cut(f / "sparse/0/cameras.bin", 40), "cameras.bin: truncated"),
    "truncated images": (True, lambda f: cut(f / "sparse/0/images.bin", 150), "images.bin: truncated"),
    "no photograph": (
        True,
        lambda f: (f / "images/shot_0.jpg").unlink(),
        "photograph shot_0.jpg of the model is not in",
    ),
    "later photograph": (True, lambda f: (f / "images/shot_2.jpg").unlink(), "shot_2.jpg: no such file"),
    "damaged photograph": (True, lambda f: cut(f / "images/shot_1.jpg", 300), "shot_1.jpg: cannot be read as 8-bit"),
    "small photograph": (
        True,
        lambda f: save(f / "images/shot_1.jpg", np.zeros((60, 80, 3), np.uint8)),
        "shot_1.jpg: image is 80x60, the COLMAP camera says 160x120",
    ),
    "unknown model": (
        False,
        lambda f: colmap_words(f, "cameras.txt", "PINHOLE", "BIG"),
        "cameras.txt: line 2: unknown",
    ),
    "refused model": (
        False,
        lambda f: colmap_words(f, "cameras.txt", "7 PINHOLE", "7 FOV"),
        "camera 7: model FOV is not supported; undistort it or use one of SIMPLE_PINHOLE",
    ),
    "missing parameter": (False, lambda f: colmap_words(f, "cameras.txt", " 59.0", ""), "has 4 parameters, found 3"),
    "no number": (
        False,
        lambda f: colmap_words(f, "images.txt", "12 ", "12 x "),
        "images.txt: line 2: expected IMAGE_ID",
    ),
    "unknown camera": (False, lambda f: colmap_words(f, "images.txt", " 7 shot", " 8 shot"), "has camera 8, which"),
    "NaN pose": (
        True,
        lambda f: nan_pose(f / "sparse/0/images.bin"),
        "images.bin: image shot_2.jpg: the pose is not finite",
    ),
}


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def nan_pose(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[12:20] = struct.pack("<d", float("nan"))
    path.write_bytes(data)


@pytest.mark.parametrize("case", COLMAP_FAULTS)
def test_faulty_colmap_models_are_named(tmp_path, case):
    binary, damage, text = COLMAP_FAULTS[case]
    write_colmap(tmp_path, binary)
    damage(tmp_path)
    with pytest.raises(InvalidInputError, match=text):
        list(open_sequence(tmp_path, format="colmap"))


def test_truncated_points_are_named(tmp_path):
    write_colmap(tmp_path, True)
    cut(tmp_path / "sparse/0/points3D.bin", 100)
    sequence = open_sequence(tmp_path)
    with pytest.raises(InvalidInputError, match=r"points3D.bin: truncated"):
        sequence.sparse_points()
    assert len(sequence[0].rgb) == HEIGHT  # the photographs are as good as before


# --- nerfstudio -------------------------------------------------------------------------------------------------------

INTRINSICS = {"fl_x": 130.0, "fl_y": 128.0, "cx": 80.5, "cy": 59.0, "w": WIDTH, "h": HEIGHT}
TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def write_nerfstudio(folder: Path, blobs: Blobs | None = None, per_frame: bool = False, **more) -> Blobs:
    blobs = blobs or Blobs()
    frames = []
    for i in range(FRAMES):
        save(folder / "images" / f"frame_{i}.png", blobs.image(i))
        save(folder / "depth" / f"frame_{i}.png", (blobs.depth(i) * 4000).astype(np.uint16))
        frames.append(
            {
                "file_path": f"images/frame_{i}.png",
                "depth_file_path": f"depth/frame_{i}.png",
                "transform_matrix": (blobs.poses[i] @ TO_OPENGL).tolist(),
                **(INTRINSICS if per_frame else {}),
            }
        )
    content = {**({} if per_frame else INTRINSICS), "frames": frames, "depth_unit_scale_factor": 1 / 4000, **more}
    (folder / "transforms.json").write_text(json.dumps(content))
    return blobs


def change_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("per_frame", [False, True], ids=["shared", "per frame"])
def test_nerfstudio(tmp_path, per_frame):
    blobs = write_nerfstudio(tmp_path, per_frame=per_frame)
    for path in (tmp_path, tmp_path / "transforms.json"):
        sequence = open_sequence(path)
        assert sequence.format == "nerfstudio" and len(sequence) == FRAMES and sequence.has_depth
        for i, frame in enumerate(sequence):
            blobs.check(frame, i)
            assert np.allclose(frame.camera.K, CAMERA.K)
            assert np.allclose(frame.depth, blobs.depth(i), atol=1e-3)


def test_nerfstudio_lens_and_fisheye(tmp_path):
    lens = Blobs(np.array([0.1, -0.05, 0.003, -0.002]))
    write_nerfstudio(tmp_path / "lens", lens, camera_model="OPENCV", k1=0.1, k2=-0.05, p1=0.003, p2=-0.002)
    lens.check(open_sequence(tmp_path / "lens")[1], 1)
    fisheye = Blobs(np.array([0.05, -0.02, 0.01, 0.0]), fisheye=True)
    write_nerfstudio(tmp_path / "fisheye", fisheye, camera_model="OPENCV_FISHEYE", k1=0.05, k2=-0.02, k3=0.01, k4=0.0)
    fisheye.check(open_sequence(tmp_path / "fisheye")[2], 2)


def test_instant_ngp_and_synthetic_scenes(tmp_path):
    """The field of view instead of a focal length, no size, no file endings, transparency, depth by another name."""
    blobs = Blobs(camera=Camera(WIDTH, HEIGHT, 130.0, 130.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2))
    write_nerfstudio(tmp_path, blobs, integer_depth_scale=1 / 4000, camera_angle_x=2 * np.arctan(WIDTH / 2 / 130.0))

    def shorten(content):
        for key in (*INTRINSICS, "depth_unit_scale_factor"):
            del content[key]
        for frame in content["frames"]:
            frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")

    change_json(tmp_path / "transforms.json", shorten)
    rgba = np.concatenate([blobs.image(1), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=2)
    rgba[-1, -1, 3] = 0
    save(tmp_path / "images/frame_1.png", rgba)
    sequence = open_sequence(tmp_path)
    blobs.check(sequence[0], 0)
    blobs.check(sequence[1], 1)
    assert sequence[1].rgb[-1, -1].tolist() == [255, 255, 255]
    assert np.allclose(sequence[0].depth, blobs.depth(0), atol=1e-3)


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_points_of_a_ply_file(tmp_path, kind):
    blobs = write_nerfstudio(tmp_path, ply_file_path="cloud.ply")
    names = ("float x", "float y", "float z", "uchar red", "uchar green", "uchar blue")
    head = f"ply\nformat {kind} 1.0\nelement vertex {len(POINTS)}\n" + "".join(f"property {n}\n" for n in names)
    rows = zip(blobs.points, COLOURS, strict=True)
    if kind == "ascii":
        body = "".join(f"{p[0]} {p[1]} {p[2]} {c[0]} {c[1]} {c[2]}\n" for p, c in rows).encode()
    else:
        body = b"".join(struct.pack("<3f3B", *p, *c) for p, c in rows)
    (tmp_path / "cloud.ply").write_bytes(head.encode() + b"end_header\n" + body)
    points = open_sequence(tmp_path).sparse_points()
    assert np.allclose(points.xyz, blobs.points, atol=1e-5) and np.array_equal(points.rgb, COLOURS)
    (tmp_path / "cloud.ply").write_bytes(head.encode() + b"end_header\n" + body[:-20])
    with pytest.raises(InvalidInputError, match=r"cloud.ply: (truncated|a point)"):
        open_sequence(tmp_path).sparse_points()


def test_transforms_with_opencv_axes(tmp_path):
    blobs = write_nerfstudio(tmp_path)
    content = json.loads((tmp_path / "transforms.json").read_text())
    content |= {"cx": CAMERA.cx, "cy": CAMERA.cy}
    for i, frame in enumerate(content["frames"]):
        del frame["transform_matrix"]
        frame["camera_to_world_opencv"] = blobs.poses[i].tolist()
    (tmp_path / "transforms.json").unlink()
    (tmp_path / "transforms_opencv.json").write_text(json.dumps(content))
    np.savez(tmp_path / "points.npz", xyz=blobs.points, rgb=COLOURS)
    sequence = open_sequence(tmp_path)
    blobs.check(sequence[2], 2)
    assert np.allclose(sequence.sparse_points().xyz, blobs.points)


def without(*keys: str) -> Callable[[dict], object]:
    return lambda content: [content.pop(key) for key in keys]


def frame_with(**values) -> Callable[[dict], object]:
    return lambda content: content["frames"][1].update(values)


SCALED = (np.diag([2.0, 2.0, 2.0, 1.0])).tolist()
NERFSTUDIO_FAULTS: dict[str, tuple[Callable[[dict], object], str]] = {
    "no frames": (lambda c: c.update(frames=[]), "transforms.json: field 'frames' is missing or empty"),
    "no pose": (
        lambda c: c["frames"][1].pop("transform_matrix"),
        "frame 1: expected fields 'file_path' and 'transform_m",
    ),
    "scaled pose": (
        frame_with(transform_matrix=SCALED),
        "frame 1: field 'transform_matrix': the matrix is not a rigid",
    ),
    "NaN pose": (frame_with(transform_matrix=[[float("nan")] * 4] * 4), "frame 1: .*NaN"),
    "short pose": (frame_with(transform_matrix=[1, 2]), "frame 1: .*expected 16 numbers .* found 2"),
    "words for a pose": (frame_with(transform_matrix="left"), "frame 1: field 'transform_matrix'"),
    "no image": (frame_with(file_path="images/none.png"), "images/none.png: no such file; frame 1 of transforms.json"),
    "no depth": (frame_with(depth_file_path="depth/none.png"), "depth/none.png: no such file"),
    "no focal length": (without("fl_x"), "neither 'fl_x' nor 'camera_angle_x'"),
    "wrong size": (lambda c: c.update(w=100), "frame_0.png: image is 160x120, transforms.json says 100x120"),
    "text for a number": (lambda c: c.update(cx="middle"), "field 'cx' is missing or not a number"),
    "unknown model": (lambda c: c.update(camera_model="EQUIRECTANGULAR"), "camera_model 'EQUIRECTANGULAR' is not supp"),
    "depth scale": (lambda c: c.update(depth_unit_scale_factor=0), "'depth_unit_scale_factor' is 0.0, expected a pos"),
    "impossible lens": (lambda c: c.update(k1=6000.0), "no pinhole camera sees only what the image shows"),
}


@pytest.mark.parametrize("case", NERFSTUDIO_FAULTS)
def test_faulty_transforms_are_named(tmp_path, case):
    change, text = NERFSTUDIO_FAULTS[case]
    write_nerfstudio(tmp_path)
    change_json(tmp_path / "transforms.json", change)
    with pytest.raises(InvalidInputError, match=text):
        list(open_sequence(tmp_path))


# --- TUM --------------------------------------------------------------------------------------------------------------

TUM_START = 1305031453.359684


def write_tum(folder: Path) -> Blobs:
    """Depth 8 ms after colour, poses at twice the rate around it; a fourth colour image has no partner."""
    blobs = Blobs()
    colour, depth, truth = ["# color images"], ["# depth maps"], ["# ground truth"]
    for i in range(FRAMES):
        stamp = TUM_START + i * 0.1
        save(folder / "rgb" / f"{stamp:.6f}.png", blobs.image(i))
        save(folder / "depth" / f"{stamp + 0.008:.6f}.png", (blobs.depth(i) * 5000).astype(np.uint16))
        colour.append(f"{stamp:.6f} rgb/{stamp:.6f}.png")
        depth.append(f"{stamp + 0.008:.6f} depth/{stamp + 0.008:.6f}.png")
        for offset in (-0.01, 0.01):  # the pose does not change near the image, so that interpolation is exact
            q = Rotation.from_matrix(blobs.poses[i, :3, :3]).as_quat()
            numbers = " ".join(repr(float(v)) for v in (*blobs.poses[i, :3, 3], *q))
            truth.append(f"{stamp + offset:.6f} {numbers}")
    colour.append(f"{TUM_START + 5:.6f} rgb/none.png")
    for name, lines in (("rgb", colour), ("depth", depth), ("groundtruth", truth)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    values = {"width": WIDTH, "height": HEIGHT, "fx": CAMERA.fx, "fy": CAMERA.fy, "cx": CAMERA.cx, "cy": CAMERA.cy}
    (folder / "intrinsics.json").write_text(json.dumps(values))
    return blobs


def test_tum(tmp_path):
    blobs = write_tum(tmp_path)
    sequence = open_sequence(tmp_path)
    assert sequence.format == "tum" and len(sequence) == FRAMES and sequence.has_depth
    for i, frame in enumerate(sequence):
        blobs.check(frame, i)
        assert np.allclose(frame.depth, blobs.depth(i), atol=2e-4)
        assert frame.stamp_ns == round(TUM_START * 1e6) * 1000 + i * 100_000_000  # not rounded to a float


@pytest.mark.parametrize(
    ("name", "fx"),
    [
        ("rgbd_dataset_freiburg1_desk", 517.3),
        ("fr2_xyz", 520.9),
        ("rgbd_dataset_freiburg3_x", 535.4),
        ("my_own", 525.0),
    ],
)
def test_tum_cameras_are_known_by_the_folder(tmp_path, name, fx):
    folder = tmp_path / name
    write_tum(folder)
    (folder / "intrinsics.json").unlink()
    camera = open_sequence(folder).camera(0)
    assert (camera.width, camera.height) == (640, 480) and fx <= camera.fx < fx * 1.1  # a lens may need a zoom


TUM_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no depth list": (lambda f: (f / "depth.txt").unlink(), "depth.txt: no such file; expected rgb.txt, depth.txt"),
    "no stamp": (lambda f: (f / "rgb.txt").write_text("today rgb/1.png\n"), "rgb.txt: line 1: 'today' is not a time"),
    "no file": (lambda f: (f / "rgb.txt").write_text("1.0\n"), "rgb.txt: line 1: expected 2 words, found 1"),
    "empty": (lambda f: (f / "rgb.txt").write_text("# nothing\n"), "rgb.txt: lists nothing"),
    "quaternion": (lambda f: (f / "groundtruth.txt").write_text("1 0 0 0 0 0 0 2\n"), "groundtruth.txt: a pose is not"),
    "other clock": (lambda f: (f / "groundtruth.txt").write_text("1 0 0 0 0 0 0 1\n"), "of one clock"),
    "missing image": (lambda f: next((f / "rgb").iterdir()).unlink(), "png: no such file; expected 8-bit colour"),
}


@pytest.mark.parametrize("case", TUM_FAULTS)
def test_faulty_tum_recordings_are_named(tmp_path, case):
    damage, text = TUM_FAULTS[case]
    write_tum(tmp_path)
    damage(tmp_path)
    with pytest.raises(InvalidInputError, match=text):
        list(open_sequence(tmp_path))


# --- Replica ----------------------------------------------------------------------------------------------------------


def write_replica(folder: Path, shared: bool = True) -> Blobs:
    blobs = Blobs()
    for i in range(FRAMES):
        save(folder / "results" / f"frame{i:06d}.jpg", blobs.image(i))
        save(folder / "results" / f"depth{i:06d}.png", (blobs.depth(i) * 6553.5).astype(np.uint16))
    (folder / "traj.txt").write_text(matrix_lines(blobs.poses))
    camera = {"w": WIDTH, "h": HEIGHT, "fx": 130.0, "fy": 128.0, "cx": CAMERA.cx, "cy": CAMERA.cy, "scale": 6553.5}
    (folder.parent if shared else folder).joinpath("cam_params.json").write_text(json.dumps({"camera": camera}))
    return blobs


@pytest.mark.parametrize("shared", [True, False])
def test_replica(tmp_path, shared):
    blobs = write_replica(tmp_path / "room0", shared)
    sequence = open_sequence(tmp_path / "room0")
    assert sequence.format == "replica" and len(sequence) == FRAMES
    for i, frame in enumerate(sequence):
        blobs.check(frame, i)
        assert np.allclose(frame.depth, blobs.depth(i), atol=2e-4)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            lambda f: (f.parent / "cam_params.json").unlink(),
            "cam_params.json: no such file, neither there nor in the f",
        ),
        (lambda f: (f.parent / "cam_params.json").write_text("{}"), "cam_params.json: field 'camera' is missing"),
        (
            lambda f: change_json(f.parent / "cam_params.json", lambda c: c["camera"].update(scale=0)),
            "field 'scale' is 0.0",
        ),
        (lambda f: (f / "results/frame000002.jpg").unlink(), "frame000002.png: no such file; traj.txt has 3 poses"),
        (lambda f: (f / "results/depth000001.png").unlink(), "depth000001.png: no such file"),
    ],
)
def test_faulty_replica_scenes_are_named(tmp_path, damage, text):
    write_replica(tmp_path / "room0")
    damage(tmp_path / "room0")
    with pytest.raises(InvalidInputError, match=text):
        list(open_sequence(tmp_path / "room0"))


# --- ScanNet ----------------------------------------------------------------------------------------------------------


def write_scannet(folder: Path, labels: bool = True) -> Blobs:
    """Colour at twice the size of depth, with other intrinsics; frame 1 has no pose."""
    blobs = Blobs()
    colour_camera = Camera(2 * WIDTH, 2 * HEIGHT, 262.0, 255.0, 161.0, 118.0)
    large = Blobs(camera=colour_camera, radius=10)
    for i in range(FRAMES):
        save(folder / "color" / f"{i}.jpg", large.image(i))
        save(folder / "depth" / f"{i}.png", (blobs.depth(i) * 1000).astype(np.uint16))
        ids = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
        ids[:, :WIDTH] = 3
        if labels:
            save(folder / "instance-filt" / f"{i}.png", ids)
            save(folder / "label-filt" / f"{i}.png", (ids > 0).astype(np.uint16) * 1163)
        (folder / "pose").mkdir(exist_ok=True)
        text = matrix_lines(blobs.poses[i : i + 1]).replace(" ", "\n") if i != 1 else "-inf " * 16
        (folder / "pose" / f"{i}.txt").write_text(text)
    for name, camera in (("color", colour_camera), ("depth", CAMERA)):
        (folder / "intrinsic").mkdir(exist_ok=True)
        K = np.eye(4)
        K[:3, :3] = camera.K
        (folder / "intrinsic" / f"intrinsic_{name}.txt").write_text(matrix_lines(K[None]))
    (folder.parent / "scannetv2-labels.combined.tsv").write_text("id\traw_category\tcategory\n1163\tlamp\tlight\n")
    return blobs


def test_scannet(tmp_path):
    blobs = write_scannet(tmp_path / "scene0000_00")
    sequence = open_sequence(tmp_path / "scene0000_00", period_ns=1000)
    assert sequence.format == "scannet" and len(sequence) == 2  # the frame without a pose is left out
    for number, frame in zip((0, 2), sequence, strict=True):
        blobs.check(frame, number)
        assert frame.stamp_ns == number * 1000
        assert np.allclose(frame.camera.K, CAMERA.K)
        assert np.allclose(frame.depth, blobs.depth(number), atol=1e-3)
        edge = CAMERA.fx * (WIDTH - 1 - 161.0) / 262.0 + CAMERA.cx  # where the colour image's labels end
        assert set(np.unique(frame.instances)) == {0, 3}
        assert abs((frame.instances[HEIGHT // 2] > 0).sum() - (edge + 1)) <= 1
        assert frame.masks[3].class_id == 1163 and sequence.labels.name(1163) == "lamp"
    assert np.array_equal(sequence.semantic(0) > 0, sequence[0].instances > 0)


def test_scannet_without_labels(tmp_path):
    blobs = write_scannet(tmp_path / "scene", labels=False)
    sequence = open_sequence(tmp_path / "scene")
    blobs.check(sequence[1], 2)
    assert sequence[0].instances is None and sequence.semantic(0) is None


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda f: [p.unlink() for p in (f / "pose").iterdir()], "pose: no poses; expected 0.txt"),
        (lambda f: (f / "pose/2.txt").write_text("1 0 0"), "pose/2.txt: expected 16 numbers .* found 3"),
        (lambda f: (f / "pose/2.txt").write_text("one " * 16), "pose/2.txt: could not convert"),
        (
            lambda f: (f / "intrinsic/intrinsic_depth.txt").unlink(),
            "intrinsic_depth.txt: no such file; expected the 4x4",
        ),
        (lambda f: (f / "intrinsic/intrinsic_color.txt").write_text("1 2"), "intrinsic_color.txt: expected 16 numbers"),
        (lambda f: (f / "depth/2.png").unlink(), "depth/2.png: no such file"),
        (lambda f: (f / "label-filt/2.png").write_bytes(b"x"), "label-filt/2.png: cannot be read"),
        (
            lambda f: (f.parent / "scannetv2-labels.combined.tsv").write_text("a\tb\n1\t2\n"),
            "expected columns 'id' and",
        ),
    ],
)
def test_faulty_scannet_scenes_are_named(tmp_path, damage, text):
    write_scannet(tmp_path / "scene")
    damage(tmp_path / "scene")
    with pytest.raises(InvalidInputError, match=text):
        list(open_sequence(tmp_path / "scene"))


# --- all formats ------------------------------------------------------------------------------------------------------


def test_unknown_recordings_list_what_is_known(tmp_path):
    with pytest.raises(InvalidInputError, match="nowhere: no such folder or file"):
        open_sequence(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InvalidInputError) as caught:
        open_sequence(tmp_path)
    assert all(candidate.name in str(caught.value) for candidate in FORMATS)
    with pytest.raises(InvalidRequestError, match="format 'kitti': expected one of rgbd"):
        open_sequence(tmp_path, format="kitti")


def test_the_next_recording_is_read_after_a_faulty_one(tmp_path):
    write_colmap(tmp_path / "bad", True)
    cut(tmp_path / "bad/sparse/0/images.bin", 150)
    with pytest.raises(InvalidInputError):
        open_sequence(tmp_path / "bad")
    write_colmap(tmp_path / "good", True).check(open_sequence(tmp_path / "good")[0], 0)


@pytest.mark.parametrize("write", [write_colmap, write_nerfstudio], ids=["colmap", "nerfstudio"])
def test_wide_images_are_scaled_down(tmp_path, write):
    blobs = write(tmp_path, True) if write is write_colmap else write(tmp_path)
    sequence = open_sequence(tmp_path, max_width=WIDTH // 2)
    frame = sequence[0]
    assert frame.rgb.shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert np.array_equal(frame.camera.K, sequence.camera(0).K)
    assert (frame.camera.width, frame.camera.fx) == (WIDTH // 2, 65.0)
    assert frame.camera.cx == pytest.approx((80.5) / 2 - 0.5)
    pixels = blobs.local(0) @ frame.camera.K.T
    for (x, y), colour in zip((pixels[:, :2] / pixels[:, 2:]).round().astype(int), COLOURS.astype(int), strict=True):
        assert np.abs(frame.rgb[y, x] - colour).max() < 30
    assert open_sequence(tmp_path, max_width=4 * WIDTH)[0].rgb.shape == (HEIGHT, WIDTH, 3)  # never enlarged


def test_formats_are_told_apart(tmp_path):
    written = {
        "colmap": lambda f: write_colmap(f, True),
        "nerfstudio": write_nerfstudio,
        "tum": write_tum,
        "replica": lambda f: write_replica(f, shared=False),
        "scannet": write_scannet,
    }
    for name, write in written.items():
        write(tmp_path / name)
        assert format_of(tmp_path / name).name == name
        assert isinstance(open_sequence(tmp_path / name), FrameSequence)


def test_a_lens_maps_pixels_both_ways():
    lens = Lens(CAMERA, np.array([0.1, -0.05, 0.003, -0.002]))
    pixels = np.array([[10.0, 20.0], [80.0, 60.0], [150.0, 110.0]])
    rays = (pixels - [lens.camera.cx, lens.camera.cy]) / [lens.camera.fx, lens.camera.fy]
    back = cv2.undistortPoints(lens.distorted(pixels)[:, None], CAMERA.K, lens.coefficients)[:, 0]
    assert np.allclose(back, rays, atol=1e-4)

"""Reader of recorded sequences: the sample, and recordings that are not as they should be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gs_semantic.data.sequence import InstanceRecord, RgbdSequence
from gs_semantic.errors import InvalidInputError

SAMPLE = Path(__file__).resolve().parents[2] / "sample"
POSE = np.array([[0, 0, 1, 1.0], [-1, 0, 0, 2.0], [0, -1, 0, 3.0], [0, 0, 0, 1.0]])


def write_sequence(folder: Path, frames: int = 2) -> Path:
    """A tiny recording: 8x6, depth 1.5 m, instance 3 of class 2 in the left half."""
    for kind in ("rgb", "depth", "instance", "semantic"):
        (folder / kind).mkdir(parents=True)
    for i in range(frames):
        halves = np.zeros((6, 8), np.uint8)
        halves[:, :4] = 1
        Image.fromarray(np.full((6, 8, 3), (10 * i, 100, 200), np.uint8)).save(folder / "rgb" / f"{i:06d}.png")
        Image.fromarray(np.full((6, 8), 1500, np.uint16)).save(folder / "depth" / f"{i:06d}.png")
        Image.fromarray(halves * 3).save(folder / "instance" / f"{i:06d}.png")
        Image.fromarray(halves * 2).save(folder / "semantic" / f"{i:06d}.png")
    line = " ".join(str(value) for value in POSE.ravel())
    (folder / "traj.txt").write_text(f"{line}\n" * frames)
    write_intrinsics(folder)
    return folder


def write_intrinsics(folder: Path, **changes) -> None:
    values = {"width": 8, "height": 6, "fx": 5.0, "fy": 5.0, "cx": 3.5, "cy": 2.5, "depth_scale_to_m": 0.001} | changes
    (folder / "intrinsics.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def test_known_content(tmp_path):
    sequence = RgbdSequence(write_sequence(tmp_path / "tiny"), period_ns=100, start_ns=7)
    frame = sequence[1]
    assert len(sequence) == 2 and frame.stamp_ns == 107
    assert frame.rgb.dtype == np.uint8 and frame.rgb[0, 0].tolist() == [10, 100, 200]
    assert frame.depth.dtype == np.float32 and np.allclose(frame.depth, 1.5, rtol=1e-6)
    assert frame.instances.dtype == np.int32 and frame.instances[0].tolist() == [3, 3, 3, 3, 0, 0, 0, 0]
    assert sequence.semantic(1)[0].tolist() == [2, 2, 2, 2, 0, 0, 0, 0]
    assert {key: mask.class_id for key, mask in frame.masks.items()} == {3: 2}
    assert np.array_equal(frame.camera.T_world_camera, POSE) and frame.camera.fx == 5.0
    assert np.array_equal(sequence[-1].rgb, frame.rgb)
    assert [f.stamp_ns for f in sequence] == [7, 107]
    with pytest.raises(IndexError, match="frame 2 is outside 0..1"):
        sequence[2]


def test_labels_are_found_beside_or_above_and_win_over_the_semantic_image(tmp_path):
    folder = write_sequence(tmp_path / "tiny")
    labels = {"classes": {"0": "void", "5": "mug"}, "instances": [{"id": 3, "name": "m", "class_id": 5, "group": True}]}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    sequence = RgbdSequence(folder)
    assert sequence.instances == {3: InstanceRecord("m", 5, True)} and sequence.group_ids == {3}
    assert sequence.labels.name(5) == "mug" and sequence[0].masks[3].class_id == 5
    (folder / "labels.json").write_text(json.dumps({"classes": {"1": "cup"}}))
    assert RgbdSequence(folder).labels.name(1) == "cup"


def test_recordings_without_depth_and_labels(tmp_path):
    folder = write_sequence(tmp_path / "tiny")
    for kind in ("depth", "instance", "semantic"):
        shutil.rmtree(folder / kind)
    sequence = RgbdSequence(folder)
    frame = sequence[0]
    assert frame.depth is None and frame.instances is None and frame.masks == {} and sequence.semantic(0) is None


def test_cached_frames_are_the_same(tmp_path):
    sequence = RgbdSequence(write_sequence(tmp_path / "tiny"), cache=2)
    assert sequence[0] is sequence[0] and sequence[0] is not sequence[1]


def test_lens_distortion_is_removed(tmp_path):
    folder = write_sequence(tmp_path / "tiny", frames=1)
    size, coefficients = (80, 60), [0.2, -0.1, 0.001, 0.002, 0.0]
    write_intrinsics(folder, width=80, height=60, fx=60, fy=60, cx=39.5, cy=29.5, distortion_k1k2p1p2k3=coefficients)
    matrix = np.array([[60, 0, 39.5], [0, 60, 29.5], [0, 0, 1.0]])
    # Where an undistorted point at (20, 15) was recorded
    ray = np.array([[(20 - 39.5) / 60, (15 - 29.5) / 60, 1.0]])
    seen = cv2.projectPoints(ray, np.zeros(3), np.zeros(3), matrix, np.array(coefficients))[0].ravel()
    mask = np.zeros(size[::-1], np.uint8)
    cv2.circle(mask, tuple(np.round(seen).astype(int).tolist()), 2, 9, -1)
    for kind in ("instance", "semantic"):
        Image.fromarray(mask).save(folder / kind / "000000.png")
    Image.fromarray(np.repeat(mask[..., None], 3, axis=2)).save(folder / "rgb" / "000000.png")
    Image.fromarray(mask.astype(np.uint16) * 1000).save(folder / "depth" / "000000.png")
    frame = RgbdSequence(folder)[0]
    expected = (frame.camera.K @ ray[0])[:2]
    assert frame.camera.fx > 60  # this lens shows less than its size tells: without a zoom the rim would be empty
    v, u = np.nonzero(frame.instances)
    assert set(np.unique(frame.instances).tolist()) == {0, 9}  # ids are never mixed
    assert (u.mean(), v.mean()) == pytest.approx(expected, abs=0.6)
    assert set(np.unique(frame.depth).tolist()) == {0.0, 9.0}
    assert frame.rgb[round(expected[1]), round(expected[0]), 0] == 9


# --- bad recordings: each error names the file and what was expected -------------------------------------------------


def missing(kind):
    return lambda folder: (folder / kind / "000001.png").unlink()


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:48])


def wrong_size(kind):
    return lambda folder: Image.fromarray(np.zeros((6, 9), np.uint8)).save(folder / kind / "000001.png")


def trajectory(text):
    return lambda folder: (folder / "traj.txt").write_text(
        (folder / "traj.txt").read_text().splitlines()[0] + "\n" + text + "\n"
    )


def numbers(pose):
    return " ".join(str(value) for value in np.asarray(pose, float).ravel())


BAD = {
    "no rgb file": (missing("rgb"), "rgb/000001.jpg: no such file.*2 poses"),
    "no depth file": (missing("depth"), "depth/000001.png: no such file; expected 16-bit depth"),
    "no instance file": (missing("instance"), "instance/000001.png: no such file; expected instance ids"),
    "truncated colour": (cut("rgb/000001.png"), "rgb/000001.png: cannot be read"),
    "truncated depth": (cut("depth/000001.png"), "depth/000001.png: cannot be read"),
    "no image": (lambda f: (f / "rgb/000001.png").write_text("hello"), "rgb/000001.png: cannot be read"),
    "small instance": (wrong_size("instance"), "instance/000001.png: image is 9x6, intrinsics.json says 8x6"),
    "8-bit depth": (
        lambda f: Image.fromarray(np.zeros((6, 8), np.uint8)).save(f / "depth/000001.png"),
        "depth/000001.png: expected 16-bit depth .* found mode L",
    ),
    "colour labels": (
        lambda f: Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(f / "instance/000001.png"),
        "instance/000001.png: expected instance ids .* found mode RGB",
    ),
    "NaN pose": (trajectory(numbers(POSE * [1, 1, 1, np.nan])), "traj.txt: line 2: the pose contains NaN"),
    "scaled pose": (trajectory(numbers(POSE * 1.1)), "traj.txt: line 2: .* not a rigid transform"),
    "mirrored pose": (trajectory(numbers(POSE @ np.diag([1, 1, -1, 1]))), "line 2: .* not a rigid transform"),
    "short line": (trajectory("1 2 3"), "traj.txt: line 2: expected 16 numbers .* found 3"),
    "no number": (trajectory("one " * 16), "traj.txt: line 2: could not convert.*one"),
    "empty trajectory": (lambda f: (f / "traj.txt").write_text("\n"), "traj.txt: contains no pose"),
    "no trajectory": (lambda f: (f / "traj.txt").unlink(), "traj.txt: cannot be read"),
    "no intrinsics": (lambda f: (f / "intrinsics.json").unlink(), "intrinsics.json: no such file"),
    "bad intrinsics": (lambda f: (f / "intrinsics.json").write_text("{"), "intrinsics.json: is not readable JSON"),
    "list intrinsics": (lambda f: (f / "intrinsics.json").write_text("[]"), "intrinsics.json: field 'width'"),
    "no fx": (lambda f: write_intrinsics(f, fx=None), "intrinsics.json: field 'fx' is missing"),
    "zero fx": (lambda f: write_intrinsics(f, fx=0), "intrinsics.json: camera intrinsics: fx=0.0"),
    "infinite width": (lambda f: write_intrinsics(f, width=1e999), "intrinsics.json: cannot convert"),
    "zero depth scale": (lambda f: write_intrinsics(f, depth_scale_to_m=0), "'depth_scale_to_m' is 0.0"),
    "bad distortion": (lambda f: write_intrinsics(f, distortion_k1k2p1p2k3=[1, "x"]), "'distortion_k1k2p1p2k3'"),
    "bad labels": (lambda f: (f / "labels.json").write_text('{"classes": []}'), "labels.json: expected 'classes'"),
    "no rgb folder": (lambda f: shutil.rmtree(f / "rgb"), "rgb: no such folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recordings_are_named(tmp_path, case):
    change, text = BAD[case]
    change(write_sequence(tmp_path / "tiny"))
    with pytest.raises(InvalidInputError, match=text):
        list(RgbdSequence(tmp_path / "tiny"))


def test_a_truncated_photograph_is_not_half_read(tmp_path):
    folder = write_sequence(tmp_path / "tiny", frames=1)
    (folder / "rgb" / "000000.png").unlink()
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "rgb" / "000000.jpg", quality=100, subsampling=0)
    data = (folder / "rgb" / "000000.jpg").read_bytes()
    assert np.abs(RgbdSequence(folder)[0].rgb.astype(int) - noise).mean() < 3
    (folder / "rgb" / "000000.jpg").write_bytes(data[: len(data) - 60])
    with pytest.raises(InvalidInputError, match="rgb/000000.jpg: cannot be read as 8-bit colour: .*truncated"):
        RgbdSequence(folder)[0]


def test_no_such_folder(tmp_path):
    with pytest.raises(InvalidInputError, match="nowhere: no such folder"):
        RgbdSequence(tmp_path / "nowhere")


# --- the sample -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "frames", "ids", "groups"), [("house", 60, 56, 0), ("house_eval", 8, 47, 0), ("lounge", 30, 23, 4)]
)
def test_the_sample_is_complete(name, frames, ids, groups):
    sequence = RgbdSequence(SAMPLE / name)
    assert len(sequence) == frames and len(sequence.group_ids) == groups
    seen = set()
    for index, frame in enumerate(sequence):
        semantic = sequence.semantic(index)
        for key, mask in frame.masks.items():
            assert (semantic[frame.instances == key] == mask.class_id).all()
        seen |= frame.masks.keys()
    assert len(seen) == ids and seen <= sequence.instances.keys()


@pytest.mark.parametrize(("name", "tolerance"), [("house", 0.002), ("lounge", 0.03)])
def test_sample_depth_agrees_between_frames(name, tolerance):
    """Points of one frame, seen from the next, lie at the depth measured there: poses, intrinsics and scale fit."""
    sequence = RgbdSequence(SAMPLE / name)
    errors = []
    for index in range(0, len(sequence) - 1, 7):
        first, second = sequence[index], sequence[index + 1]
        points = first.camera.unproject(first.depth)[::4, ::4].reshape(-1, 3)
        points = points[np.isfinite(points).all(axis=1)]
        local = points @ second.camera.T_camera_world[:3, :3].T + second.camera.T_camera_world[:3, 3]
        local = local[local[:, 2] > 0.2]
        pixel = np.round(local @ second.camera.K.T / local[:, 2:])[:, :2].astype(int)
        inside = (pixel >= 0).all(axis=1) & (pixel < [second.camera.width, second.camera.height]).all(axis=1)
        measured = second.depth[pixel[inside, 1], pixel[inside, 0]]
        errors.append(np.median(np.abs(measured - local[inside, 2])[measured > 0]))
    assert np.median(errors) < tolerance


def test_sample_size():
    assert sum(file.stat().st_size for file in SAMPLE.rglob("*") if file.is_file()) <= 25e6

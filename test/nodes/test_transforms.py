from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gs_semantic.errors import InvalidInputError
from gs_semantic.nodes.transforms import TooNewError, TransformBuffer, TransformError, checked_transform, inverse

MS = 1_000_000


def pose(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    return checked_transform(np.array([x, y, z]), Rotation.from_euler("z", yaw_deg, degrees=True).as_quat(), "test")


@pytest.fixture
def buffer() -> TransformBuffer:
    tree = TransformBuffer()
    tree.insert("map", "odom", 0, pose(x=10), static=True)
    tree.insert("odom", "base", 100 * MS, pose(x=0, yaw_deg=0))
    tree.insert("odom", "base", 200 * MS, pose(x=1, yaw_deg=90))
    tree.insert("base", "camera", 0, pose(z=1), static=True)
    return tree


def test_exact_stamp(buffer: TransformBuffer) -> None:
    np.testing.assert_allclose(buffer.lookup("odom", "base", 200 * MS), pose(x=1, yaw_deg=90), atol=1e-12)


def test_interpolation_is_linear_in_place_and_angle(buffer: TransformBuffer) -> None:
    np.testing.assert_allclose(buffer.lookup("odom", "base", 125 * MS), pose(x=0.25, yaw_deg=22.5), atol=1e-12)


def test_chain_through_static_and_moving_frames(buffer: TransformBuffer) -> None:
    expected = pose(x=10) @ pose(x=0.5, yaw_deg=45) @ pose(z=1)
    np.testing.assert_allclose(buffer.lookup("map", "camera", 150 * MS), expected, atol=1e-12)


def test_lookup_between_branches(buffer: TransformBuffer) -> None:
    buffer.insert("base", "lidar", 0, pose(y=2), static=True)
    np.testing.assert_allclose(buffer.lookup("lidar", "camera", 0), inverse(pose(y=2)) @ pose(z=1), atol=1e-12)


@given(st.integers(100, 200))
def test_inverse_lookup(stamp_ms: int) -> None:
    tree = TransformBuffer()
    tree.insert("odom", "base", 100 * MS, pose(x=0))
    tree.insert("odom", "base", 200 * MS, pose(x=1, yaw_deg=170))
    there, back = tree.lookup("odom", "base", stamp_ms * MS), tree.lookup("base", "odom", stamp_ms * MS)
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-12)


def test_stamp_that_is_too_new_tells_by_how_much(buffer: TransformBuffer) -> None:
    with pytest.raises(TooNewError, match="'base' to 'odom': the stamp is 30.0 ms newer"):
        buffer.lookup("map", "camera", 230 * MS)


def test_stamp_that_is_too_old_tells_by_how_much(buffer: TransformBuffer) -> None:
    with pytest.raises(TransformError, match="'base' to 'odom': the stamp is 40.0 ms older"):
        buffer.lookup("map", "camera", 60 * MS)


def test_unknown_frame_is_named_with_the_known_ones(buffer: TransformBuffer) -> None:
    with pytest.raises(TransformError, match="frame 'kamera' is unknown; known are base, camera, map, odom"):
        buffer.lookup("map", "kamera", 0)


def test_frames_that_are_not_connected(buffer: TransformBuffer) -> None:
    buffer.insert("world", "other", 0, pose(), static=True)
    with pytest.raises(TransformError, match="'other' ends in 'world', 'map' in 'map'"):
        buffer.lookup("map", "other", 0)


def test_no_transform_at_all() -> None:
    with pytest.raises(TransformError, match="no transform has come at all"):
        TransformBuffer().lookup("map", "camera", 0)


def test_same_frame_needs_nothing() -> None:
    np.testing.assert_array_equal(TransformBuffer().lookup("a", "/a", 5), np.eye(4))


def test_late_transforms_are_sorted_in(buffer: TransformBuffer) -> None:
    buffer.insert("odom", "base", 150 * MS, pose(x=7))
    np.testing.assert_allclose(buffer.lookup("odom", "base", 150 * MS), pose(x=7), atol=1e-12)
    np.testing.assert_allclose(buffer.lookup("odom", "base", 175 * MS)[0, 3], 4.0)


def test_history_is_bounded() -> None:
    tree = TransformBuffer(history_s=1.0)
    for i in range(300):
        tree.insert("odom", "base", i * 10 * MS, pose(x=i))
    with pytest.raises(TransformError, match="older than the oldest"):
        tree.lookup("odom", "base", 1_900 * MS)
    assert tree.lookup("odom", "base", 2_000 * MS)[0, 3] == 200


def test_new_parent_starts_anew(buffer: TransformBuffer) -> None:
    buffer.insert("map", "base", 150 * MS, pose(x=3))
    np.testing.assert_allclose(buffer.lookup("map", "camera", 150 * MS), pose(x=3, z=1), atol=1e-12)


def test_clear_keeps_static_frames(buffer: TransformBuffer) -> None:
    buffer.clear()
    np.testing.assert_allclose(buffer.lookup("base", "camera", 0), pose(z=1))
    with pytest.raises(TransformError):
        buffer.lookup("map", "camera", 150 * MS)


def test_loop_of_frames() -> None:
    tree = TransformBuffer()
    tree.insert("a", "b", 0, pose(x=1), static=True)
    tree.insert("b", "c", 0, pose(x=1), static=True)
    with pytest.raises(InvalidInputError, match="'a' in 'c' would close a loop of frames: a -> c -> b -> a"):
        tree.insert("c", "a", 0, pose(x=1), static=True)
    np.testing.assert_allclose(tree.lookup("a", "c", 0)[:3, 3], [2, 0, 0])  # the tree is as it was


@pytest.mark.parametrize(
    ("translation", "quaternion", "words"),
    [((0, 0, 0), (0, 0, 0, 2), "length 2"), ((0, 0, 0), (0, 0, 0, 0), "length 0"), ((np.nan, 0, 0), (0, 0, 0, 1), "NaN")],
)
def test_numbers_that_are_no_pose(translation: tuple, quaternion: tuple, words: str) -> None:
    with pytest.raises(InvalidInputError, match=f"/pose: field.*{words}"):
        checked_transform(np.array(translation, float), np.array(quaternion, float), "/pose: field")


def test_the_same_as_tf2() -> None:
    """Where tf2_ros is installed (a robot), both buffers give the same numbers and the same errors."""
    pytest.importorskip("tf2_ros")
    from gs_semantic.nodes.tf2_buffer import Tf2Buffer

    start, buffers = 1000 * MS, (TransformBuffer(), Tf2Buffer(10.0))
    for buffer in buffers:
        for i in range(5):
            buffer.insert("odom", "base", start + i * 100 * MS, pose(x=i, y=-i, yaw_deg=30 * i))
            buffer.insert("map", "odom", start + i * 150 * MS, pose(x=1, yaw_deg=-7 * i))
        buffer.insert("base", "camera", 0, pose(x=0.3, yaw_deg=90), static=True)
    ours, theirs = buffers
    assert ours.newest_ns == theirs.newest_ns == start + 600 * MS
    for stamp in (start + 50 * MS, start + 133 * MS, start + 400 * MS):
        for target, source in (("odom", "base"), ("map", "camera"), ("camera", "map"), ("base", "camera")):
            expected = ours.lookup(target, source, stamp)
            np.testing.assert_allclose(theirs.lookup(target, source, stamp), expected, atol=1e-6)
    for target, source, stamp in (("map", "camera", 1500 * MS), ("map", "camera", 995 * MS), ("map", "nowhere", start)):
        told = []
        for buffer in buffers:
            with pytest.raises(TransformError) as error:
                buffer.lookup(target, source, stamp)
            told.append((type(error.value), str(error.value)))
        assert told[0] == told[1]
    for buffer in buffers:
        buffer.clear()
        assert buffer.newest_ns == -1
        np.testing.assert_allclose(buffer.lookup("base", "camera", 0), pose(x=0.3, yaw_deg=90), atol=1e-6)

"""ROS 2 bags: written and read back, those of a robot, and those that were cut short or are damaged."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bags import CAMERA_FRAME, PERIOD_NS, START_NS, T_BODY_CAMERA, Recorder, stamp_of, write_bag
from blobs import CAMERA, FRAMES, HEIGHT, WIDTH, Blobs

from gs_semantic.data import bag_files
from gs_semantic.data.bag import BagSequence, BagTopics
from gs_semantic.data.bag_files import Bag, is_bag, storage_files
from gs_semantic.data.bag_writer import BagWriter, write_sequence
from gs_semantic.data.formats import open_sequence
from gs_semantic.errors import InvalidInputError, InvalidRequestError, MissingExtraError, StorageError
from gs_semantic.evaluation.damage import Damage

SAMPLE = Path(__file__).resolve().parents[2] / "sample" / "house"
STORAGES = ("mcap", "sqlite3")


# --- our own ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("storage", "images"), [("mcap", "raw"), ("sqlite3", "raw"), ("mcap", "compressed")])
def test_a_sequence_comes_back_from_its_bag(tmp_path, storage, images):
    recorded = open_sequence(SAMPLE)
    frames = write_sequence(
        recorded, tmp_path / "house", storage=storage, images=images, damage=Damage("none", 0), indices=[3, 4, 9]
    )
    sequence = open_sequence(tmp_path / "house")
    assert frames == len(sequence) == 3 and sequence.format == "bag" and not sequence.damage
    assert sequence.labels.names == recorded.labels.names
    for index, frame in zip((3, 4, 9), sequence, strict=True):
        truth = recorded[index]
        assert frame.stamp_ns == truth.stamp_ns - recorded.stamp_ns(3) + 1_000_000_000
        assert np.allclose(frame.camera.K, truth.camera.K)
        assert np.allclose(frame.camera.T_world_camera, truth.camera.T_world_camera, atol=2e-4)
        assert np.abs(frame.rgb.astype(int) - truth.rgb).mean() < (1.5 if images == "compressed" else 1e-9)
        assert np.allclose(frame.depth, truth.depth, atol=6e-4)
        assert np.array_equal(frame.instances, truth.instances) and frame.masks == truth.masks
    assert sequence[-1].stamp_ns == sequence.stamp_ns(2)  # in any order


def test_masks_are_written_as_asked(tmp_path):
    recorded = open_sequence(SAMPLE)
    write_sequence(recorded, tmp_path / "none", damage=None, indices=[0])
    assert open_sequence(tmp_path / "none")[0].instances is None
    write_sequence(recorded, tmp_path / "shuffled", damage=Damage("shuffled", 1), indices=[0])
    frame = open_sequence(tmp_path / "shuffled")[0]
    ids, masks = Damage("shuffled", 1).apply(recorded[0].instances, recorded[0].masks, 0)
    assert np.array_equal(frame.instances, ids) and frame.masks.keys() == masks.keys()


def test_bags_say_what_is_latched(tmp_path):
    write_sequence(open_sequence(SAMPLE), tmp_path / "house", indices=[0])
    with Bag(tmp_path / "house") as bag:
        latched = {topic.name for topic in bag.topics.values() if topic.latched}
    assert latched == {"/tf_static", "/gs_semantic/label_map"}


# --- those of robots --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("poses", ["tf", "odom", "pose"])
def test_a_robots_bag(tmp_path, storage, poses):
    """Topics are found by type, encoding and name among others; depth comes 2 ms later than colour."""
    blobs = write_bag(tmp_path / "bag", storage=storage, poses=poses)
    sequence = open_sequence(tmp_path / "bag")
    assert sequence.topics.color == "/camera/color/image_raw"
    assert sequence.topics.camera_info == "/camera/color/camera_info"
    assert sequence.topics.depth == "/camera/aligned_depth_to_color/image_raw"
    assert sequence.topics.pose_source == poses and not sequence.topics.instance
    assert len(sequence) == FRAMES and not sequence.skipped
    for i, frame in enumerate(sequence):
        blobs.check(frame, i)
        assert frame.stamp_ns == stamp_of(i)
        assert np.allclose(frame.depth, blobs.depth(i), atol=1e-3)


def test_a_single_file_and_a_folder_without_metadata(tmp_path):
    for storage in STORAGES:
        blobs = write_bag(tmp_path / storage, storage=storage)
        (file,) = storage_files(tmp_path / storage)
        blobs.check(open_sequence(file)[1], 1)
        (tmp_path / storage / "metadata.yaml").unlink()  # the recorder was killed
        sequence = open_sequence(tmp_path / storage)
        blobs.check(sequence[2], 2)
        assert any("metadata.yaml: no such file" in sentence for sentence in sequence.damage)


def test_poses_between_stamps_are_interpolated(tmp_path):
    def late(recorder: Recorder, i: int) -> None:
        for k in (-1, 1):  # around the image, not at its stamp
            recorder.pose("/slam/pose", stamp_of(i) + k * 5_000_000, Blobs().poses[i])

    blobs = write_bag(tmp_path / "bag", poses="", change=late)
    sequence = open_sequence(tmp_path / "bag")
    for i, frame in enumerate(sequence):
        blobs.check(frame, i)


def test_images_without_a_pose_are_left_out_and_counted(tmp_path):
    def third_pose(recorder: Recorder, i: int) -> None:
        if i != 1:
            recorder.transform("/tf", stamp_of(i), "map", "base_link", Blobs().poses[i] @ np.linalg.inv(T_BODY_CAMERA))

    blobs = write_bag(tmp_path / "bag", poses="", change=third_pose)
    sequence = open_sequence(tmp_path / "bag")
    assert len(sequence) == 3  # between two transforms there is one
    (tmp_path / "other").mkdir()

    def first_pose(recorder: Recorder, i: int) -> None:
        if i == 0:
            recorder.transform("/tf", stamp_of(i), "map", "base_link", blobs.poses[0] @ np.linalg.inv(T_BODY_CAMERA))

    write_bag(tmp_path / "other" / "bag", poses="", change=first_pose)
    sequence = open_sequence(tmp_path / "other" / "bag")
    assert len(sequence) == 1 and sum(sequence.skipped.values()) == 2
    (reason,) = sequence.skipped
    assert "'base_link'" in reason and "'map'" in reason


def test_compressed_colour_and_chosen_topics(tmp_path):
    blobs = write_bag(
        tmp_path / "bag", change=lambda r, i: r.jpeg("/front/image/compressed", stamp_of(i), Blobs().image(i))
    )
    assert open_sequence(tmp_path / "bag").topics.color == "/camera/color/image_raw"  # raw is preferred
    sequence = BagSequence(tmp_path / "bag", topics=BagTopics(color="/front/image/compressed"))
    blobs.check(sequence[1], 1)
    with pytest.raises(InvalidInputError, match=r"has no topic /none \(depth\); it has /tf_static"):
        BagSequence(tmp_path / "bag", topics=BagTopics(depth="/none"))
    with pytest.raises(InvalidRequestError, match="pose_source 'gps': expected one of auto, tf"):
        BagSequence(tmp_path / "bag", topics=BagTopics(pose_source="gps"))


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("plumb_bob", [0.1, -0.05, 0.003, -0.002, 0.01]),
        ("rational_polynomial", [0.1, -0.05, 0.003, -0.002, 0.01, 0.02, 0.0, 0.0]),
        ("equidistant", [0.05, -0.02, 0.01, 0.0]),
    ],
)
def test_distorted_cameras(tmp_path, model, coefficients):
    blobs = Blobs(np.array(coefficients), fisheye=model == "equidistant")
    write_bag(tmp_path / "bag", blobs, model=model)
    sequence = open_sequence(tmp_path / "bag")
    for i, frame in enumerate(sequence):
        blobs.check(frame, i)


def test_the_camera_may_change_in_the_middle(tmp_path):
    zoomed = Blobs(camera=CAMERA.resized(WIDTH // 2, HEIGHT // 2), radius=3)

    def smaller(recorder: Recorder, i: int) -> None:
        if i == FRAMES - 1:
            stamp = stamp_of(i) + 50_000_000
            recorder.info("/camera/color/camera_info", stamp, zoomed)
            recorder.image("/camera/color/image_raw", stamp, zoomed.image(0)[..., ::-1], "bgr8")
            depth = np.full((HEIGHT // 2, WIDTH // 2), 1500, np.uint16)
            recorder.image("/camera/aligned_depth_to_color/image_raw", stamp, depth, "16UC1")
            recorder.transform("/tf", stamp, "map", "base_link", zoomed.poses[0] @ np.linalg.inv(T_BODY_CAMERA))

    blobs = write_bag(tmp_path / "bag", change=smaller)
    sequence = open_sequence(tmp_path / "bag")
    assert [sequence.camera(i).width for i in range(4)] == [WIDTH, WIDTH, WIDTH, WIDTH // 2]
    blobs.check(sequence[1], 1)
    assert np.allclose(sequence[3].depth, 1.5)


def test_stamps_of_a_simulator(tmp_path):
    """Stamps of another clock than the recorder's, which begins at 0."""
    with Recorder(tmp_path / "bag") as recorder:
        blobs = Blobs()
        for i in range(FRAMES):
            stamp = i * PERIOD_NS
            for topic, write in (
                ("/cam/pose", lambda s, i=i: recorder.pose("/cam/pose", s, blobs.poses[i])),
                ("/cam/camera_info", lambda s: recorder.info("/cam/camera_info", s, blobs)),
                ("/cam/image", lambda s, i=i: recorder.image("/cam/image", s, blobs.image(i), "rgb8")),
            ):
                assert topic
                write(stamp + PERIOD_NS)
    sequence = open_sequence(tmp_path / "bag")
    assert [frame.stamp_ns for frame in sequence] == [PERIOD_NS, 2 * PERIOD_NS, 3 * PERIOD_NS]
    blobs.check(sequence[2], 2)


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def long_bag(tmp_path):
    """Thirty frames in each storage."""

    def write(storage: str) -> Path:
        write_bag(tmp_path / storage, storage=storage, frames=30)
        return tmp_path / storage

    return write


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "no metadata"])
def test_a_bag_cut_short(long_bag, storage, share, metadata):
    """The error names the file and how far it was read; what was read is right."""
    path = long_bag(storage)
    (file,) = storage_files(path)
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.truncate(int(size * share))
    if not metadata:
        (path / "metadata.yaml").unlink()
    sequence = open_sequence(path)
    text = " ".join(sequence.damage)
    assert str(file) in text and "cut short" in text and "up to time" in text
    assert 30 * share * 0.5 < len(sequence) <= (29 if share < 0.6 else 30)  # the end of an mcap file is its index
    blobs = Blobs()
    for i, frame in enumerate(sequence):
        blobs.check(frame, i % FRAMES)
        assert frame.stamp_ns == stamp_of(i)
    write_bag(path.parent / "next").check(open_sequence(path.parent / "next")[0], 0)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_that_breaks_off_at_once(long_bag, storage):
    path = long_bag(storage)
    (file,) = storage_files(path)
    with file.open("r+b") as stream:
        stream.truncate(300)
    with pytest.raises(InvalidInputError, match=f"{file.name}"):
        open_sequence(path)


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3"])
def test_files_that_are_no_bags(tmp_path, name):
    (tmp_path / name).write_bytes(b"not at all a bag" * 100)
    with pytest.raises(InvalidInputError, match=f"{name}: nothing can be read of"):
        open_sequence(tmp_path / name)


def test_an_empty_folder_is_no_bag(tmp_path):
    assert not is_bag(tmp_path)
    with pytest.raises(InvalidInputError, match="no such bag; expected a folder with metadata"):
        Bag(tmp_path / "none")


def test_a_damaged_chunk_ends_the_reading_there(long_bag):
    path = long_bag("mcap")
    (file,) = storage_files(path)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    file.write_bytes(data)
    with Bag(path) as bag:
        count = sum(1 for _ in bag.messages())
        (sentence,) = bag.damage
    assert 0 < count < 30 * 8
    assert "damaged after time" in sentence and "what comes before is used" in sentence


def without(*topics: str):
    """A writer of bags that leaves some topics out."""

    def write(path: Path) -> None:
        write = Recorder.write
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Recorder, "write", lambda r, topic, *a, **k: topic in topics or write(r, topic, *a, **k))
            write_bag(path)

    return write


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        (("/camera/color/image_raw", "/camera/infra1/image_rect_raw"), "has no colour image topic; it has /tf_static"),
        (
            ("/camera/color/camera_info", "/camera/depth/camera_info"),
            "has no camera_info topic .* for /camera/color/im",
        ),
        (("/tf",), "holds no camera poses: no transform on /tf moves frame 'camera_optical'"),
        (("/tf", "/tf_static"), "no Odometry and no PoseStamped; record /tf"),
    ],
)
def test_bags_without_what_is_needed(tmp_path, missing, text):
    without(*missing)(tmp_path / "bag")
    with pytest.raises(InvalidInputError, match=text) as caught:
        open_sequence(tmp_path / "bag")
    assert str(tmp_path / "bag") in str(caught.value)


def test_an_unknown_lens_is_refused_by_name(tmp_path):
    write_bag(tmp_path / "bag", Blobs(np.array([0.1, 0, 0, 0])), model="double_sphere")
    with pytest.raises(InvalidInputError, match="/camera/color/camera_info holds no usable .*'double_sphere'"):
        open_sequence(tmp_path / "bag")


def test_depth_of_another_size_is_named(tmp_path):
    write_bag(tmp_path / "bag")
    topics = BagTopics(depth="/camera/depth/image_rect_raw")
    sequence = BagSequence(tmp_path / "bag", topics=topics)
    with pytest.raises(
        InvalidInputError,
        match=r"/camera/depth/image_rect_raw: is not registered to /camera/color/image_raw: image is 80x60 .*"
        r"needs the transform: .*'camera_depth_optical'",
    ):
        sequence[0]


def test_depth_of_another_camera_is_registered(tmp_path):
    """The depth camera is 5 cm beside the colour camera; a wall stays where it is, but for the rim that it cannot see."""
    offset = np.eye(4)
    offset[0, 3] = 0.05

    def mounted(recorder: Recorder, i: int) -> None:
        if i == 0:
            recorder.transform("/tf_static", stamp_of(0), CAMERA_FRAME, "camera_depth_optical", offset)

    blobs = write_bag(tmp_path / "bag", change=mounted)
    topics = BagTopics(depth="/camera/depth/image_rect_raw")
    sequence = BagSequence(tmp_path / "bag", topics=topics)
    assert sequence.topics.depth_info == "/camera/depth/camera_info"
    for i, frame in enumerate(sequence):
        blobs.check(frame, i)
        rim = int(CAMERA.fx * 0.05 / blobs.depth(i)[0, 1]) + 4
        assert np.allclose(frame.depth[4:-4, rim:-4], blobs.depth(i)[4:-4, rim:-4], atol=2e-3)
        assert (frame.depth[:, : rim - 6] == 0).all()


def test_an_unusable_image_does_not_harm_the_next(tmp_path):
    def broken(recorder: Recorder, i: int) -> None:
        data = np.frombuffer(b"this is no jpeg", np.uint8)
        if i == 1:
            header = recorder.writer.header(stamp_of(i), CAMERA_FRAME)
            message = recorder.writer.message(
                "sensor_msgs/msg/CompressedImage", header=header, format="jpeg", data=data
            )
            recorder.write("/front/image/compressed", "sensor_msgs/msg/CompressedImage", stamp_of(i), message)
        else:
            recorder.jpeg("/front/image/compressed", stamp_of(i), Blobs().image(i))

    blobs = write_bag(tmp_path / "bag", change=broken)
    sequence = BagSequence(tmp_path / "bag", topics=BagTopics(color="/front/image/compressed"))
    blobs.check(sequence[0], 0)
    with pytest.raises(InvalidInputError, match="/front/image/compressed"):
        sequence[1]
    blobs.check(sequence[2], 2)


def test_a_quaternion_that_is_none_is_left_out(tmp_path):
    def bad(recorder: Recorder, i: int) -> None:
        if i == 1:
            recorder.transform("/tf", stamp_of(i) + 1_000_000, "map", "base_link", np.eye(4), length=2.0)

    blobs = write_bag(tmp_path / "bag", change=bad)
    sequence = open_sequence(tmp_path / "bag")
    blobs.check(sequence[1], 1)
    (reason,) = sequence.skipped
    assert "/tf" in reason and "base_link" in reason


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    write_bag(tmp_path / "bag")
    monkeypatch.setitem(sys.modules, "rosbags.rosbag2", None)
    with pytest.raises(
        MissingExtraError, match=r"needs the Python module 'rosbags': pip install 'gs_semantic\[bags\]'"
    ):
        open_sequence(tmp_path / "bag")


# --- writing ----------------------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, sys
from gs_semantic.data.bag_writer import write_sequence
from gs_semantic.data.formats import open_sequence
from gs_semantic.errors import StorageError
sequence = open_sequence(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
try:
    write_sequence(sequence, sys.argv[2], storage=sys.argv[3], indices=range(20))
except StorageError as error:
    sys.exit(f"told: {error}")
"""


@pytest.mark.parametrize("storage", STORAGES)
def test_a_disk_that_fills_keeps_the_old_bag(tmp_path, storage):
    blobs = write_bag(tmp_path / "bag", storage=storage)
    before = {file.name: file.read_bytes() for file in (tmp_path / "bag").iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(SAMPLE), str(tmp_path / "bag"), storage],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "told: " in done.stderr, done.stderr
    assert f"{tmp_path / 'bag'}: the bag was not written" in done.stderr
    assert {file.name: file.read_bytes() for file in (tmp_path / "bag").iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["bag"]  # nothing is left lying about
    blobs.check(open_sequence(tmp_path / "bag")[0], 0)


def test_an_older_bag_is_replaced_and_other_things_are_not(tmp_path):
    write_bag(tmp_path / "bag", storage="sqlite3")
    blobs = write_bag(tmp_path / "bag", storage="mcap")
    assert [file.suffix for file in storage_files(tmp_path / "bag")] == [".mcap"]
    blobs.check(open_sequence(tmp_path / "bag")[0], 0)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "important.txt").write_text("keep")
    with pytest.raises(StorageError, match="notes: is there and is not a bag's folder"):
        BagWriter(tmp_path / "notes")
    with pytest.raises(InvalidRequestError, match="storage 'rosbag1': expected one of mcap, sqlite3"):
        BagWriter(tmp_path / "new", "rosbag1")


def test_an_interrupted_recording_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), Recorder(tmp_path / "bag") as recorder:
        recorder.info("/camera_info", START_NS, Blobs())
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_split_bag_are_in_the_order_of_their_numbers(tmp_path):
    for number in (0, 2, 10, 1):
        (tmp_path / f"run_{number}.mcap").write_bytes(b"")
    assert [file.name for file in storage_files(tmp_path)] == ["run_0.mcap", "run_1.mcap", "run_2.mcap", "run_10.mcap"]


def test_a_lost_file_of_a_split_bag(tmp_path):
    """Two recordings in one folder read as one bag; without metadata each file is opened by itself."""
    write_bag(tmp_path / "one")
    write_bag(tmp_path / "two")
    (tmp_path / "bag").mkdir()
    for number, name in enumerate(("one", "two")):
        shutil.copy(storage_files(tmp_path / name)[0], tmp_path / "bag" / f"bag_{number}.mcap")
    with Bag(tmp_path / "bag") as bag:
        assert bag.topics["/tf"].count == 2 * FRAMES
        assert sum(1 for _ in bag.messages(["/tf"])) == 2 * FRAMES
    (tmp_path / "bag" / "bag_0.mcap").write_bytes(b"gone")
    with Bag(tmp_path / "bag") as bag:
        assert sum(1 for _ in bag.messages(["/tf"])) == FRAMES
        assert any("bag_0.mcap" in sentence for sentence in bag.damage)
    assert bag_files.typestore().types["gs_semantic/msg/MaskInfo"]

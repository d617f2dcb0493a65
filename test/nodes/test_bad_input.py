"""Every bad input ends as an error that names its topic and field, and the next valid input gives a correct result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rig import BOX_PIXEL, WALL_PIXEL, Rig

from gs_semantic.client import SemanticMap
from gs_semantic.errors import (
    EmptyMapError,
    InvalidRequestError,
    MapFormatError,
    NothingThereError,
    OutsideImageError,
    StorageError,
    UnknownObjectError,
)
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.nodes.conversions import to_bytes_field


def test_unknown_encoding(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["color/image"].encoding = "rgb9"
    rig.publish(messages)
    rig.told("/rig/color/image", "encoding 'rgb9'", "rgb8")
    rig.still_works()


def test_unknown_depth_encoding(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["depth/image"].encoding = "64FC1"
    rig.publish(messages)
    rig.told("/rig/depth/image", "encoding '64FC1'", "32FC1")
    rig.still_works()


def test_wrong_step(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["depth/image"].step = 7
    rig.publish(messages)
    rig.told("/rig/depth/image", "step is 7 bytes")
    rig.still_works()


def test_wrong_data_size(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["color/image"].data = to_bytes_field(bytes(100))
    rig.publish(messages)
    rig.told("/rig/color/image", "data has 100 bytes")
    rig.still_works()


def test_depth_of_another_size(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    depth = messages["depth/image"]
    depth.width, depth.height, depth.step = 80, 60, 320
    depth.data = to_bytes_field(np.ones((60, 80), np.float32))
    rig.publish(messages)
    rig.told("/rig/depth/image", "80x60", "/rig/color/image", "160x120")
    rig.still_works()


def test_missing_camera_info(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    del messages["color/camera_info"]
    rig.publish(messages)
    rig.told("/rig/color/camera_info", "no message has come")
    rig.still_works()


def test_zero_camera_info(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["color/camera_info"].k = np.zeros(9)
    rig.publish(messages)
    rig.told("/rig/color/camera_info", "fx=0.0")
    rig.still_works()


def test_nan_pose(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["/tf"].transforms[0].transform.translation.x = float("nan")
    rig.publish(messages)
    rig.told("/tf", "'camera' in 'map'", "NaN")
    rig.still_works()


def test_pose_that_is_not_of_unit_length(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["/tf"].transforms[0].transform.rotation.w = 2.0
    rig.publish(messages)
    rig.told("/tf", "'camera' in 'map'", "length 2")
    rig.still_works()


def test_unknown_frame(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["color/image"].header.frame_id = "kamera"
    rig.publish(messages)
    rig.told("frame 'kamera' is unknown", "camera, map")
    rig.still_works()


def test_equal_stamps(rig: Rig) -> None:
    stamp = rig.map_scene()
    rig.publish(rig.messages(stamp))
    rig.told("/rig/color/image", "is not newer than the one before")
    rig.still_works()


def test_stamps_that_never_match(rig: Rig) -> None:
    for dropped in range(1, 6):
        messages = rig.messages(rig.next_stamp())
        messages["depth/image"].header.stamp.nanosec += 7_000_000
        rig.publish(messages)
        rig.until(lambda dropped=dropped: rig.mapper.inputs.unmatched == dropped, "the frame's end")
    rig.told("/rig/depth/image", "no stamp is equal to one of /rig/color/image", "+7.0 ms apart")
    rig.still_works()


def test_clock_that_jumps_back(rig: Rig) -> None:
    rig.map_scene()
    rig.number = -50
    rig.send()
    rig.told("/tf ('camera')", "the stamp jumped back by 5")
    rig.still_works()


def test_no_masks(rig: Rig) -> None:
    stamp = rig.send(masks=False)
    assert not rig.answer(stamp).any()
    rig.settled()
    assert rig.status_after().gaussians > 0
    rig.still_works()
    stamp = rig.send(masks=False)  # labels come from the map
    rig.check(rig.answer(stamp))


def test_masks_of_another_size_do_not_lose_the_frame(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    mask = messages["instance/image"]
    mask.width, mask.height, mask.step = 80, 60, 80
    mask.data = to_bytes_field(bytes(80 * 60))
    rig.publish(messages)
    rig.told("/rig/instance/image", "80x60")
    rig.until(lambda: rig.mapper.statistics.frames_mapped == 1, "the frame")
    rig.still_works()


def test_mask_info_that_does_not_fit(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["instance/info"].scores = [0.5]
    rig.publish(messages)
    rig.told("/rig/instance/info", "ids has 2 entries", "scores has 1 entries")
    rig.still_works()


@pytest.fixture
def planner(rig: Rig) -> SemanticMap:
    with rig.planner() as planner:
        yield planner


def test_corrupt_map_folder(rig: Rig, planner: SemanticMap, tmp_path: Path) -> None:
    rig.map_scene()
    gaussians = rig.mapper.mapper.gaussians
    folder = planner.save(tmp_path / "map")
    (folder / "attributes.safetensors").write_bytes(b"not this")
    with pytest.raises(MapFormatError, match="attributes.safetensors"):
        planner.load(folder)
    assert rig.mapper.mapper.gaussians is gaussians  # the present map stays
    rig.still_works()


def test_corrupt_ply(rig: Rig, planner: SemanticMap, tmp_path: Path) -> None:
    rig.map_scene()
    folder = planner.save(tmp_path / "map")
    with (folder / "gaussians.ply").open("r+b") as file:
        file.truncate(500)
    with pytest.raises(MapFormatError, match="gaussians.ply"):
        planner.load(folder)
    rig.still_works()


def test_unwritable_disk_while_saving(
    rig: Rig, planner: SemanticMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.map_scene()
    folder = planner.save(tmp_path / "map")
    before = len(load_map(folder)[0])
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("gs_semantic.gaussians.map_folder.save_file", full)
        with pytest.raises(StorageError, match="No space left"):
            planner.save(folder)
    assert len(load_map(folder)[0]) == before  # the old map is whole
    rig.still_works()


def test_save_where_a_file_is(rig: Rig, planner: SemanticMap, tmp_path: Path) -> None:
    rig.map_scene()
    (tmp_path / "file").write_text("here")
    with pytest.raises(StorageError, match="file"):
        planner.save(tmp_path / "file")
    rig.still_works()


def test_unknown_object_id(rig: Rig, planner: SemanticMap) -> None:
    rig.map_scene()
    with pytest.raises(UnknownObjectError, match="object 987654"):
        planner.get_object(987654)
    assert planner.get_object(planner.list_objects()[0].id).object.label in ("box", "lamp")


@pytest.mark.parametrize("pixel", [(-1, 0), (160, 0), (0, 120), (0, -1)])
def test_pixel_outside(rig: Rig, planner: SemanticMap, pixel: tuple[int, int]) -> None:
    rig.map_scene()
    with pytest.raises(OutsideImageError, match="outside of the 160x120 image"):
        planner.query_pixel(*pixel)
    assert planner.query_pixel(*BOX_PIXEL).object.label == "box"


def test_pixel_without_object(rig: Rig, planner: SemanticMap) -> None:
    rig.map_scene()
    with pytest.raises(NothingThereError):
        planner.query_pixel(*WALL_PIXEL)


def test_services_of_an_empty_map(rig: Rig, planner: SemanticMap, tmp_path: Path) -> None:
    assert len(planner.list_objects()) == 0
    with pytest.raises(UnknownObjectError):
        planner.get_object(1)
    for call in (
        lambda: planner.query_pixel(0, 0),
        lambda: planner.query_sphere((0, 0, 0), 1.0),
        lambda: planner.render_view(np.eye(4)),
    ):
        with pytest.raises(EmptyMapError):
            call()
    folder = planner.save(tmp_path / "empty")
    assert planner.load(folder) == 0
    rig.still_works()


def test_services_while_paused(rig: Rig, planner: SemanticMap, tmp_path: Path) -> None:
    rig.map_scene()
    planner.pause()
    revision = planner.list_objects().revision
    stamp = rig.send()
    assert rig.status_after().state_text == "paused"
    assert [obj.label for obj in planner.list_objects()] == ["box", "lamp"]
    assert planner.query_pixel(*BOX_PIXEL).object.label == "box"
    assert len(planner.get_object(planner.list_objects()[0].id, gaussians=True).gaussians) > 0
    planner.save(tmp_path / "map")
    assert planner.list_objects().revision == revision
    assert not rig.answered(stamp)
    planner.resume()
    rig.still_works()


@pytest.mark.parametrize(
    ("size", "message"), [((0, 1, 1), "three positive lengths"), ((1, float("nan"), 1), "three positive lengths")]
)
def test_region_without_extent(
    rig: Rig, planner: SemanticMap, size: tuple[float, float, float], message: str
) -> None:
    rig.map_scene()
    with pytest.raises(InvalidRequestError, match=message):
        planner.query_box((0, 0, 0), size)
    assert len(planner.query_box((0, 0, 2), (10, 10, 10)).objects) == 2

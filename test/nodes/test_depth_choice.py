"""``use_depth``: with a depth sensor, without one, and when it comes or goes; colour and poses alone over topics."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from rig import PATIENCE_S, Rig

from gs_semantic.gaussians import Camera
from gs_semantic.nodes import conversions

NO_DEPTH, DEPTH_TOPIC = "[no_depth]", "depth/image"


def send(rig: Rig, depth: bool) -> int:
    """A frame of the scene, with or without its depth image."""
    stamp = rig.next_stamp()
    messages = rig.messages(stamp)
    if not depth:
        del messages[DEPTH_TOPIC]
    rig.publish(messages)
    return stamp


def warnings(rig: Rig) -> str:
    return "\n".join(rig.status_after().warnings)


def keep_sending(rig: Rig, depth: bool, until: Callable[[], bool], what: str) -> None:
    """Frames at a camera's rhythm until something is the case."""
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < deadline, f"{what} did not come; {warnings(rig)}"
        send(rig, depth)
        time.sleep(0.1)


def test_auto_does_without_depth_until_it_comes_and_says_when_it_goes(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(use_depth="auto", keyframe_interval_s=3600.0)
    keep_sending(rig, False, lambda: NO_DEPTH in warnings(rig), "the choice")
    assert f"/{DEPTH_TOPIC}: no image has come" in warnings(rig)
    rig.until(lambda: rig.status_after().sync_matched > 0, "a frame without depth")

    keep_sending(rig, True, lambda: NO_DEPTH not in warnings(rig), "depth")
    rig.still_works()
    before = rig.status_after().sync_unmatched

    keep_sending(rig, False, lambda: rig.status_after().sync_unmatched > before + 1, "frames without their depth")
    assert DEPTH_TOPIC in warnings(rig) and NO_DEPTH not in warnings(rig)
    rig.still_works()


def test_auto_with_a_sensor_takes_its_depth_from_the_first_frame_on(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(use_depth="auto")
    rig.map_scene()
    assert NO_DEPTH not in warnings(rig)


def test_colour_and_poses_alone_make_a_map_over_topics(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(
        use_depth="never", match_width_px=160, keyframe_translation_m=0.05, seed_max_block_px=8, keyframe_queue=100
    )
    camera = Camera(160, 120, 128.0, 128.0, 79.5, 59.5)
    for number in range(6):
        stamp = rig.next_stamp()
        pose = np.eye(4)
        pose[0, 3] = 0.12 * number
        header = conversions.make_header(stamp, "camera")
        rig.publish(
            {
                "/tf": rig.transform(stamp, pose),
                "color/camera_info": conversions.write_camera(camera, header),
                "color/image": conversions.write_image(wall(camera.at(pose)), "rgb8", header),
            }
        )
        rig.answer(stamp)
    rig.settled()
    means = rig.mapper.mapper.gaussians.means.numpy()
    assert len(means) > 300
    assert abs(np.median(means[:, 2]) - 2.0) < 0.1
    assert "no_depth" not in warnings(rig)


def wall(camera: Camera) -> np.ndarray:
    """A wall 2 m ahead of the world's origin, with a texture that is fixed to it."""
    points = camera.unproject(np.full((camera.height, camera.width), 2.0, np.float32)).astype(np.float64)
    waves = np.random.default_rng(3).normal(0, 14, (12, 3))
    grey = 128 + 300 * np.sin(points @ waves.T + np.arange(12)).mean(-1)
    return np.clip(grey, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


@pytest.mark.parametrize("value", ["sometimes", ""])
def test_another_value_is_refused(make_rig: Callable[..., Rig], value: str) -> None:
    with pytest.raises(Exception, match="use_depth"):
        make_rig(use_depth=value)

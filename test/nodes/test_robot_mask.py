"""Pixels where the camera sees the robot itself do not get into the map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rig import BOX_PIXEL, HEIGHT, LAMP_PIXEL, WIDTH, Rig

from gs_semantic.errors import InvalidInputError


def mask_of_the_lamp(file: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    image = np.zeros((height, width), np.uint8)
    u, v = LAMP_PIXEL
    image[v - 25 : v + 25, u - 25 : u + 25] = 255
    cv2.imwrite(str(file), image)
    return file


def test_masked_pixels_are_ignored(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make_rig(robot_mask=str(mask_of_the_lamp(tmp_path / "robot.png")), steps_per_keyframe=3)
    for _ in range(4):
        semantic = rig.answer(rig.send())
        rig.settled()
    assert semantic[BOX_PIXEL[::-1]] == 3 and semantic[LAMP_PIXEL[::-1]] == 0
    view = rig.mapper.view
    red, green, shade = view.gaussians.sh[:, 0].unbind(1)
    blue = shade > torch.maximum(red, green) + 0.5
    assert not blue.any()  # the lamp's colour is nowhere


def test_a_file_that_is_no_image(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    (tmp_path / "robot.png").write_bytes(b"no image")
    with pytest.raises(InvalidInputError, match=r"robot_mask: .*robot.png cannot be read as an image; give a PNG"):
        make_rig(robot_mask=str(tmp_path / "robot.png"))
    make_rig().still_works()


def test_a_mask_of_another_size(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make_rig(robot_mask=str(mask_of_the_lamp(tmp_path / "robot.png", 320, 240)))
    rig.send()
    rig.told("robot_mask", "robot.png is 320x240, the images are 160x120")

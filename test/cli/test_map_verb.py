"""``gs-semantic map`` of photographs: fitting, seeds, scores of withheld frames."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from gs_semantic.cli import main
from gs_semantic.data.formats import open_sequence
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.share import share_path

EXIT_ERROR = 2


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frames of the sample as photographs of a reconstruction: poses, points, no depth."""
    folder = tmp_path_factory.mktemp("photographs")
    sample = open_sequence(share_path("sample", "house"), max_width=120)
    frames, xyz, rgb = [], [], []
    for index in range(9):
        frame = sample[index]
        name = f"{index:03d}.png"
        cv2.imwrite(str(folder / name), frame.rgb[..., ::-1])
        frames.append({"file_path": name, "camera_to_world_opencv": frame.camera.T_world_camera.tolist()})
        seen = frame.depth[::4, ::4] > 0
        xyz.append(frame.camera.unproject(frame.depth)[::4, ::4][seen])
        rgb.append(frame.rgb[::4, ::4][seen])
    camera = sample[0].camera
    intrinsics = {"w": camera.width, "h": camera.height, "fl_x": camera.fx, "fl_y": camera.fy}
    intrinsics |= {"cx": camera.cx, "cy": camera.cy, "frames": frames}
    (folder / "transforms_opencv.json").write_text(json.dumps(intrinsics))
    np.savez(folder / "points.npz", xyz=np.concatenate(xyz), rgb=np.concatenate(rgb))
    return folder


def run_map(tmp_path: Path, *words: str) -> dict[str, float]:
    report = tmp_path / "report.json"
    assert main(["map", *words, "--json", str(report)]) == 0
    return json.loads(report.read_text())["results"]


def test_photographs_are_fitted_from_points_and_scored_where_withheld(photographs, tmp_path):
    words = (str(photographs), str(tmp_path / "map"), "--skip-every", "8")
    short = run_map(tmp_path, *words, "--fit", "20", "--fit-gaussians", "9000")
    long = run_map(tmp_path, *words, "--fit", "300", "--fit-gaussians", "9000", "--sh-degree", "2")
    assert long["frames"] == 8 and long["evaluation_views"] == 1 and long["seconds"] > 0
    assert long["psnr_db"] > max(18.0, short["psnr_db"] + 2)
    gaussians, _ = load_map(tmp_path / "map")
    assert gaussians.sh_degree == 2 and len(gaussians) == long["gaussians"] <= 9000


def test_points_that_are_not_there_are_asked_for(tmp_path, capsys):
    words = ["map", str(share_path("sample", "house")), str(tmp_path / "map"), "--fit", "10", "--seeds", "points"]
    assert main(words) == EXIT_ERROR
    assert "--seeds points: needs --fit, a recording without depth" in capsys.readouterr().err
    assert main([*words[:-2], "--sh-degree", "4"]) == EXIT_ERROR
    assert "sh_degree = 4: expected 0 to 3" in capsys.readouterr().err

"""One form of pip install gives the whole package; every other one stops and names that form."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
COMMAND = "pip install --no-build-isolation ."

# What pip does first, with nothing of the environment visible but the folder named in the argument: build isolation.
ISOLATED_BUILD = """
import sys
sys.path[:] = [entry for entry in sys.path if not entry.endswith("-packages")] + [sys.argv[1]]
import setuptools.build_meta
setuptools.build_meta.get_requires_for_build_wheel()
"""


def _visible(folder: Path, *modules: str) -> Path:
    for name in modules:
        spec = importlib.util.find_spec(name)
        assert spec and spec.origin
        (folder / name).symlink_to(Path(spec.origin).parent)
    return folder


@pytest.mark.parametrize(
    ("modules", "missing"),
    [(["setuptools"], "the ROS 2 wheels"), (["setuptools", "torch"], "the ROS 2 wheels"),
     (["setuptools", "rclpy"], "torch")],
)  # fmt: skip
def test_refused_without_torch_or_ros_wheels(
    modules: list[str], missing: str, source_copy: Path, tmp_path: Path, run: Run
) -> None:
    folder = _visible(tmp_path, *modules)
    result = run(sys.executable, "-I", "-c", ISOLATED_BUILD, folder, cwd=source_copy)
    assert result.returncode != 0
    assert COMMAND in result.stdout and f"{missing} " in result.stdout


def test_refused_editable(source_copy: Path, bare_environment: Path, run: Run) -> None:
    python = bare_environment / "bin" / "python"
    result = run(python, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", ".", cwd=source_copy)
    assert result.returncode != 0
    assert COMMAND in result.stdout and "editable" in result.stdout


def test_refused_setup_py_install(source_copy: Path, run: Run) -> None:
    result = run(sys.executable, "setup.py", "install", cwd=source_copy)
    assert result.returncode != 0 and COMMAND in result.stdout


CHECK_INSTALLED = """
import ctypes, pathlib, sys
import gs_semantic, gs_semantic.msg, gs_semantic.srv
assert [str(pathlib.Path(path)) for path in gs_semantic.__path__] == sys.argv[1:2], gs_semantic.__path__
ctypes.CDLL(str(pathlib.Path(gs_semantic.__path__[0], "lib", "libgs_semantic_native.so")))
import rclpy
rclpy.init()
node = rclpy.create_node("check")
node.create_publisher(gs_semantic.msg.Status, "status", 1).publish(gs_semantic.msg.Status())
node.create_service(gs_semantic.srv.ListObjects, "list", lambda request, response: response)
from ament_index_python.packages import get_package_share_directory
print("share", get_package_share_directory("gs_semantic"))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_one_form_installs_everything_and_uninstalls(
    source_copy: Path, bare_environment: Path, tmp_path: Path, run: Run
) -> None:
    python = bare_environment / "bin" / "python"
    assert run(python, "-c", "import gs_semantic", cwd=tmp_path).returncode != 0
    # `make build` has compiled all of it, and for every instruction set; here it is the installation that counts
    hurried = {"GS_SETS": "scalar"}
    for variable, compiler in (("CC", "cc"), ("CXX", "c++")):
        script = tmp_path / compiler
        script.write_text(f'#!/bin/sh\nexec {os.environ.get(variable, compiler)} "$@" -O0\n', encoding="utf-8")
        script.chmod(0o755)
        hurried[variable] = str(script)
    result = run(python, "-m", "pip", "install", "--no-build-isolation", ".", cwd=source_copy, **hurried)
    assert result.returncode == 0, result.stdout[-4000:]

    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    package = bare_environment / "lib" / version / "site-packages" / "gs_semantic"
    prefix_path = {"AMENT_PREFIX_PATH": str(bare_environment)}
    result = run(python, "-c", CHECK_INSTALLED, package, cwd=tmp_path, **prefix_path)
    assert result.returncode == 0, result.stdout
    share = bare_environment / "share" / "gs_semantic"
    assert f"share {share}" in result.stdout
    for path in ("package.xml", "launch/segment.launch.py", "config/base.yaml", "sample", "msg/Status.msg"):
        assert (share / path).exists(), path
    for name in ("mapper", "replay", "gs-semantic"):
        assert (bare_environment / "lib" / "gs_semantic" / name).stat().st_mode & 0o111, name
    result = run(bare_environment / "bin" / "gs-semantic", "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stdout

    assert run(python, "-m", "pip", "uninstall", "--yes", "gs_semantic", cwd=tmp_path).returncode == 0
    left = [path for path in bare_environment.rglob("*gs_semantic*") if path.is_file()]
    assert not left

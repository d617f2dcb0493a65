"""Builds with CMake where ROS 2 comes from PyPI wheels. Standard library only; used by tools/develop.py and setup.py.

The wheels lay a ROS install prefix (``share/``, ``lib/``, the ament index) into the Python environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATORS = "share/rosidl_default_generators/cmake"


class BuildError(Exception):
    """A build that cannot start or failed; the text says what to do."""


def ros_prefixes() -> list[Path]:
    """Return the prefixes that hold the interface generators, this environment's own first."""
    candidates = [Path(sys.prefix), *(Path(entry).parents[2] for entry in sys.path if entry.endswith("-packages"))]
    return [prefix for prefix in dict.fromkeys(candidates) if (prefix / GENERATORS).is_dir()]


def check_toolchain() -> None:
    """Raise `BuildError` naming what to install when there is no C++ compiler or no Python header."""
    if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")):
        raise BuildError("no C++ compiler found; install one (Debian, Ubuntu: apt install g++)")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BuildError(f"Python.h of Python {version} not found; install it (Debian, Ubuntu: apt install python3-dev)")


def cmake_build(source: Path, build: Path, *options: str) -> None:
    """Configure and build ``source`` in ``build`` with Ninja; output goes to ``build/build.log``."""
    build.mkdir(parents=True, exist_ok=True)
    with open(build / "build.log", "w", encoding="utf-8") as log:
        _run(["cmake", "-G", "Ninja", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *options], log)
        _run(["cmake", "--build", build, "--parallel", os.cpu_count() or 1], log)


def ros_options(stage: Path) -> list[str]:
    """Return the CMake options of a ROS package that is to be installed into ``stage``."""
    return [
        f"-DCMAKE_INSTALL_PREFIX={stage}",
        f"-DPython3_EXECUTABLE={sys.executable}",
        "-DPython3_FIND_VIRTUALENV=ONLY" if sys.prefix != sys.base_prefix else "-DPython3_FIND_STRATEGY=LOCATION",
        "-DBUILD_TESTING=OFF",
        "-DGS_SEMANTIC_RCLPY_ONLY=ON",
        f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'cmake' / 'wheel_prefix.cmake'}",
    ]


def cmake_install(build: Path, stage: Path) -> list[Path]:
    """Install ``build`` into the emptied folder ``stage``; return the installed files, relative to it.

    What belongs to no user is left out: byte code, and package metadata that pip would take for a distribution.
    """
    shutil.rmtree(stage, ignore_errors=True)
    with open(build / "install.log", "w", encoding="utf-8") as log:
        _run(["cmake", "--install", build], log)
    for folder in [*stage.rglob("__pycache__"), *stage.rglob("*.egg-info")]:
        shutil.rmtree(folder)
    return sorted(path.relative_to(stage) for path in stage.rglob("*") if path.is_file())


def site_packages(prefix: Path) -> Path:
    """Return the folder of Python packages below ``prefix`` in the layout of a virtual environment."""
    return prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _environment() -> dict[str, str]:
    """Return the environment of CMake: its tools first on PATH, the ROS prefixes named."""
    prefixes = os.pathsep.join(map(str, ros_prefixes()))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "AMENT_PREFIX_PATH": prefixes, "CMAKE_PREFIX_PATH": prefixes}


def _run(command: list[object], log) -> None:
    environment = _environment()
    executable = shutil.which(str(command[0]), path=environment["PATH"])
    if executable is None:
        raise BuildError(f"{command[0]} not found; pip install cmake ninja")
    arguments = [executable, *map(str, command[1:])]
    print("$", *arguments, file=log, flush=True)
    result = subprocess.run(arguments, check=False, stdout=log, stderr=subprocess.STDOUT, env=environment)
    if result.returncode != 0:
        lines = Path(log.name).read_text(encoding="utf-8", errors="replace").splitlines()
        raise BuildError("\n".join([*lines[-40:], f"The build failed; the whole log is {log.name}"]))

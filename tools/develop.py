"""Sets this environment up for working in the source tree; `make` runs it.

Installs what is missing (torch, the ROS 2 wheels, build and test tools), generates the interfaces and builds the native
library when their sources changed, and makes the tree's Python modules importable. Standard library only.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from wheel_route import (
    ROOT,
    BuildError,
    check_toolchain,
    cmake_build,
    cmake_install,
    ros_options,
    ros_prefixes,
    site_packages,
)

PREFIX = Path(sys.prefix)
PACKAGES = site_packages(PREFIX)
STAMPS = PREFIX / "share" / "gs_semantic-develop"
BUILD = ROOT / "build"
REQUIREMENTS = ROOT / "requirements"
OLDEST_TORCH = (2, 4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-version", required=True, help="version to install when no suitable torch is present")
    parser.add_argument("--torch-index", default="", help="package index to take torch from (default: pip's own)")
    arguments = parser.parse_args()
    if sys.prefix == sys.base_prefix:
        print("error: tools/develop.py changes the environment that runs it; run `make build`", file=sys.stderr)
        return 1
    STAMPS.mkdir(parents=True, exist_ok=True)
    try:
        with open(STAMPS / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once take turns
            install_requirements(arguments.torch_version, arguments.torch_index)
            check_toolchain()
            link_source_tree()
            interfaces = ["CMakeLists.txt", "package.xml", "cmake/*.cmake", "msg/*.msg", "srv/*.srv", "action/*.action"]
            build_interfaces("gs_semantic", ROOT, interfaces, "-DGS_SEMANTIC_INTERFACES_ONLY=ON")
            if (STAMPS / "tf2_msgs.json").exists() or importlib.util.find_spec("tf2_msgs") is None:
                build_interfaces("tf2_msgs", ROOT / "cmake" / "tf2_msgs", ["*", "msg/*", "../rclpy_only.cmake"])
            build_native()
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def install_requirements(torch_version: str, torch_index: str) -> None:
    """pip-install what the files in requirements/ ask for; nothing when they did not change since the last time."""
    files = [REQUIREMENTS / f"{name}.txt" for name in ("ros", "core", "build", "dev")]
    digest, stamp = _digest(REQUIREMENTS, files), STAMPS / "requirements.json"
    if _read(stamp).get("digest") == digest and _torch_is_suitable():
        return
    if not _torch_is_suitable():
        if shutil.which("nvidia-smi") is None and not torch_index:
            print("no NVIDIA GPU found; TORCH_INDEX=<PyTorch's CPU package index> may save a large download")
        index = ["--index-url", torch_index] if torch_index else []
        _pip("torch", f"torch=={torch_version}", *index)
    _pip("requirements", *(argument for file in files for argument in ("-r", str(file))))
    _write(stamp, {"digest": digest})


def build_interfaces(name: str, source: Path, patterns: Iterable[str], *options: str) -> None:
    """Generate the interfaces of ROS package ``name`` and install them, unless its sources are as they were last time."""
    files = sorted({path for pattern in patterns for path in source.glob(pattern) if path.is_file()})
    digest, stamp = _digest(source, [*files, REQUIREMENTS / "ros.txt"]), STAMPS / f"{name}.json"
    before = _read(stamp)
    if before.get("digest") == digest and all((PREFIX / path).exists() for path in before["files"]):
        return
    if not ros_prefixes():
        raise BuildError("this environment has no ROS 2 wheels; pip install -r requirements/ros.txt")
    start = time.monotonic()
    print(f"generating the interfaces of {name} ...", flush=True)
    build, stage = BUILD / "interfaces" / name, BUILD / "stage" / name
    shutil.rmtree(build, ignore_errors=True)  # CMake keeps the code of interfaces that were removed
    cmake_build(source, build, *ros_options(stage), *options)
    installed = cmake_install(build, stage)
    if name == "gs_semantic":
        # Without it the folder is one more portion of the package whose __init__.py lies in the source tree.
        installed.remove((PACKAGES / name / "__init__.py").relative_to(PREFIX))
    for path in installed:
        _replace(stage / path, PREFIX / path)
    for path in set(before.get("files", [])) - set(map(str, installed)):
        (PREFIX / path).unlink(missing_ok=True)
    _write(stamp, {"digest": digest, "files": [str(path) for path in installed]})
    print(f"interfaces of {name} installed in {time.monotonic() - start:.0f} s")


def build_native() -> None:
    """Build native/ into build/native, unless its sources are as they were; the environment links to the library."""
    source, build = ROOT / "native", BUILD / "native"
    files = sorted(path for path in source.rglob("*") if path.is_file())
    digest, stamp = _digest(source, files), STAMPS / "native.json"
    library = build / "libgs_semantic_native.so"
    if _read(stamp).get("digest") != digest or not library.exists():
        start = time.monotonic()
        print("building the native library ...", flush=True)
        cmake_build(source, build)
        if not library.exists():
            raise BuildError(f"native/CMakeLists.txt made no {library.relative_to(ROOT)}")
        _write(stamp, {"digest": digest})
        print(f"native library built in {time.monotonic() - start:.0f} s")
    _link(library, PACKAGES / "gs_semantic" / "lib" / library.name)


def link_source_tree() -> None:
    """Make the tree's modules, scripts, launch files and sample those of this environment."""
    if (PACKAGES / "gs_semantic" / "__init__.py").exists():
        raise BuildError(
            f"an installed gs_semantic would hide this source tree: {sys.executable} -m pip uninstall gs_semantic"
        )
    (PACKAGES / "gs_semantic_source.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    command = (ROOT / "scripts" / "gs-semantic").read_text(encoding="utf-8").split("\n", 1)[1]
    script = PREFIX / "bin" / "gs-semantic"
    script.write_text(f"#!{sys.executable}\n{command}", encoding="utf-8")
    script.chmod(0o755)
    for name in ("launch", "config", "sample", "weights"):
        _link(ROOT / name, PREFIX / "share" / "gs_semantic" / name)
    for path in (ROOT / "scripts").iterdir():
        _link(path, PREFIX / "lib" / "gs_semantic" / path.name)


def _torch_is_suitable() -> bool:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_TORCH


def _pip(what: str, *arguments: str) -> None:
    print(f"installing {what} ...", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        raise BuildError(f"pip could not install {what}: {' '.join(command)}")


def _digest(base: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for file in files:
        digest.update(os.path.relpath(file, base).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _read(stamp: Path) -> dict:
    return json.loads(stamp.read_text(encoding="utf-8")) if stamp.exists() else {}


def _write(stamp: Path, content: dict) -> None:
    stamp.write_text(json.dumps(content), encoding="utf-8")


def _replace(source: Path, target: Path) -> None:
    """Copy a file in one step, so that running processes keep the library that they loaded."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    shutil.copy2(source, temporary)
    temporary.replace(target)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() and Path(os.readlink(target)) == source:
        return
    target.unlink(missing_ok=True)
    target.symlink_to(source)


if __name__ == "__main__":
    sys.exit(main())

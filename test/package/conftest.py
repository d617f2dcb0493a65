"""An environment without gs_semantic and a copy of the source tree, for tests that install the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ("gs_semantic*", "libgs_semantic*", "gs-semantic")
NOT_SOURCE = (".venv", ".git", "build", "install", "log", "demo_output", "__pycache__", ".*_cache", ".hypothesis")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def source_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree, so that builds in it leave the tree alone."""
    target = tmp_path_factory.mktemp("source") / "gs_semantic"
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    return target


@pytest.fixture(scope="session")
def bare_environment() -> Iterator[Path]:
    """This test run's virtual environment as it was before gs_semantic came into it, from hard links."""
    if sys.prefix == sys.base_prefix:
        pytest.skip("the tests do not run in a virtual environment")
    target = ROOT / "build" / "test-environment"  # beside the environment: hard links do not cross file systems
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(
        sys.prefix, target, symlinks=True, copy_function=_link, ignore=shutil.ignore_patterns(*INSTALLED)
    )
    yield target
    shutil.rmtree(target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a command without this process's ROS and Python settings; ``stdout`` has it all."""
    hidden = ("PYTHONPATH", "LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "AMENT_PREFIX_PATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}

    def run(*command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, command)),
            cwd=cwd,
            env=environment | variables,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return run

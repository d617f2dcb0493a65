"""Shared test set-up: every test process and every test that asks for it gets a ROS domain of its own."""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no reason for a test to fail.
settings.register_profile("gs_semantic", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gs_semantic")

# Above 101 the ports of a domain overlap with those that Linux hands out to clients; 0 is everybody's default.
DOMAIN_IDS = range(1, 102)
# Every test begins its search elsewhere: a context is seen by others until Python's collector takes it, which may be after
# the test, and a node of the test before must not be taken for one of this test.
_TURN = itertools.count(os.getpid())


@contextmanager
def _own_domain() -> Iterator[int]:
    """Hold a domain id that no other test process on this machine holds; freed even when the process is killed."""
    folder = Path(tempfile.gettempdir(), f"gs_semantic-domains-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    start = next(_TURN) % len(DOMAIN_IDS)
    for domain_id in (*DOMAIN_IDS[start:], *DOMAIN_IDS[:start]):
        with open(folder / str(domain_id), "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain_id
            return
    raise RuntimeError(f"all ROS domain ids of {folder} are taken")


@pytest.fixture(scope="session", autouse=True)
def _isolated_ros() -> Iterator[None]:
    """Nothing in this test process, and no process that it starts, meets other ROS nodes."""
    with _own_domain() as domain_id, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain_id))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


@pytest.fixture
def ros_domain_id(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A domain id of this test alone, set as ROS_DOMAIN_ID for contexts and processes that the test starts."""
    with _own_domain() as domain_id:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain_id))
        yield domain_id

"""Shared test set-up: every test process and every test that asks for it gets a ROS domain of its own; order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from gs_semantic.benchmarks.domains import own_domain

# A busy machine is no reason for a test to fail.
settings.register_profile("gs_semantic", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gs_semantic")

LONGEST = ("test_processes.py", "test_pip_install.py", "test_end_to_end.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: of several workers (`make test`), none is to be left alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _isolated_ros() -> Iterator[None]:
    """Nothing in this test process, and no process that it starts, meets other ROS nodes."""
    with own_domain() as domain_id, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain_id))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


@pytest.fixture
def ros_domain_id(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A domain id of this test alone, set as ROS_DOMAIN_ID for contexts and processes that the test starts."""
    with own_domain() as domain_id:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain_id))
        yield domain_id

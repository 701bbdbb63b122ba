"""Fixtures of the fast tests, and how Hypothesis runs: without a clock, and saying how to repeat a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import Connection, WebInstance, ready_instance

hypothesis.settings.register_profile(
    "busyapi",
    deadline=None,  # other processes share the machine
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("busyapi")


SHARE_A_CLUSTER = Path(__file__).parent / "system"
BRING_THEIR_OWN = {"test_compose.py"}


def pytest_xdist_auto_num_workers() -> int:
    """What ``-n auto`` is: these tests wait for processes and times half of the time."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two lanes that may run side by side (``-n 2 --dist loadgroup``): who shares the cluster, and who starts what it needs."""
    for item in items:
        shares = SHARE_A_CLUSTER in item.path.parents and item.path.name not in BRING_THEIR_OWN
        item.add_marker(pytest.mark.xdist_group("cluster" if shares else "own"))


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebInstance]:
    """One web instance with the default settings, shared by all tests that leave it as it was."""
    with ready_instance(tmp_path_factory.mktemp("instance")) as running:
        yield running


@pytest.fixture
def connection(instance: WebInstance) -> Iterator[Connection]:
    """A keep-alive connection to the shared instance."""
    with instance.connect() as open_connection:
        yield open_connection

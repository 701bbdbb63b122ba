"""Fixtures of the fast tests, and how Hypothesis runs: without a clock, and saying how to repeat a failure."""

from __future__ import annotations

from collections.abc import Iterator

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

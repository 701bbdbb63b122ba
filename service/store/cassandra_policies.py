"""What the driver asks us about: whether to retry (never by itself), and who should hear of nodes that come and go."""

from __future__ import annotations

import logging
from typing import Any

from cassandra.policies import HostStateListener, RetryPolicy

log = logging.getLogger(__name__)


class NeverRetry(RetryPolicy):  # type: ignore[misc]  # the driver has no types
    """Hands every error to :meth:`CassandraSession.execute`, the one place that decides about another attempt."""

    def _rethrow(self, *_: object, **__: object) -> tuple[int, None]:
        return self.RETHROW, None

    on_read_timeout = on_write_timeout = on_unavailable = on_request_error = _rethrow


class LogNodes(HostStateListener):  # type: ignore[misc]  # the driver has no types
    """One line when a node comes or goes."""

    def on_up(self, host: Any) -> None:
        """It answers again."""
        log.info("node is up", extra={"fields": {"node": str(host.endpoint)}})

    def on_down(self, host: Any) -> None:
        """No connection to it is left."""
        log.warning("node is down", extra={"fields": {"node": str(host.endpoint)}})

    def on_add(self, host: Any) -> None:
        """It is new to the driver."""
        log.info("node is known", extra={"fields": {"node": str(host.endpoint), "dc": host.datacenter}})

    def on_remove(self, host: Any) -> None:
        """It was decommissioned."""
        log.info("node has left", extra={"fields": {"node": str(host.endpoint)}})

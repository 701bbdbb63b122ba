"""What a transfer may end of."""

from __future__ import annotations


class Broken(Exception):
    """The connection or the service failed in a way that another attempt may mend."""

    def __init__(self, reason: str, retry_after_s: float = 0.0, *, soon: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.soon = soon
        """Another web instance will take it at once: there is nothing to wait for."""


class GaveUp(Exception):
    """Nothing that is tried again would help, or it has been tried for long enough."""


class WrongUse(Exception):
    """An argument or a file cannot be used; nothing was sent."""

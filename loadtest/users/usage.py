"""A user that posts usages."""

from __future__ import annotations

from collections.abc import Callable

from locust.env import Environment

from loadtest.journal import Kind, State, Usages
from loadtest.users.burst import BurstUser
from loadtest.users.checks import not_acknowledged, usage_id
from loadtest.users.connection import NoAnswer
from loadtest.users.target import Target

PATH = "/api/usages"
_ACKNOWLEDGED = int(State.ACKNOWLEDGED)  # a member of an enum is dear to look up, and this is done for each request


class UsageUser(BurstUser):
    """Posts one usage in each step: the answer must be a 201 with a positive integer id, and a Location that fits it."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._endpoint = self.process.endpoint("POST", PATH)
        self._journal = journal = self.process.journal(Kind.USAGE)
        self._exchange = self.connection.exchange
        self._intent = journal.intent
        self._slots = journal.slots
        self._request = self.process.shared(
            ("usages", self.target, journal), lambda: _requests(journal.token, self.target)
        )

    def step(self, started_s: float) -> None:
        """One usage."""
        seq = self._intent()
        try:
            # Not by way of the base class: a call is a part of what this request costs that can be measured.
            answer = self._exchange("POST", self._request(seq), self._endpoint.layouts)
        except NoAnswer as error:
            self.unanswered(self._endpoint, error, started_s)
            self._journal.outcome(seq, State.UNKNOWN if error.sent else State.REFUSED)
            return
        found = usage_id(answer.body) if answer.status == 201 else None
        if found is None:
            self._journal.outcome(seq, not_acknowledged(answer.status))
            self.failed(self._endpoint, answer, started_s, '201 {"id": an integer}')
            return
        self._slots[seq] = _ACKNOWLEDGED | found << 8
        if b"\r\nlocation: /api/usages/%d\r\n" % found in answer.head or answer.header("location") == f"{PATH}/{found}":
            self._endpoint.success(started_s, len(answer.body))
        else:
            self.failed(self._endpoint, answer, started_s, "a Location that ends in its id")


def _requests(token: int, target: Target) -> Callable[[int], bytes]:
    return Usages(token).requests(lambda length: target.head("POST", PATH, length))

"""A user of the old message service: stores a message, reads it, deletes it."""

from __future__ import annotations

import hashlib
import json
import random
import time

from locust.env import Environment

from loadtest.journal import Kind, State, message
from loadtest.users.burst import BurstUser
from loadtest.users.checks import document_of, not_acknowledged
from loadtest.users.connection import NoAnswer
from loadtest.users.recorder import Endpoint

PATH = "/messages"


class MessageUser(BurstUser):
    """POST, GET and DELETE of 20 characters that were never sent before, in each step.

    The digest must be their sha256 and the text the same; in a share of the steps (``--verify-gone``) one more GET must
    be told 404. Another share (``--keep-messages``) is not deleted, and has to be there in the end. In an open loop an
    arrival is such a step; response times of all but its POST count from their sending.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._post = self.process.endpoint("POST", PATH)
        self._get = self.process.endpoint("GET", f"{PATH}/{{digest}}")
        self._delete = self.process.endpoint("DELETE", f"{PATH}/{{digest}}")
        self._gone = self.process.endpoint("GET", f"{PATH}/{{digest}} (deleted)")
        self._journal = self.process.journal(Kind.MESSAGE)
        self._share = self.process.settings.verify_gone
        self._kept = self.process.settings.keep_messages

    def step(self, started_s: float) -> None:
        """One message, from its POST to its DELETE, or to the GET of one that is kept."""
        seq = self._journal.intent()
        text = message(self._journal.token, seq)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if not self._store(seq, text, digest, started_s):
            return
        self._ask(self._get, digest, 200, {"message": text}, "200 and the text that was sent")
        if random.random() < self._kept:
            return
        if self._remove(seq, digest) and random.random() < self._share:
            self._ask(self._gone, digest, 404, None, "404")

    def _store(self, seq: int, text: str, digest: str, started_s: float) -> bool:
        body = json.dumps({"message": text}).encode()
        try:
            answer = self.exchange(self._post, self.target.head("POST", PATH, len(body)) + body, started_s)
        except NoAnswer as error:
            self._journal.outcome(seq, State.UNKNOWN if error.sent else State.REFUSED)
            return False
        well = answer.status == 201 and document_of(answer.body) == {"digest": digest}
        self._journal.outcome(seq, State.ACKNOWLEDGED if well else not_acknowledged(answer.status))
        if well:
            self._post.success(started_s, len(answer.body))
        else:
            self.failed(self._post, answer, started_s, '201 {"digest": its sha256}')
        return well

    def _remove(self, seq: int, digest: str) -> bool:
        self._journal.outcome(seq, State.DELETE_SENT)
        well, known = self._ask(self._delete, digest, 200, {"message_deleted": digest}, "200 and its digest")
        if well:
            self._journal.outcome(seq, State.DELETED)
        else:
            self._journal.outcome(seq, State.ACKNOWLEDGED if known is State.REFUSED else State.DELETE_UNKNOWN)
        return well

    def _ask(
        self, endpoint: Endpoint, digest: str, status: int, document: dict[str, str] | None, expected: str
    ) -> tuple[bool, State]:
        """Whether a request without a body was answered so, and what is known of a write that was not."""
        started_s = time.monotonic()
        request = self.target.head(endpoint.method, f"{PATH}/{digest}")
        try:
            answer = self.exchange(endpoint, request, started_s)
        except NoAnswer as error:
            return False, State.UNKNOWN if error.sent else State.REFUSED
        well = answer.status == status and (document is None or document_of(answer.body) == document)
        if well:
            endpoint.success(started_s, len(answer.body))
        else:
            self.failed(endpoint, answer, started_s, expected)
        return well, not_acknowledged(answer.status)

"""The load generator's batches: what is sent, and that every result is read and held against the counts."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.generator import Load, Mode, Outcome, run
from tests.support import USAGE, WebInstance
from tests.test_generator import Ids, Pieces, Request, Server, answer, program, read_ids

pytestmark = pytest.mark.tools

SECONDS = 0.15
ITEMS = 7
LINES = "Content-Type: application/x-ndjson"

Result = dict[str, Any]
Change = Callable[[list[Result], dict[str, Any]], None]
"""Makes an answer's results and its counts wrong."""


class Batches:
    """A service for batches that is right, or is changed in one way."""

    def __init__(self, change: Change | None = None, piece_bytes: int | None = None) -> None:
        self.ids = Ids()
        self.keys: list[str] = []
        self._change = change
        self._piece_bytes = piece_bytes

    def __call__(self, request: Request) -> Pieces:
        """Its answer."""
        stream = request[2]["content-type"] == "application/x-ndjson"
        items = [json.loads(line) for line in request[3].splitlines()] if stream else json.loads(request[3])
        results = [self._result(item) for item in items]
        if stream:
            results = [{"line": number} | result for number, result in enumerate(results, 1)]
        counts = dict.fromkeys(("created", "duplicate", "invalid", "retry", "unknown"), 0) | {"created": len(items)}
        if stream:
            counts["complete"] = True
        if self._change is not None:
            self._change(results, counts)
        whole = streamed(results, counts) if stream else answer(200, json.dumps(counts | {"results": results}).encode())
        step = self._piece_bytes or len(whole)
        for start in range(0, len(whole), step):
            yield whole[start : start + step]

    def _result(self, item: dict[str, Any]) -> Result:
        key = item.get("idempotency_key")
        if key is not None:
            assert item == {"idempotency_key": key, "usage": json.loads(USAGE)}
            self.keys.append(key)
        else:
            assert item == json.loads(USAGE)
        return {"status": "created", "id": self.ids.next() if key is None else key}


def streamed(results: list[Result], counts: dict[str, Any]) -> bytes:
    """Lines in chunks, as compact as the service writes them; nothing more is sent when there are no counts."""
    lines = [*results, {"summary": counts}] if counts else results
    texts = [json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(text), text) for text in texts)
    return f"HTTP/1.1 200 OK\r\n{LINES}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"


def loaded(mode: Mode, answers: Callable[[Request], Iterator[bytes | None]], ids: Path | None = None) -> Outcome:
    """A short load of small batches."""
    with Server(answers) as server:
        return run(Load(server.port, 2, SECONDS, mode=mode, items=ITEMS, ids=ids))


@pytest.mark.parametrize("piece_bytes", [None, 100, 7])
@pytest.mark.parametrize("mode", ["batch", "batch_lines"])
def test_every_item_of_a_batch_is_counted_and_its_id_kept(mode: Mode, piece_bytes: int | None, tmp_path: Path):
    """However the answer is split, so many usages are created as it has results, under these ids."""
    service = Batches(piece_bytes=piece_bytes)
    outcome = loaded(mode, service, tmp_path / "ids")
    assert sorted(read_ids(tmp_path / "ids")) == service.ids.given
    assert outcome.total_items == len(service.ids.given) == ITEMS * outcome.sent > 0
    assert outcome.items == ITEMS * outcome.acknowledged
    assert (outcome.batch, outcome.mismatches, outcome.items_unknown, outcome.duplicates) == (ITEMS, 0, 0, 0)


def test_the_items_of_a_keyed_batch_have_a_fresh_uuid7_each():
    """The keys are distinct, and each result is that of its own."""
    service = Batches()
    outcome = loaded("batch_keyed", service)
    assert len(set(service.keys)) == len(service.keys) == outcome.total_items == ITEMS * outcome.sent
    assert {uuid.UUID(key).version for key in service.keys} == {7}
    assert outcome.mismatches == 0


def test_a_batch_goes_to_its_own_path_and_holds_so_many_usages():
    """500 of the usual usage, unless told otherwise."""
    with Server(Batches()) as server:
        run(Load(server.port, 1, 0.05, mode="batch"))
        assert server.requests[0][:2] == ("POST", "/api/usages/batch")
        assert len(json.loads(server.requests[0][3])) == 500
        server.requests.clear()
        run(Load(server.port, 1, 0.05, mode="batch_lines", items=1))
        assert server.requests[0][3] == USAGE + b"\n"


def _status(status: str) -> Change:
    def change(results: list[Result], counts: dict[str, Any]) -> None:
        counts["created"] -= 1
        counts[status] += 1
        results[3]["status"] = status
        if status not in ("created", "duplicate"):
            results[3] |= {"code": "c", "detail": 'one " alone, {"status": "created"}'}

    return change


@pytest.mark.parametrize("mode", ["batch", "batch_lines"])
@pytest.mark.parametrize(
    ("status", "unknown", "duplicates", "wrong"),
    [("retry", 0, 0, 0), ("unknown", 1, 0, 0), ("duplicate", 0, 1, 0), ("invalid", 0, 0, 1)],
)
def test_what_was_not_created_is_told_by_its_status(
    mode: Mode, status: str, unknown: int, duplicates: int, wrong: int, tmp_path: Path
):
    """Neither of them is an acknowledgement; text within a string is no result."""
    outcome = loaded(mode, Batches(_status(status)), tmp_path / "ids")
    assert outcome.total_items == len(read_ids(tmp_path / "ids")) == (ITEMS - 1) * outcome.sent
    assert outcome.items_unknown == unknown * outcome.sent
    assert outcome.duplicates == duplicates * outcome.sent
    assert outcome.mismatches == wrong * outcome.sent


def _swapped(results: list[Result], _: dict[str, Any]) -> None:
    results[0], results[1] = results[1], results[0]


def _one_less(results: list[Result], _: dict[str, Any]) -> None:
    del results[2]


def _both_less(results: list[Result], counts: dict[str, Any]) -> None:
    del results[-1]
    counts["created"] -= 1


def _without_id(results: list[Result], _: dict[str, Any]) -> None:
    del results[2]["id"]


def _other_word(results: list[Result], _: dict[str, Any]) -> None:
    results[2]["status"] = "stored"


def _wrong_count(_: list[Result], counts: dict[str, Any]) -> None:
    counts["retry"] += 1


@pytest.mark.parametrize(
    ("mode", "change"),
    [
        *(("batch", change) for change in (_one_less, _both_less, _without_id, _other_word, _wrong_count)),
        *(("batch_lines", change) for change in (_swapped, _one_less, _both_less, _without_id, _other_word)),
        *(("batch_keyed", change) for change in (_swapped, _one_less, _without_id, _wrong_count)),
    ],
)
def test_an_answer_that_does_not_tell_of_every_item_in_order_is_a_mismatch(mode: Mode, change: Change):
    """Status 200 alone acknowledges nothing."""
    outcome = loaded(mode, Batches(change))
    assert outcome.mismatches == outcome.sent > 0


def test_a_stream_that_says_it_ended_early_has_stored_nothing_more():
    """What it has no result for is neither created nor unknown."""

    def change(results: list[Result], counts: dict[str, Any]) -> None:
        del results[4:]
        counts |= {"created": 4, "complete": False}

    outcome = loaded("batch_lines", Batches(change))
    assert outcome.total_items == 4 * outcome.sent
    assert (outcome.items_unknown, outcome.mismatches) == (0, 0)


def test_a_stream_without_its_last_line_leaves_the_rest_open():
    """What it said is acknowledged; the rest may be stored."""

    def change(results: list[Result], counts: dict[str, Any]) -> None:
        del results[4:]
        counts.clear()

    outcome = loaded("batch_lines", Batches(change))
    assert (outcome.total_items, outcome.items_unknown) == (4 * outcome.sent, 3 * outcome.sent)
    assert outcome.mismatches == outcome.sent


def test_a_batch_that_was_cut_off_is_acknowledged_as_far_as_it_was_told(tmp_path: Path):
    """The connection ended amid the results: these ids are kept, all others are unknown."""

    def pieces(request: Request) -> Pieces:
        whole = b"".join(piece for piece in Batches()(request) if piece is not None)
        yield whole[: whole.index(b'"line":5')]
        yield None

    outcome = loaded("batch_lines", pieces, tmp_path / "ids")
    assert outcome.unknown == outcome.sent > 0
    assert outcome.total_items == len(read_ids(tmp_path / "ids")) == 4 * outcome.sent
    assert outcome.items_unknown == 3 * outcome.sent


@pytest.mark.parametrize(("status", "unknown", "wrong"), [(503, 0, 0), (504, ITEMS, 0), (502, ITEMS, 0), (413, 0, 1)])
def test_a_batch_that_was_refused_whole_is_counted_by_its_status(status: int, unknown: int, wrong: int):
    """503 has stored nothing, 502 and 504 may have stored all, and 413 is a wrong answer to what is no larger than it may be."""
    outcome = loaded("batch", lambda _: iter([answer(status, b'{"status": %d, "code": "x"}' % status)]))
    assert outcome.total_items == 0
    assert outcome.items_unknown == unknown * outcome.sent
    assert outcome.mismatches == wrong * outcome.sent


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--items", "0"], "--items is a whole number from 1 to 10000, not 0"),
        (["--mode", "batch", "--body", "BODY"], ""),
        (["--mode", "batch_lines", "--body", "BODY"], "--body has more lines than one"),
    ],
)
def test_a_body_of_two_lines_is_no_line(arguments: list[str], says: str, tmp_path: Path):
    """As an item of an array it is one."""
    (tmp_path / "body").write_bytes(b"{\n}")
    arguments = [str(tmp_path / "body") if each == "BODY" else each for each in arguments]
    with Server(lambda _: iter([answer(503)])) as server:
        result = program("--port", str(server.port), "--connections", "1", "--seconds", "0.01", *arguments)
    assert (result.returncode, says in result.stderr) == (2 if says else 0, True)


@pytest.mark.parametrize("mode", ["batch", "batch_lines", "batch_keyed"])
def test_the_service_answers_batches_rightly(mode: Mode, instance: WebInstance, tmp_path: Path):
    """The generator and the service mean the same by a batch, its results and its counts."""
    ids = None if mode == "batch_keyed" else tmp_path / "ids"
    outcome = run(Load(instance.address[1], 2, SECONDS, mode=mode, items=50, ids=ids))
    assert (outcome.mismatches, outcome.unknown, outcome.items_unknown, outcome.duplicates) == (0, 0, 0, 0)
    assert outcome.total_items == 50 * outcome.sent > 0
    if ids is not None:
        assert len(set(read_ids(ids))) == outcome.total_items

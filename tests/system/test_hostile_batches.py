"""Batches that are made to hurt: each is refused in time, and no process holds much more for it than before."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import zstandard

from deploy.cluster import RunningCluster
from tests.system.batches import BATCH, LINES_TYPE, BatchStream, offer, post_batch, stream
from tests.system.wire import JSON_TYPE, HeaderList, Wire, assert_problem, call

MIB = 1 << 20
GROWTH_BYTES_MAX = 160 * MIB
"""Four batches of 16 MiB on one instance, with what their items are while they are read, and a zstd window each."""
BOMB_BYTES = 512 * MIB
WITHIN_S = 30
GZIP, ZSTD = ("Content-Encoding", "gzip"), ("Content-Encoding", "zstd")


@contextlib.contextmanager
def bounded(cluster: RunningCluster, growth_bytes_max: int = GROWTH_BYTES_MAX) -> Iterator[None]:
    """No web instance, nor HAProxy, may at any moment hold so much more than when the test began."""
    before = {}
    for process in cluster.processes():
        if process.role != "cassandra":
            for member in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
                before[member.pid] = (process.name, member.memory_info().rss)
                Path(f"/proc/{member.pid}/clear_refs").write_text("5")  # the peak is this moment's, proc(5)
    yield
    grown = {f"{name} {pid}": peak_bytes(pid) - rss for pid, (name, rss) in before.items()}
    assert max(grown.values()) < growth_bytes_max, {name: f"{size / MIB:.0f} MiB" for name, size in grown.items()}


def peak_bytes(pid: int) -> int:
    """The most that a process has held, by the kernel's own count. It has to be there still."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{pid} has no peak")


@cache
def gzip_of(text: bytes, size: int) -> bytes:
    """The same text over and over, so many bytes of it, compressed; not held whole here either."""
    return gzip.compress(text * (MIB // len(text)), 9) * (size // MIB)


@cache
def zstd_of(text: bytes, size: int) -> bytes:
    """As gzip_of, as one frame."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    piece = text * (MIB // len(text))
    parts = [compressor.compress(piece) for _ in range(size // MIB)]
    return b"".join([*parts, compressor.flush()])


def wide() -> bytes:
    """A frame that asks its reader for 128 MiB."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(b"[" + b" " * MIB) + compressor.flush()


Body = Callable[[], bytes]
REFUSED: list[tuple[str, Body, HeaderList, str, int, str]] = [
    # name, body, headers, query, status, code
    ("gzip bomb", lambda: gzip_of(b" ", BOMB_BYTES), [JSON_TYPE, GZIP], "", 413, "body_too_large"),
    ("zstd bomb", lambda: zstd_of(b" ", BOMB_BYTES), [JSON_TYPE, ZSTD], "", 413, "body_too_large"),
    ("bomb of items", lambda: gzip.compress(b"[" + b"{}," * (4 * MIB)), [JSON_TYPE, GZIP], "", 413, "batch_too_long"),
    ("gzip line", lambda: gzip_of(b"x", BOMB_BYTES), [LINES_TYPE, GZIP], "", 413, "body_too_large"),
    ("zstd line", lambda: zstd_of(b"x", BOMB_BYTES), [LINES_TYPE, ZSTD], "", 413, "body_too_large"),
    ("strict bomb", lambda: zstd_of(b"{}\n ", BOMB_BYTES), [LINES_TYPE, ZSTD], "?strict=true", 413, "body_too_large"),
    ("a million items", lambda: b"[" + b"{}," * 999_999 + b"{}]", [JSON_TYPE], "", 413, "batch_too_long"),
    ("a million numbers", lambda: b"[" + b"1," * 999_999 + b"1]", [JSON_TYPE], "", 413, "batch_too_long"),
    ("a million strict lines", lambda: b"{}\n" * 1_000_000, [LINES_TYPE], "?strict=true", 413, "batch_too_long"),
    ("a million brackets", lambda: b"[" * MIB, [JSON_TYPE], "", 400, "invalid_json"),
    ("cut off", lambda: gzip.compress(b"[{}, {}]")[:-9], [JSON_TYPE, GZIP], "", 400, "invalid_encoding"),
    ("plain as gzip", lambda: b"[{}]", [JSON_TYPE, GZIP], "", 400, "invalid_encoding"),
    ("gzip as zstd", lambda: gzip.compress(b"[{}]"), [JSON_TYPE, ZSTD], "", 400, "invalid_encoding"),
    ("gzip as lines", lambda: b"{}\n", [LINES_TYPE, GZIP], "", 400, "invalid_encoding"),
    ("a window of 128 MiB", wide, [JSON_TYPE, ZSTD], "", 400, "invalid_encoding"),
    ("twice gzip", lambda: gzip.compress(gzip.compress(b"[{}]")), [JSON_TYPE, GZIP, GZIP], "", 415, ""),
    ("brotli", lambda: b"[{}]", [JSON_TYPE, ("Content-Encoding", "br")], "", 415, "unsupported_media_type"),
    ("not UTF-8", lambda: b"[\xff]", [JSON_TYPE], "", 400, "invalid_json"),
    ("UTF-16", lambda: '[{"x": "y"}]'.encode("utf-16"), [JSON_TYPE], "", 400, "invalid_json"),
    ("Latin-1", lambda: b"[{}]", [("Content-Type", "application/json; charset=latin-1")], "", 415, ""),
    ("CSV", lambda: b"a,b\n1,2\n", [("Content-Type", "text/csv")], "", 415, "unsupported_media_type"),
    ("no parameter", lambda: b"[{}]", [JSON_TYPE], "?strickt=true", 400, ""),
]


def test_what_is_made_to_hurt_is_refused_and_memory_stays_bounded(cluster: RunningCluster) -> None:
    """Bombs, millions of tiny items, lengths and encodings that are not so: a 4xx each, soon, whoever else does the same.

    Four clients at once go through all of them; health is answered all the while.
    """
    bodies = {name: body() for name, body, *_ in REFUSED}
    failures: list[str] = []

    def client(turn: int) -> None:
        for name, _, headers, query, status, code in REFUSED[turn:] + REFUSED[:turn]:
            began_s = time.monotonic()
            try:
                answer = offer(cluster.base_url, BATCH + query, headers, in_parts(bodies[name]))
                assert_problem(answer, status, code or None)
            except Exception as error:  # noqa: BLE001 - told below, by name
                failures.append(f"{name}: {error!r}")
            if time.monotonic() - began_s > WITHIN_S:
                failures.append(f"{name}: {time.monotonic() - began_s:.0f} s")

    with bounded(cluster):
        clients = [threading.Thread(target=client, args=[turn], daemon=True) for turn in range(0, len(REFUSED), 6)]
        for each in clients:
            each.start()
        while any(each.is_alive() for each in clients):
            assert call(cluster.base_url, "GET", "/readyz").status == 200
            time.sleep(0.1)
    assert failures == []
    for process in cluster.processes("web"):
        answer = post_batch(f"http://{process.address}:{process.port}", [b"{}"] * 100)
        assert answer.json()["created"] == 100


def in_parts(body: bytes) -> Iterable[bytes]:
    """A body in chunks of 64 KiB."""
    return (body[start : start + 65536] for start in range(0, len(body), 65536))


def test_a_line_without_an_end_is_refused_as_soon_as_it_is_too_long(cluster: RunningCluster) -> None:
    """At once as a 413 when it is the first; else what came before is stored, and the last line says what was wrong."""
    with bounded(cluster):
        answer = offer(cluster.base_url, BATCH, [LINES_TYPE], itertools.repeat(b"x" * 65536, 16_384))
        assert_problem(answer, 413, "body_too_large")
        with BatchStream(cluster.base_url) as batch:
            batch.send([b"{}"] * 300)
            assert told(batch.results(300)) == {"created": 300}
            with contextlib.suppress(OSError):  # it is not read to its end
                batch.send([b"x" * MIB])
            last = batch.last()
    assert last["error"]["code"] == "body_too_large"
    assert (last["summary"]["created"], last["summary"]["complete"]) == (300, False)


def told(results: list[dict[str, Any]]) -> Counter[str]:
    """How many came to each status."""
    return Counter(result["status"] for result in results)


def test_very_many_tiny_lines_are_each_refused_and_none_is_held(cluster: RunningCluster) -> None:
    """A stream has no bound on its items, so none of them may cost the service memory."""
    count = 100_000
    with bounded(cluster, 64 * MIB):
        results, last = stream(cluster.base_url, itertools.repeat(b"7", count))
    assert told(results) == {"invalid": count}
    assert (last["summary"]["invalid"], last["summary"]["complete"]) == (count, True)


@pytest.mark.parametrize("length", ["16777217", "999999999", "1234567890123", "18446744073709551616", "-1", "1e3"])
def test_a_length_that_is_too_large_or_none_is_refused_before_the_body(base_url: str, length: str) -> None:
    """What is declared is believed, and never read."""
    with Wire(base_url) as wire:
        wire.request("POST", BATCH, [JSON_TYPE, ("Content-Length", length)])
        assert wire.answer().status in (400, 413)

"""What happened in each second of a run: how many, how fast, what failed, what was offered; deltas of it add up.

A timeline is kept by every process that makes load; the deltas that it hands out are plain JSON and merge, in any order,
into the timeline of the whole run.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

JSON = dict[str, Any]

OCTAVE_BITS = 7
"""Each doubling of a latency is divided into 2^7 buckets, so that none is wider than 1/128 (0.8 %) of its value."""
LATENCY_US_MAX = 3_600_000_000
"""An hour; whatever took longer is counted there."""
SECONDS_MAX = 14_400
"""Seconds kept one by one (four hours); what is older is kept as one sum under ``earlier``."""
REASONS_MAX = 100
"""Different reasons of failures kept for one request name in one second; the rest goes under ``OTHER_REASONS``."""
OTHER_REASONS = "other reasons"


def bucket_of_us(latency_us: int) -> int:
    """The number of the bucket of a latency in µs; below 256 µs it is the latency itself, and numbers rise with it."""
    bounded = 1 if latency_us < 1 else min(latency_us, LATENCY_US_MAX)
    shift = max(bounded.bit_length() - OCTAVE_BITS - 1, 0)
    return (shift << OCTAVE_BITS) + (bounded >> shift)


def us_of_bucket(bucket: int) -> int:
    """The greatest latency in µs that belongs to a bucket, so that no percentile is told too small."""
    shift = max((bucket >> OCTAVE_BITS) - 1, 0)
    return ((bucket - (shift << OCTAVE_BITS) + 1) << shift) - 1


def percentile(buckets: Mapping[str, int] | Mapping[int, int], p: float) -> int | None:
    """The latency in µs that ``p`` per cent (0–100) of the counted ones did not exceed; None when none was counted."""
    counts = sorted((int(bucket), count) for bucket, count in buckets.items())
    total = sum(count for _, count in counts)
    if not total:
        return None
    # Percentages such as 99.9 are no binary fractions: what is one part in a thousand million above a whole is that whole.
    wanted = max(total * p / 100 * (1 - 1e-9), 1)
    seen = 0
    for bucket, count in counts:
        seen += count
        if seen >= wanted:
            return us_of_bucket(bucket)
    return us_of_bucket(counts[-1][0])


class _Requests:
    """One request name in one second."""

    __slots__ = ("bytes", "count", "errors", "failed_latency", "latency")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.latency: defaultdict[int, int] = defaultdict(int)
        self.failed_latency: defaultdict[int, int] = defaultdict(int)
        self.errors: defaultdict[str, int] = defaultdict(int)

    def failed(self, reason: str, times: int) -> None:
        known = reason in self.errors or len(self.errors) < REASONS_MAX
        self.errors[reason if known else OTHER_REASONS] += times

    def add(self, other: Mapping[str, Any]) -> None:
        self.count += other["count"]
        self.bytes += other["bytes"]
        for bucket, count in other["latency"].items():
            self.latency[int(bucket)] += count
        for bucket, count in other.get("failed_latency", {}).items():
            self.failed_latency[int(bucket)] += count
        for reason, count in other["errors"].items():
            self.failed(reason, count)

    def as_dict(self) -> JSON:
        return {
            "count": self.count,
            "bytes": self.bytes,
            "latency": {str(bucket): count for bucket, count in self.latency.items()},
            "failed_latency": {str(bucket): count for bucket, count in self.failed_latency.items()},
            "errors": dict(self.errors),
        }


class _Second:
    """Everything of one second."""

    __slots__ = ("offered", "requests", "text", "unsent", "users")

    def __init__(self) -> None:
        self.offered = 0
        self.unsent = 0
        self.users = 0
        self.requests: defaultdict[str, _Requests] = defaultdict(_Requests)
        self.text: str | None = None

    def add(self, other: Mapping[str, Any]) -> None:
        self.offered += other["offered"]
        self.unsent += other["unsent"]
        self.users += other["users"]
        for name, requests in other["requests"].items():
            self.requests[name].add(requests)

    def as_dict(self) -> JSON:
        requests = {name: requests.as_dict() for name, requests in self.requests.items()}
        return {"offered": self.offered, "unsent": self.unsent, "users": self.users, "requests": requests}

    def as_json(self) -> str:
        """A second that nobody touched since is not encoded again."""
        if self.text is None:
            self.text = json.dumps(self.as_dict(), separators=(",", ":"))
        return self.text


class Timeline:
    """Counts by wall-clock second and request name (``METHOD name``, as "POST /api/usages").

    Instants are Unix seconds, latencies are seconds. A request's second is that of its answer, an offered arrival's that of
    its intended start.

    A delta, and the whole: ``{"seconds": {"<unix second>": {"offered", "unsent", "users", "requests": {"<METHOD name>":
    {"count", "bytes", "latency": {"<bucket>": n}, "failed_latency": {"<bucket>": n}, "errors": {"<reason>": n}}}}},
    "generators": {"<process>": {"<unix second>": CPU seconds}}}``, and, once a run is longer than ``SECONDS_MAX``,
    ``"earlier"``: one second's shape with the sums of all before. ``count`` counts answers and failures alike; ``latency``
    holds those that succeeded (``count`` less the errors), ``failed_latency`` those that failed after a known time.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, _Second] = {}
        self._earlier: _Second | None = None
        self._generators: dict[str, dict[int, float]] = {}

    def success(self, name: str, at_unix_s: float, latency_s: float, length: int = 0) -> None:
        """Count a request that was answered as it should be, with ``length`` bytes of body."""
        self.successes(name, int(at_unix_s), {bucket_of_us(int(latency_s * 1e6)): 1}, length)

    def successes(self, name: str, second: int, buckets: Mapping[int, int], length: int) -> None:
        """Count all requests of these latency buckets at once; ``length`` is the sum of their bytes."""
        requests = self._second(second).requests[name]
        requests.bytes += length
        latency = requests.latency
        for bucket, count in buckets.items():
            latency[bucket] += count
            requests.count += count

    def failure(self, name: str, at_unix_s: float, reason: str, latency_s: float | None = None) -> None:
        """Count a request that failed; ``latency_s`` is None when it never started."""
        requests = self._second(int(at_unix_s)).requests[name]
        requests.count += 1
        requests.failed(reason, 1)
        if latency_s is not None:
            requests.failed_latency[bucket_of_us(int(latency_s * 1e6))] += 1

    def offered(self, at_unix_s: float, n: int = 1) -> None:
        """Count arrivals whose intended start lies in this second."""
        self._second(int(at_unix_s)).offered += n

    def unsent(self, at_unix_s: float, n: int = 1) -> None:
        """Count offered arrivals that were given up in this second, as no connection was idle for too long."""
        self._second(int(at_unix_s)).unsent += n

    def users(self, at_unix_s: float, n: int) -> None:
        """Note how many users ran; to be said once a second."""
        self._second(int(at_unix_s)).users += n

    def generator(self, process: str, at_unix_s: float, cpu_s: float) -> None:
        """Add CPU time that a process which makes load used in this second."""
        seconds = self._generators.setdefault(process, {})
        seconds[int(at_unix_s)] = seconds.get(int(at_unix_s), 0.0) + cpu_s
        if len(seconds) > SECONDS_MAX:
            del seconds[min(seconds)]

    def take(self) -> JSON:
        """The delta since the last take; this timeline is empty afterwards."""
        delta = self.as_dict()
        self._seconds, self._earlier, self._generators = {}, None, {}
        return delta

    def merge(self, delta: Mapping[str, Any]) -> None:
        """Add a delta of another timeline, or of this one; raises KeyError for what is not one."""
        for text, other in delta["seconds"].items():
            self._second(int(text)).add(other)
        for process, cpu in delta["generators"].items():
            for text, cpu_s in cpu.items():
                self.generator(process, int(text), cpu_s)
        if "earlier" in delta:
            self._before().add(delta["earlier"])

    def as_dict(self) -> JSON:
        """Everything counted until now, in the shape of a delta, seconds in order."""
        whole: JSON = {
            "seconds": {str(second): self._seconds[second].as_dict() for second in sorted(self._seconds)},
            "generators": self._cpu(),
        }
        if self._earlier is not None:
            whole["earlier"] = self._earlier.as_dict()
        return whole

    def as_json(self, **more: object) -> str:
        """``as_dict`` and further members as JSON; cheap enough to be called every second or so of a long run."""
        seconds = ",".join(f'"{second}":{self._seconds[second].as_json()}' for second in sorted(self._seconds))
        members = [f'"seconds":{{{seconds}}}', f'"generators":{json.dumps(self._cpu(), separators=(",", ":"))}']
        if self._earlier is not None:
            members.append(f'"earlier":{json.dumps(self._earlier.as_dict())}')
        members += [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in more.items()]
        return "{" + ",".join(members) + "}"

    def _cpu(self) -> JSON:
        return {
            process: {str(second): round(cpu_s, 6) for second, cpu_s in sorted(seconds.items())}
            for process, seconds in self._generators.items()
        }

    def _second(self, second: int) -> _Second:
        found = self._seconds.get(second)
        if found is None:
            found = self._seconds[second] = _Second()
            if len(self._seconds) > SECONDS_MAX:
                oldest = min(self._seconds)
                self._before().add(self._seconds.pop(oldest).as_dict())
                found = self._seconds.get(second, self._before())
        found.text = None
        return found

    def _before(self) -> _Second:
        if self._earlier is None:
            self._earlier = _Second()
        return self._earlier

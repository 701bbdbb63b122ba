"""What may be said on the command line of a load test, and what Locust is told then. Pure."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.cluster.client import ROOT
from loadtest.options import USERS
from loadtest.report.pieces import Scalar

LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"
LOOPBACK = "127.0.0.1"
UI_PORT = 8089
WARM_UP_S = 40.0
"""Until then the JVM compiles, and Cassandra costs several times as much."""
WARM_UP_USERS = 256
WORKERS_MAX = 256
SHAPE_S = {"ramp-to-16k": 90.0, "burst": 66.0, "step": 150.0, "soak": 3_600.0, "ab-ladder": 75.0}
"""About how long each shape takes, for the estimate that is shown while it runs."""
AUTOQUIT_S = 2
"""The web UI stays so long when a shape has ended, for its page to fetch the last figures."""
_SPAN = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One load test as it was asked for. No host: it starts a topology of its own; then the store is that one's."""

    shape: str = ""
    rate: float | None = None
    users: int | None = None
    user_classes: tuple[str, ...] = ("UsageUser",)
    workers: int = 0
    host: str = ""
    store: str = ""
    headless: bool = False
    run_time: str = ""
    web: int = 2
    port: int = 0
    ui_host: str = LOOPBACK
    ui_port: int = UI_PORT
    warm_up_s: float = 0.0
    out: Path = ROOT / "loadtest" / "runs"
    cache: Path = ROOT / ".cache"
    more: tuple[str, ...] = ()
    """Further options, for Locust."""

    @property
    def title(self) -> str:
        """What the run is called."""
        if self.shape:
            return self.shape
        if not self.by_itself:
            return "by hand"
        return f"{self.rate:g} per second" if self.rate else "closed loop"

    @property
    def by_itself(self) -> bool:
        """Whether the load starts and ends without a person at the web UI."""
        return self.headless or bool(self.shape)

    @property
    def expected_s(self) -> float:
        """About how long the load lasts; 0 when that is not known."""
        return seconds_of(self.run_time) or SHAPE_S.get(self.shape, 0.0)

    def options(self) -> dict[str, Scalar]:
        """What shapes the load, for the report."""
        said: dict[str, Scalar] = {
            "shape": self.shape or None,
            "rate": self.rate,
            "users": None if self.shape == "ab-ladder" else self.users or USERS,
            "user": ", ".join(self.user_classes),
            "workers": self.workers,
            "run time": self.run_time or None,
            "warm-up": f"{self.warm_up_s:g} s" if self.warm_up_s else None,
            "web instances": None if self.host else self.web,
        }
        words = iter([*self.more, "--"])
        for word in words:
            name, _, value = word.partition("=")
            if name.startswith("--") and name != "--":
                said[name.removeprefix("--")] = value or next(words).removeprefix("--")
        return {name: value for name, value in said.items() if value is not None}


def parser() -> argparse.ArgumentParser:
    """What may be said; options that are not known here go on to Locust."""
    top = argparse.ArgumentParser(
        prog="python -m loadtest.run",
        allow_abbrev=False,
        description="Starts HAProxy, web instances and Cassandra (or takes --host), loads them with Locust, compares what was "
        "acknowledged with what is stored, and writes report.html, results.json and timeline.csv to a directory of the run. "
        "All other options go to Locust: --peak, --hold-s, --arrivals poisson, --replays, --insecure, ...; "
        "`locust -f loadtest/locustfile.py --help` lists them.",
        epilog="Exit status: 0 all well, whether or not the rate was reached; 1 a request failed or was answered wrongly, "
        "something acknowledged is not stored as it was sent, or the test could not be done; 2 usage; 130 interrupted, all "
        "well until then. With the web UI and no shape, Ctrl-C is how a test ends.",
    )
    top.add_argument("--shape", default="", metavar="NAME", help=", ".join(SHAPE_S))
    top.add_argument("--rate", type=float, metavar="R", help="requests per second to offer; none: as fast as answered")
    top.add_argument("--users", "-u", type=int, metavar="N", help="users, each with a connection (default 256)")
    top.add_argument("--user", default="UsageUser", metavar="CLASS,...", help="UsageUser, KeyedUsageUser, MessageUser")
    top.add_argument("--workers", type=int, default=0, metavar="N", help="generating processes (default 0: one alone)")
    top.add_argument("--host", default="", metavar="URL", help="what to load; without it a topology is started")
    top.add_argument(
        "--store", default="", metavar="URL", help="the store behind --host, as BUSYAPI_STORE; else no reconciling"
    )
    top.add_argument("--headless", action="store_true", help="without the web UI")
    top.add_argument("--run-time", "-t", default="", metavar="TIME", help="as 90s, 20m, 1h30m")
    top.add_argument("--web", type=int, default=2, metavar="N", help="web instances to start (default 2)")
    top.add_argument("--port", type=int, default=0, metavar="PORT", help="of HAProxy (default 0: a free one)")
    top.add_argument("--ui-host", default=LOOPBACK, metavar="ADDRESS", help=f"of the web UI (default {LOOPBACK})")
    top.add_argument(
        "--ui-port", type=int, default=UI_PORT, metavar="PORT", help=f"of it (default {UI_PORT}; 0: a free one)"
    )
    top.add_argument("--warm-up-s", type=float, metavar="S", help="of load before it counts (default 40 for a topology "
                     "started here that is loaded by itself, else 0)")  # fmt: skip
    top.add_argument(
        "--out", type=Path, default=Asked().out, metavar="DIR", help="for the runs (default loadtest/runs)"
    )
    top.add_argument(
        "--cache", type=Path, default=Asked().cache, metavar="DIR", help="for the topology's data while it runs"
    )
    return top


def asked_of(arguments: Sequence[str] | None) -> Asked:
    """What a command line means; a wrong one ends the process with status 2."""
    top = parser()
    said, more = top.parse_known_args(arguments)
    if said.shape and said.shape not in SHAPE_S:
        top.error(f"there is no shape {said.shape}; there are {', '.join(SHAPE_S)}")
    if said.store and not said.host:
        top.error("--store goes with --host: a topology that is started here has a store of its own")
    if said.host and not re.match(r"https?://[^/]", said.host):
        top.error(f"--host is a URL such as http://127.0.0.1:8080, not {said.host}")
    if said.run_time and not seconds_of(said.run_time):
        top.error(f"--run-time is a time such as 90s, 20m or 1h30m, not {said.run_time}")
    for name, least, most in (("workers", 0, WORKERS_MAX), ("web", 1, 64), ("port", 0, 65_535), ("ui_port", 0, 65_535)):
        if not least <= getattr(said, name) <= most:
            top.error(f"--{name.replace('_', '-')} is from {least} to {most}, not {getattr(said, name)}")
    if (said.rate is not None and not 0 < said.rate < 1e9) or (said.users is not None and said.users < 1):
        top.error("--rate and --users are above 0")
    warm_up_s = said.warm_up_s
    if warm_up_s is None:
        warm_up_s = WARM_UP_S if not said.host and (said.shape or said.headless) else 0.0
    if not 0 <= warm_up_s < 86_400:
        top.error("--warm-up-s is from 0 to a day")
    return Asked(
        shape=said.shape,
        rate=said.rate,
        users=said.users,
        user_classes=tuple(name for name in said.user.split(",") if name) or Asked().user_classes,
        workers=said.workers,
        host=said.host.rstrip("/"),
        store=said.store,
        headless=said.headless,
        run_time=said.run_time,
        web=said.web,
        port=said.port,
        ui_host=said.ui_host,
        ui_port=said.ui_port,
        warm_up_s=float(warm_up_s),
        out=said.out,
        cache=said.cache,
        more=tuple(word for word in more if word != "--"),
    )


def seconds_of(run_time: str) -> float:
    """A time as Locust takes it, in seconds; 0 for none, or for what is no time."""
    found = _SPAN.fullmatch(run_time)
    if not found:
        return 0.0
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(hours * 3600 + minutes * 60 + seconds)


def load_command(asked: Asked, host: str, directory: Path) -> list[str]:
    """The options of the process that makes the load, or of the master and its workers alike."""
    words = ["--host", host, "--journal", str(directory / "journals"), *_load_words(asked), *asked.more]
    return [*words, *asked.user_classes]


def leading_command(asked: Asked, directory: Path, ui_port: int) -> list[str]:
    """What the only process, or the master, is told besides."""
    words = ["--timeline", str(directory / "timeline.json")]
    if asked.headless:
        return [*words, "--headless", "--only-summary"]
    words += ["--web-host", asked.ui_host, "--web-port", str(ui_port)]
    return [*words, "--autostart", "--autoquit", str(AUTOQUIT_S)] if asked.by_itself else words


def warm_up_command(asked: Asked, host: str, directory: Path) -> list[str]:
    """A closed loop of as many users as can keep it busy, with journals of its own."""
    words = ["--headless", "--only-summary", "--host", host, "--run-time", f"{max(1, round(asked.warm_up_s))}s"]
    words += ["--users", str(WARM_UP_USERS), "--spawn-rate", "100"]
    words += ["--journal", str(directory / "journals"), "--timeline", str(directory / "timeline.json")]
    trusted = [word for word in asked.more if word == "--insecure" or word.startswith("--ca=")]
    return [*words, *trusted, *asked.user_classes]


def locust() -> list[str]:
    """The program with its locustfile."""
    return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE)]


def _load_words(asked: Asked) -> list[str]:
    words: list[str] = []
    for name, value in (("--shape", asked.shape), ("--run-time", asked.run_time)):
        words += [name, value] if value else []
    for name, number in (("--rate", asked.rate), ("--users", asked.users)):
        words += [name, f"{number:.10g}"] if number is not None else []
    return words

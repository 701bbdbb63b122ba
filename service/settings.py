"""The settings: environment variables BUSYAPI_*, read once into one frozen object.

Each setting is declared once, below, with its unit, bounds and meaning. README's
table is compared with these declarations by a test.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

PREFIX = "BUSYAPI_"


class SettingError(ValueError):
    """A setting has a value that cannot be used; the text is one line that names it."""


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where the store is: ``sqlite:///PATH`` or ``cassandra://HOST[:PORT],HOST/KEYSPACE``."""

    scheme: str
    path: str = ""
    hosts: tuple[tuple[str, int], ...] = ()
    keyspace: str = ""

    def __str__(self) -> str:
        if self.scheme == "sqlite":
            return f"sqlite:///{self.path}"
        return f"cassandra://{','.join(f'{host}:{port}' for host, port in self.hosts)}/{self.keyspace}"


def _store(text: str) -> StoreUrl:
    scheme, _, rest = text.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return StoreUrl("sqlite", path=unquote(rest[1:]))
    if scheme == "cassandra":
        hosts, _, keyspace = rest.partition("/")
        parsed = tuple(_host(part) for part in hosts.split(",") if part)
        if not parsed:
            raise ValueError("names no host")
        if not (
            keyspace.isidentifier() and keyspace.isascii() and keyspace == keyspace.lower() and len(keyspace) <= 48
        ):
            raise ValueError("needs a keyspace of lower-case letters, digits and _ after the hosts")
        return StoreUrl("cassandra", hosts=parsed, keyspace=keyspace)
    raise ValueError("is neither sqlite:///PATH nor cassandra://HOST[:PORT],HOST/KEYSPACE")


def _host(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, 9042
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(f"has a host that is not HOST or HOST:PORT: {text!r}")
    return host, int(port)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A whole number within bounds."""

    low: int
    high: int

    @property
    def bounds(self) -> str:
        return f"{self.low}–{self.high}"

    def __call__(self, text: str) -> int:
        if not text.isascii() or not text.isdigit() or not self.low <= int(text) <= self.high:
            raise ValueError(f"is no whole number from {self.low} to {self.high}")
        return int(text)


@dataclass(frozen=True, slots=True)
class _Seconds:
    """A number of seconds within bounds."""

    low: float
    high: float

    @property
    def bounds(self) -> str:
        return f"{self.low:g}–{self.high:g}"

    def __call__(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high:
            raise ValueError(f"is no number of seconds from {self.low:g} to {self.high:g}")
        return value


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"is none of {', '.join(words)}")
        return text

    return parse


def _text(text: str) -> str:
    return text


def _header_value(text: str) -> str:
    if not text or not all(0x20 <= ord(char) <= 0x7E for char in text):
        raise ValueError("is no header value of visible ASCII")
    return text


def _origins(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _setting(default: str, parse: Callable[[str], Any], unit: str, what: str, *, secret: bool = False) -> Any:
    """A declaration: what :func:`read_settings` parses with, and what README's table says."""
    bounds = getattr(parse, "bounds", "")
    return dataclasses.field(
        repr=not secret,
        metadata={"default": default, "parse": parse, "unit": unit, "bounds": bounds, "what": what, "secret": secret},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, parsed and within its bounds. Made by :func:`read_settings`."""

    store: StoreUrl = _setting(
        "sqlite:///./data/busyapi.sqlite3",
        _store,
        "URL",
        "`sqlite:///PATH` or `cassandra://HOST[:PORT],HOST/KEYSPACE`",
    )
    listen_host: str = _setting("127.0.0.1", _text, "address", "where the web instance listens")
    listen_port: int = _setting("8080", _Whole(0, 65535), "port", "0 takes a free one")
    listen_unix: str = _setting(
        "",
        _text,
        "path",
        "a Unix socket to listen on as well, of one process: cheaper for a balancer on the same machine",
    )
    workers: int = _setting(
        "1", _Whole(1, 256), "processes", "processes that share the port (and, with SQLite, the file)"
    )

    usage_bytes_max: int = _setting("102400", _Whole(2, 8 << 20), "bytes", "largest body of a usage; more is a 413")
    message_bytes_max: int = _setting("1048576", _Whole(1, 8 << 20), "bytes", "largest message as UTF-8; more is a 413")
    message_cache_control: str = _setting(
        "no-cache",
        _header_value,
        "header",
        "`Cache-Control` of a message: kept, but asked about again, so a DELETE shows",
    )
    requests_in_flight_max: int = _setting(
        "10000", _Whole(1, 1_000_000), "requests", "requests at work in one process; more is a 503"
    )
    body_bytes_in_flight_max: int = _setting(
        "268435456", _Whole(1 << 20, 1 << 40), "bytes", "bodies held by one process; more is a 503"
    )
    body_timeout_s: float = _setting(
        "15", _Seconds(0.1, 600), "seconds", "longest wait for the whole of a body; then a 408, whatever trickles in"
    )
    page_usages_max: int = _setting("1000", _Whole(1, 10_000), "usages", "largest `limit` of a listing")
    count_windows_max: int = _setting(
        "10000", _Whole(1, 1_000_000), "windows", "most windows of one count; more is a 400"
    )
    reads_in_flight_max: int = _setting(
        "32", _Whole(1, 10_000), "requests", "lists, exports and counts at work in one process; more is a 503"
    )
    cors_origins: tuple[str, ...] = _setting("", _origins, "origins", "comma-separated origins for CORS; empty is off")

    group_size_max: int = _setting("256", _Whole(1, 4096), "items", "most items of one group commit")
    group_bytes_max: int = _setting(
        "1048576", _Whole(1024, 12 << 20), "bytes", "most bytes of one group; one item may be larger"
    )
    groups_in_flight_max: int = _setting("1", _Whole(1, 64), "groups", "groups of one kind that the store has at once")
    queue_size_max: int = _setting(
        "20000", _Whole(1, 10_000_000), "items", "items of one kind that wait; more is a 503"
    )
    queue_bytes_max: int = _setting(
        "67108864", _Whole(1024, 1 << 40), "bytes", "bytes of one kind that wait; more is a 503"
    )
    queue_wait_max_s: float = _setting(
        "0.8", _Seconds(0.01, 60), "seconds", "longest wait in the queue, and for ids when none is at hand; then a 503"
    )
    gather_max_s: float = _setting(
        "0.008", _Seconds(0, 1), "seconds", "under load: longest wait for more to join the next group; 0 is none"
    )
    id_lease_size: int = _setting("131072", _Whole(1024, 1 << 32), "ids", "ids that an instance leases at a time")

    batch_items_max: int = _setting(
        "10000",
        _Whole(1, 100_000),
        "items",
        "most items of a batch that is held whole (an array, or strict); more is a 413",
    )
    batch_bytes_max: int = _setting(
        "16777216", _Whole(1024, 256 << 20), "bytes", "largest such batch, inflated; more is a 413"
    )
    batch_inflated_bytes_max: int = _setting(
        "4294967296", _Whole(1024, 1 << 40), "bytes", "what one compressed stream may inflate to; then it is ended"
    )
    batch_window_items: int = _setting(
        "2048", _Whole(1, 100_000), "items", "items of one stream on their way to the store at once"
    )
    batch_streams_max: int = _setting(
        "256", _Whole(1, 100_000), "streams", "streamed batches open in one process; more is a 503"
    )
    batch_wait_max_s: float = _setting(
        "5",
        _Seconds(0.01, 60),
        "seconds",
        "longest wait of a batch's items before being sent; then they are to be retried",
    )

    store_timeout_s: float = _setting(
        "2.5", _Seconds(0.05, 60), "seconds", "longest wait for the store once a group was sent; then a 504"
    )
    cassandra_hedge_after_s: float = _setting(
        "0.25", _Seconds(0.01, 60), "seconds", "what a node has not answered after so long, another is asked as well"
    )
    cassandra_replication_factor: int = _setting(
        "1", _Whole(1, 9), "replicas", "copies of each row, set by `schema`: 1 for one node, 3 for three"
    )
    cassandra_local_dc: str = _setting("", _text, "name", "data centre to talk to; empty takes that of the first host")
    cassandra_username: str = _setting("", _text, "name", "user, when Cassandra asks for one")
    cassandra_password: str = _setting("", _text, "secret", "its password", secret=True)
    cassandra_clock_skew_max_s: float = _setting(
        "0.05",
        _Seconds(0, 10),
        "seconds",
        "how far the clocks of Cassandra's nodes may differ; a DELETE may wait so long",
    )
    sqlite_busy_timeout_s: float = _setting(
        "2", _Seconds(0.01, 60), "seconds", "longest wait for another process's transaction; then a 503"
    )
    patient_index: str = _setting(
        "off",
        _one_of("off", "on"),
        "word",
        "`on` keeps an index for `GET /api/usages?patientId=`; `schema` makes it; a write costs some 7 µs more CPU",
    )

    keep_alive_s: float = _setting(
        "75", _Seconds(1, 3600), "seconds", "idle connections stay open so long; longer than HAProxy's"
    )
    drain_delay_s: float = _setting(
        "3.5", _Seconds(0, 300), "seconds", "after SIGTERM: unready but still serving, until HAProxy has seen it"
    )
    drain_timeout_s: float = _setting(
        "20", _Seconds(0.1, 600), "seconds", "after that: longest wait for requests in flight"
    )

    log_format: str = _setting(
        "auto", _one_of("auto", "json", "text"), "word", "`auto` is text on a terminal, else JSON lines"
    )
    log_level: str = _setting(
        "info", _one_of("debug", "info", "warning", "error"), "word", "least level that is written"
    )


def declared() -> list[dataclasses.Field[Any]]:
    """The settings in the order of README's table."""
    return list(dataclasses.fields(Settings))


def variable(field: dataclasses.Field[Any]) -> str:
    """The environment variable of a setting."""
    return PREFIX + field.name.upper()


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Parse all settings out of an environment. Raises SettingError naming the first that is wrong.

    A variable that is set but empty counts as not set, as compose files pass on what a shell does not have.
    """
    values: dict[str, Any] = {}
    for field in declared():
        name = variable(field)
        text = environ.get(name, "").strip() or field.metadata["default"]
        try:
            values[field.name] = field.metadata["parse"](text)
        except ValueError as error:
            shown = "***" if field.metadata["secret"] else repr(text)
            raise SettingError(f"{name} {error} (got {shown})") from None
    return Settings(**values)


def unknown(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that are no setting: probably misspelt, worth a warning, not worth a stop."""
    known = {variable(field) for field in declared()}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)

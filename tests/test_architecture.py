from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support import ROOT

LINES_MAX = 320

SERVICE = sorted((ROOT / "service").rglob("*.py"))

HTTP = {"service.app", "service.http", "service.usages", "service.messages", "service.routes", "service.health"}
HTTP |= {"service.reading", "service.listing", "service.counting", "service.deleting"}
HTTP |= {"service.query", "service.cursor"}
HTTP |= {"service.batch", "service.batch_body", "service.batch_items", "service.batch_stream", "service.batch_writer"}
HTTP |= {
    "service.parsing",
    "service.plain",
    "service.protocol",
    "service.openapi",
    "service.server",
    "service.instance",
    "service.admission",
    "service.reporting",
    "service.cors",
    "service.durability",
    "service.check",
    "service.listening",
    "service.workers",
}

ALLOWED = {
    "service.errors": set(),
    "service.settings": set(),
    "service.listening": set(),
    "service.logs": set(),
    "service.metrics": set(),
    "service.openapi": {"service.openapi_parts", "service.openapi_batch", "service.openapi_reading"},
    "service.openapi_batch": {"service.openapi_parts"},
    "service.batch_inflate": {"service.errors"},
    "service.batch_results": {"service.errors", "service.store"},
    "service.openapi_parts": set(),
    "service.openapi_reading": {"service.openapi_parts"},
    "service.timespan": set(),
    "service.query": {"service.errors", "service.http"},
    "service.cursor": {"service.errors", "service.store"},
    "service.plain": set(),
    "service.workers": set(),
    "service.group_commit": {"service.errors"},
    "service.ids": {"service.errors"},
    "service.admission": {"service.errors"},
    "service.http": {"service.admission", "service.errors"},
    "service.parsing": {"service.errors", "service.http"},
    "service.routes": {"service.http"},
    "service.cors": {"service.errors", "service.http"},
    "service.store.cassandra_bind": set(),
    "service.store.cassandra_outcome": set(),
    "service.store.cassandra_policies": set(),
    "service.store.grouping": set(),
    "service.store.loop_connection": set(),
    "service.store.sqlite_worker": set(),
    "service.store.patient": set(),
    "service.store.places": set(),
    "service.store.cassandra_statements": set(),
    "service.store.clock": {"service.errors"},
    "service.store.results": {"service.errors"},
    "service.store.sqlite_schema": {"service.errors", "service.store.patient"},
    "service.store.sqlite_writing": {"service.store", "service.store.patient", "service.store.sqlite_schema"},
    "service.store.sqlite_reading": {"service.errors", "service.store", "service.store.sqlite_writing"},
    "service.store.durability": {"service.store"},
    "service.store.direct": {"service.store.cassandra_bind", "service.store.loop_connection"},
}
"""What the lower layers may import of the service; those above them are free to look down."""

FRAMEWORKS = {"fastapi", "starlette", "uvicorn", "httptools", "prometheus_client"}

DRIVER = ("service.store.cassandra", "service.store.loop_connection", "service.store.direct")
"""Where the names of the driver's modules may be imported; the first is a prefix of several."""


def module(path: Path) -> str:
    """A file's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it; names imported from a package count as its modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            assert node.module is not None
            found.add(node.module)
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in {module(other) for other in SERVICE}}
    return found - {"service"}


@pytest.mark.parametrize("path", SERVICE, ids=module)
def test_a_module_imports_only_what_lies_below_it(path: Path):
    """Handlers → group commit → a callable: the queue knows no store, the store knows no HTTP."""
    ours = {name for name in imports(path) if name.startswith("service.")}
    name = module(path)
    if name in ALLOWED:
        assert ours <= ALLOWED[name]
    if name.startswith("service.store"):
        assert not ours & (HTTP | {"service.group_commit", "service.ids", "service.metrics"})
    if name not in {"service.app", "service.server", "service.__main__"}:
        assert not ours & {"service.app", "service.server", "service.__main__"}
    if name in {"service.usages", "service.messages", "service.reading", "service.counting", "service.deleting"}:
        assert not {other for other in ours if other.startswith("service.store.")}


def test_the_tables_name_modules_that_are_there():
    """A module that was renamed does not slip out of its rules."""
    there = {module(path) for path in SERVICE}
    assert there >= HTTP | ALLOWED.keys() | set().union(*ALLOWED.values())


@pytest.mark.parametrize("path", SERVICE, ids=module)
def test_web_frameworks_stay_at_the_edge(path: Path):
    """The path of a write is plain: FastAPI, uvicorn and Prometheus are met in these modules alone."""
    frameworks = {name.partition(".")[0] for name in imports(path)} & FRAMEWORKS
    if module(path) not in {"service.app", "service.health", "service.server", "service.metrics", "service.protocol"}:
        assert not frameworks


@pytest.mark.parametrize("path", SERVICE, ids=module)
def test_the_driver_is_known_to_the_cassandra_store_alone(path: Path):
    """SQLite needs no driver, and nobody but the store speaks to Cassandra."""
    if not module(path).startswith(DRIVER):
        assert "cassandra" not in {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", SERVICE, ids=module)
def test_no_module_holds_two_things(path: Path):
    """A module of more than about 300 lines is two modules."""
    assert len(path.read_text().splitlines()) <= LINES_MAX


def test_nothing_shadows_the_driver():
    """cassandra/ holds schema and configuration: as a package it would hide cassandra-driver."""
    assert not list((ROOT / "cassandra").rglob("*.py"))


def test_the_parent_of_several_workers_does_not_import_metrics():
    """prometheus_client decides at its import where values live; the parent must not decide for the workers."""
    seen: set[str] = set()
    todo = ["service.workers", "service.listening", "service.settings", "service.logs", "service.errors"]
    paths = {module(path): path for path in SERVICE}
    while todo:
        name = todo.pop()
        if name in paths and name not in seen:
            seen.add(name)
            found = imports(paths[name])
            assert "prometheus_client" not in {other.partition(".")[0] for other in found}
            todo.extend(found)


def test_the_client_of_the_api_knows_nothing_of_the_service():
    """Import and export speak HTTP: what they can do, anybody's client can."""
    for path in sorted((ROOT / "service" / "transfer").rglob("*.py")):
        ours = {name for name in imports(path) if name.startswith("service.")}
        assert not {name for name in ours if not name.startswith("service.transfer")}, path.name


def test_system_tests_know_nothing_of_the_service():
    """They speak to a base URL; what they import of us is at most how a cluster is started."""
    for path in sorted((ROOT / "tests" / "system").rglob("*.py")):
        assert not {name for name in imports(path) if name.partition(".")[0] == "service"}, path.name


def test_no_test_is_skipped_or_expected_to_fail():
    """What cannot be tested here fails and says why; it does not go by in silence."""
    marks = {"skip", "skipif", "xfail", "importorskip"}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        used = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not used & marks, path.name

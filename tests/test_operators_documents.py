from __future__ import annotations

import re
from pathlib import Path

import pytest

from service import metrics
from service.reporting import LINES_PER_S_MAX
from service.settings import declared, variable
from tests.documents import RUNBOOK, SECURITY, exposed, metric_names
from tests.support import ROOT

SETTINGS = {variable(field): field.metadata["default"] for field in declared()}
HAPROXY = (ROOT / "haproxy" / "haproxy.cfg").read_text()
DOCUMENTS = [RUNBOOK, SECURITY]
SOURCES = "".join(path.read_text() for path in sorted((ROOT / "service").rglob("*.py")))


def family(name: str) -> str:
    """A metric without what its kind puts behind it: labels make samples, and without traffic there are none."""
    return re.sub(r"_(total|bucket|sum|count)$", "", name)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_that_is_named_exists(path: Path):
    """BUSYAPI_* names are those of service/settings.py, HAPROXY_* and WEB_* those that haproxy.cfg presets."""
    text = path.read_text()
    assert set(re.findall(r"\bBUSYAPI_[A-Z_]+", text)) <= SETTINGS.keys()
    for name in re.findall(r"\b(?:HAPROXY|WEB)_[A-Z]+(?:_[A-Z]+)*", text):
        assert f"presetenv {name} " in HAPROXY, name


def test_every_metric_of_the_service_that_is_named_exists():
    """By the families that service/metrics.py declares."""
    families = {family(name) for name in exposed(metrics.exposition().decode())}
    named = metric_names(RUNBOOK.read_text(), "busyapi_")
    assert named
    assert {family(name) for name in named} <= families


def test_every_log_line_that_is_quoted_is_written():
    """A message that was reworded is reworded in the runbook, too."""
    quoted = re.findall(r'"message":"([^"]+)"', RUNBOOK.read_text())
    assert quoted
    assert [message for message in quoted if f'"{message}"' not in SOURCES] == []


def test_every_code_of_a_503_is_in_the_runbook():
    """Whatever the service or HAProxy gives as the reason of a 503, whoever is on call finds it."""
    codes = set(re.findall(r'Problem\(\s*503,\s*"([a-z_]+)"', SOURCES)) | set(
        re.findall(r'\(\s*503,\s*"([a-z_]+)"', SOURCES)
    )
    codes |= {"overloaded", "no_instance_available"}
    assert "iif(overloaded,no_instance_available)" in HAPROXY
    text = RUNBOOK.read_text()
    assert [code for code in codes if f"`{code}`" not in text] == []


def test_the_limits_are_those_of_the_settings():
    """Each row that names a setting has its default."""
    rows = re.findall(r"^\| [^|]*`([A-Z_]+)` \| ([0-9.]+)", SECURITY.read_text(), re.MULTILINE)
    assert len(rows) >= 8
    for name, value in rows:
        default = SETTINGS.get(name) or re.findall(rf"presetenv {name} (\S+)", HAPROXY)[0]
        assert value == default, name
    assert f"| log lines of one kind | {LINES_PER_S_MAX} a second |" in SECURITY.read_text()


@pytest.mark.parametrize(
    ("row", "directive"),
    [
        ("| time for the headers | 5 s |", "timeout http-request 5s"),
        ("| time for the first 16 kB of a body, not of a batch | 10 s |", "wait-for-body time 10s"),
        ("| idle connection | 20 s |", "timeout http-keep-alive 20s"),
    ],
)
def test_the_times_are_those_of_haproxy(row: str, directive: str):
    """What SECURITY.md says is what haproxy.cfg does."""
    assert row in SECURITY.read_text()
    assert directive in HAPROXY


def test_links_lead_somewhere():
    """Every relative link of both documents, and README's to them."""
    for path in [*DOCUMENTS, ROOT / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), (path.name, target)
    readme = (ROOT / "README.md").read_text()
    assert "](deploy/RUNBOOK.md)" in readme
    assert "](SECURITY.md)" in readme

"""Names and numbers in the documents for operators, so that tests can hold them against what runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNBOOK = ROOT / "deploy" / "RUNBOOK.md"
SECURITY = ROOT / "SECURITY.md"

PATTERN = re.compile(r"\^([a-z]+)_\(([a-z_|]+)\)")
"""A regular expression of the runbook that names several metrics: ``^haproxy_(server_status|backend_current_queue)``."""


def metric_names(text: str, prefix: str) -> set[str]:
    """Every metric that a text names, those in regular expressions included."""
    found = {f"{first}_{rest}" for first, names in PATTERN.findall(text) for rest in names.split("|")}
    plain = PATTERN.sub(" ", text)
    return {name for name in found | set(re.findall(r"\b[a-z]+_[a-z_]*[a-z]\b", plain)) if name.startswith(prefix)}


def exposed(exposition: str) -> set[str]:
    """The names of all samples and families of a scrape."""
    names = re.findall(r"^(?:# TYPE )?([a-z_]+)[{ ]", exposition, re.MULTILINE)
    return set(names)

"""Journals against the store: whether each acknowledged usage is there, once, as it was sent, and nothing else is."""

from loadtest.reconcile.reconciling import LIST_MAX, reconcile
from loadtest.reconcile.result import Finding, Findings, Reconciliation, Tally
from loadtest.reconcile.sources import StoreUnreadable
from loadtest.reconcile.verdict import Fault

__all__ = [
    "LIST_MAX",
    "Fault",
    "Finding",
    "Findings",
    "Reconciliation",
    "StoreUnreadable",
    "Tally",
    "reconcile",
]

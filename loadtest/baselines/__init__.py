"""Servers that the benchmark compares with, each at the settings that its own documentation recommends.

Each is a context manager: it installs what is needed (once, into the cache), starts the server on a free port of
127.0.0.1, yields a :class:`Subject` when it answers, and ends everything. :class:`Missing` says why one cannot be had.
A process that is killed takes its servers along; use them from a thread that lives as long as they shall.
"""

from loadtest.baselines.run_express import express
from loadtest.baselines.run_fastapi import plain_fastapi
from loadtest.baselines.run_go import go_pgx
from loadtest.baselines.run_rqlite import rqlite
from loadtest.baselines.subject import DidNotStart, Missing, Subject

__all__ = ["DidNotStart", "Missing", "Subject", "express", "go_pgx", "plain_fastapi", "rqlite"]

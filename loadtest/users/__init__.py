"""Locust users on raw sockets: fast enough that the generator is not what a load test measures."""

from __future__ import annotations

from loadtest.users.burst import BurstUser
from loadtest.users.keyed import KeyedUsageUser
from loadtest.users.message import MessageUser
from loadtest.users.process import Process, process_of
from loadtest.users.usage import UsageUser

__all__ = ["BurstUser", "KeyedUsageUser", "MessageUser", "Process", "UsageUser", "process_of"]

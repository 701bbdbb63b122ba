"""Ctrl-C of the load tests' commands, at the moments at which an exception does harm."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from loadtest import interrupting
from loadtest.interrupting import interruptible


@contextlib.contextmanager
def log_that(does: Callable[[], None]) -> Iterator[logging.Logger]:
    """One whose handler does this for each line."""

    class Doing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            del record
            does()

    handler = Doing()
    log = logging.getLogger("interrupted")
    log.addHandler(handler)
    try:
        yield log
    finally:
        log.removeHandler(handler)


def ctrl_c(number: signal.Signals = signal.SIGINT) -> None:
    """Of this process."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_amid_a_line_of_log_is_heard_behind_it(number: signal.Signals):
    """The line is written whole, and the lock that it was written under is free."""
    written: list[str] = []

    def write() -> None:
        ctrl_c(number)
        written.append("whole")

    def interrupted() -> None:
        with log_that(write) as log, interruptible():
            log.warning("a line")
            time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert written == ["whole"]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_line_of_log_that_does_not_end_does_not_keep_ctrl_c_away(monkeypatch: pytest.MonkeyPatch):
    """As when it goes to a terminal that was stopped."""
    monkeypatch.setattr(interrupting, "PUT_OFF_MAX_S", 0.05)

    def write() -> None:
        ctrl_c()
        time.sleep(30)

    with log_that(write) as log, pytest.raises(KeyboardInterrupt), interruptible():
        log.warning("a line")


def test_a_ctrl_c_that_was_put_off_does_not_come_again_when_another_was_heard(monkeypatch: pytest.MonkeyPatch):
    """It would end the clean-up of the one that was heard."""
    monkeypatch.setattr(interrupting, "AGAIN_S", 0.2)
    with log_that(ctrl_c) as log, interruptible():
        log.warning("a line")
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
        time.sleep(0.4)


LOCUSTS_MASTER = """
import os, signal, sys
import gevent
from loadtest.direction import _hear_ctrl_c

if sys.argv[1] == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
_hear_ctrl_c()
gevent.spawn(os.kill, os.getpid(), signal.SIGINT)
try:
    gevent.sleep(1 if sys.argv[1] == "deaf" else 60)
except KeyboardInterrupt:
    sys.exit("heard")
"""


@pytest.mark.parametrize(("how", "said"), [("deaf", ""), ("hears", "heard\n")])
def test_a_master_that_was_started_deaf_to_ctrl_c_stays_so(how: str, said: str):
    """By a script that puts it in the background, whose own Ctrl-C is not for it."""
    command = [sys.executable, "-c", LOCUSTS_MASTER, how]
    done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert done.stderr == said


AMID_A_FORK = """
import logging, os, signal, subprocess, sys, threading, time
from loadtest.interrupting import interruptible

# As logging's own callback, which lets its lock go behind a fork, when a signal comes as it begins.
source = "def behind():\\n    os.kill(os.getpid(), signal.SIGINT)\\n    logging._lock.release()\\n"
hooks = {"logging": logging, "os": os, "signal": signal}
exec(compile(source, logging.__file__, "exec"), hooks)
os.register_at_fork(before=logging._lock.acquire, after_in_parent=hooks["behind"])
try:
    with interruptible():
        subprocess.Popen(["true"], preexec_fn=lambda: None)
        time.sleep(30)
except KeyboardInterrupt:
    logs = threading.Thread(target=logging.getLogger("other").warning, args=("a line",), daemon=True)
    logs.start()
    logs.join(20)
    sys.exit("logging is locked" if logs.is_alive() else 0)
sys.exit("Ctrl-C was lost")
"""


def test_ctrl_c_amid_a_fork_is_neither_lost_nor_leaves_logging_locked():
    """In a process of its own: a lock that stays taken would stop what runs behind this test."""
    command = [sys.executable, "-c", AMID_A_FORK]
    done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "a line" in done.stderr

"""Ctrl-C of the load tests' commands, at the moments at which an exception does harm."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from loadtest.interrupting import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_amid_a_line_of_log_is_heard_behind_it(number: signal.Signals):
    """The line is written, and the lock that it was written under is free."""
    written: list[str] = []

    class Interrupted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            os.kill(os.getpid(), number)
            written.append(record.getMessage())

    handler = Interrupted()
    log = logging.getLogger("interrupted")
    log.addHandler(handler)

    def interrupted() -> None:
        with interruptible():
            log.warning("whole")
            time.sleep(30)

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        log.removeHandler(handler)
    assert written == ["whole"]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


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

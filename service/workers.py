"""Several processes on one port: each has its own socket, event loop, groups and leases of ids.

The parent only watches. It holds every socket, so connections that arrive while a worker is
started again wait in its queue and are not refused.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

RESTART_DELAY_S = 1.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_workers(sockets: list[socket.socket], serve: Callable[[socket.socket, int], None]) -> int:
    """Run ``serve(socket, parent_gone)`` in a process for each socket until a signal; the exit status.

    A worker that dies is started again. SIGTERM and SIGINT are passed on once, and all workers awaited.
    """
    with tempfile.TemporaryDirectory(prefix="busyapi-metrics-") as directory:
        # prometheus_client decides at its import where values live; nothing has imported it yet.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        return _Parent(sockets, serve, Path(directory)).run()


class _Parent:
    def __init__(
        self, sockets: list[socket.socket], serve: Callable[[socket.socket, int], None], metrics: Path
    ) -> None:
        self._metrics = metrics
        self._sockets = sockets
        self._serve = serve
        self._pids: dict[int, int] = {}
        self._stopping = False
        self._alive_read, self._alive_write = os.pipe()

    def run(self) -> int:
        for signal_ in SIGNALS:
            signal.signal(signal_, self._stop)
        for index in range(len(self._sockets)):
            self._start(index)
        status = 0
        while self._pids:
            pid, wait_status = os.wait()
            code = os.waitstatus_to_exitcode(wait_status)
            index = self._pids.pop(pid)
            # What prometheus_client's mark_process_dead does, which the parent must not import.
            for gauges in self._metrics.glob(f"gauge_live*_{pid}.db"):
                gauges.unlink(missing_ok=True)
            if self._stopping:
                status = status or abs(code)
            else:
                log.error("a worker died", extra={"fields": {"pid": pid, "status": code}})
                time.sleep(RESTART_DELAY_S)
                # A signal may have come during the sleep: then nothing is started again.
                if not self._stopping:
                    self._start(index)
        return status

    def _start(self, index: int) -> None:
        # A signal between the fork and the note of its pid would miss the child, or reach it with this process's handler.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid:
            self._pids[pid] = index
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            return
        for signal_ in SIGNALS:
            signal.signal(signal_, _exit_before_serving)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            os.close(self._alive_write)
            for other in self._sockets[:index] + self._sockets[index + 1 :]:
                other.close()
            self._serve(self._sockets[index], self._alive_read)
            sys.stderr.flush()
            os._exit(0)
        except SystemExit as exit_:
            os._exit(exit_.code if isinstance(exit_.code, int) else 1)
        except BaseException:
            log.exception("a worker failed")
            os._exit(1)

    def _stop(self, signal_: int, _: object) -> None:
        if not self._stopping:
            self._stopping = True
            # The workers have their own; with these open, connections would queue where nobody accepts any more.
            for bound in self._sockets:
                bound.close()
            for pid in self._pids:
                os.kill(pid, signal.SIGTERM if signal_ == signal.SIGTERM else signal.SIGINT)


def _exit_before_serving(_signal: int, _frame: object) -> None:
    """Until the server has handlers of its own there is nothing to drain."""
    os._exit(0)

"""Something that goes on beside a test."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

END_WITHIN_S = 60.0


class Background:
    """Runs ``_run`` in a thread of its own until the ``with`` ends; ``_run`` ends once ``_stopping`` is set."""

    def __init__(self, name: str) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(END_WITHIN_S)
        assert not self._thread.is_alive(), f"{self._thread.name} did not end"

    def _run(self) -> None:
        raise NotImplementedError

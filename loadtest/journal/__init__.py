"""What a user process has sent and what it was told: written down before and after, found again after kill -9.

One file for each process and kind. What was sent is a function of the journal's token and the number of the request
(:mod:`~loadtest.journal.bodies`, :mod:`~loadtest.journal.identity`), so a slot of 8 or 16 bytes is all that a request needs.
"""

from loadtest.journal.bodies import Usages
from loadtest.journal.format import JournalError, JournalFull, Kind, State
from loadtest.journal.identity import key, message
from loadtest.journal.reading import JournalFile, read_journal, read_journals
from loadtest.journal.writer import Journal, open_journal

__all__ = [
    "Journal",
    "JournalError",
    "JournalFile",
    "JournalFull",
    "Kind",
    "State",
    "Usages",
    "key",
    "message",
    "open_journal",
    "read_journal",
    "read_journals",
]

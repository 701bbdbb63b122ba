"""The command: a web instance, or the schema step, of a service with one bug."""

from __future__ import annotations

import argparse
import os
import sys

from service import __main__ as service
from service.listening import listen
from service.logs import set_up_logs
from service.server import serve
from service.settings import Settings, read_settings
from service.store import Store, open_store
from tests.chaos.planted import BUGS
from tests.chaos.planted.groups import plant_refusals
from tests.chaos.planted.stores import DropsRows, EarlyAcks, HalfGroups, RetriesWithoutKey


def main() -> int:
    """Run it; the exit status is the service's."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.planted", description=__doc__)
    names = "; ".join(f"{name}: {bug.does}" for name, bug in BUGS.items())
    parser.add_argument("--bug", required=True, choices=[*BUGS], metavar="NAME", help=names)
    parser.add_argument("command", choices=["serve", "schema"])
    said = parser.parse_args()
    if said.command == "schema":
        return service.main(["schema"])
    settings = read_settings(os.environ)
    set_up_logs(settings.log_format, settings.log_level)
    store = planted_store(said.bug, settings)
    if said.bug == "refuse-after-enqueue":
        plant_refusals()
    serve(settings, listen(settings.listen_host, settings.listen_port, shared=False), None, store)
    return 0


def planted_store(bug: str, settings: Settings) -> Store:
    """The real store with the bug around it."""
    if bug == "client-timestamps":
        from tests.chaos.planted.clocked import ClientTimestamps

        return ClientTimestamps(settings)
    around = {
        "early-ack": EarlyAcks,
        "drop-row": DropsRows,
        "half-group": HalfGroups,
        "retry-without-key": RetriesWithoutKey,
    }
    store = open_store(settings)
    return around[bug](store) if bug in around else store


if __name__ == "__main__":
    sys.exit(main())

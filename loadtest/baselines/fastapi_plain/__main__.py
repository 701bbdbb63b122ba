"""``setup`` makes the plain service's keyspace and tables, safe to repeat; ``count`` prints how many usages it has."""

from __future__ import annotations

import argparse
from typing import Any

from loadtest.baselines.fastapi_plain.session import KEYSPACE, TABLES, connect

TIMEOUT_S = 60.0
RANGES = 256
"""A count of the whole table would run into Cassandra's own time limit; one of a small range of tokens does not."""
TOKEN_MIN, TOKEN_MAX = -(2**63), 2**63 - 1


def token_ranges(ranges: int = RANGES) -> list[tuple[int, int]]:
    """All of the ring as (first, last), both inclusive."""
    width = 2**64 // ranges
    firsts = [TOKEN_MIN + number * width for number in range(ranges)]
    return list(zip(firsts, [first - 1 for first in firsts[1:]] + [TOKEN_MAX], strict=True))


def set_up(session: Any) -> None:
    """Make the keyspace and the tables where they are missing."""
    for statement in TABLES:
        session.execute(statement, timeout=TIMEOUT_S)


def count(session: Any) -> int:
    """Rows of usages, counted range by range."""
    statement = session.prepare(f"SELECT count(*) FROM {KEYSPACE}.usages WHERE token(id) >= ? AND token(id) <= ?")
    return sum(session.execute(statement, limits, timeout=TIMEOUT_S).one()[0] for limits in token_ranges())


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.baselines.fastapi_plain", description=__doc__)
    parser.add_argument("command", choices=["setup", "count"])
    command = parser.parse_args().command
    cluster, session = connect()
    try:
        if command == "setup":
            set_up(session)
        else:
            print(count(session))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()

"""What ``locust -f loadtest/locustfile.py`` loads: user classes, shapes, options, and what ties them together.

loadtest/README.md says how to use it; ``--help`` lists the options under "busyapi".
"""

from __future__ import annotations

import sys
from pathlib import Path

# Locust loads this file by its path, from whatever directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from locust import events

from loadtest.direction import direct
from loadtest.options import add_options
from loadtest.shapes import AbLadder, Burst, RampTo16k, Soak, Step
from loadtest.users import KeyedUsageUser, MessageUser, UsageUser

__all__ = ["AbLadder", "Burst", "KeyedUsageUser", "MessageUser", "RampTo16k", "Soak", "Step", "UsageUser"]


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(lambda environment, **_: direct(environment))

"""``python -m loadtest.generator``: the program by hand, its JSON lines as they come."""

from __future__ import annotations

import os
import sys

from loadtest.generator.binary import GeneratorMissing, build

try:
    program = str(build())
except GeneratorMissing as reason:
    sys.exit(str(reason))
os.execv(program, [program, *sys.argv[1:]])

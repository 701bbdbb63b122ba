"""A load generator in C, as cheap per request as they come, and what builds and runs it.

``python -m loadtest.generator --help`` lists what the program itself can do.
"""

from loadtest.generator.binary import GeneratorMissing, build
from loadtest.generator.driver import GeneratorFailed, Latency, Load, Mode, Outcome, run

__all__ = ["GeneratorFailed", "GeneratorMissing", "Latency", "Load", "Mode", "Outcome", "build", "run"]

"""The benchmark: every claim about speed as a ratio, measured in one run. ``python -m loadtest.benchmark --help``."""

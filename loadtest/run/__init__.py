"""One whole load test: starts what is tested, warms it, loads it with Locust, reconciles, reports. ``make load``."""

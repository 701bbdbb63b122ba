"""Load on the service: the benchmark with its load generator and the servers it compares with."""

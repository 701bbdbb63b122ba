"""Reports as pages that need nothing else: charts and tables for the benchmark, and all of a load test's run."""

"""Measurements, each as a ratio to a peer or a limit in the same run: `make bench` writes reports/bench.md."""

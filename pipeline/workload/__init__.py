"""Data sets, networks, the one training loop, evaluation, latency and reports."""

"""A zoo of tiny random networks of many architectures, on which everything is tried.

    python -m benchmarks.zoo [--only PATTERN …] [--metric weight input fisher] [--write]

`registry.NETWORKS` has the networks, `checks` what is done with each of them, `coverage` which part
of a network's weights is reached, `pages` writes docs/coverage.md and docs/coverage.json.
tests/zoo runs one network of each kind.
"""

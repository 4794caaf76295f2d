"""What benchmarks of a workspace are asked on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser_of_plans(description: str | None) -> argparse.ArgumentParser:
    """A parser for a workspace and the budgets of the plans that are compared in it."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--cost-unit", choices=("params", "macs"), default="params")
    parser.add_argument("--scope", choices=("network", "targets"), default="network")
    parser.add_argument("--budgets", type=float, nargs="+", required=True)
    return parser

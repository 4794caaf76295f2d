"""What the commands beside the chain have in common: their words, and their errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.machine.faults import one_line

_CONF = Path(__file__).resolve().parents[2] / "conf"


def run_command(usage: str | None, command: Callable[[Path, Sequence[str]], None]) -> None:
    """Calls the command with the folder conf/ and the arguments of the command line; without any,
    or for --help, the usage is shown. An error that a user can mend is one line, and exit code 1.
    """
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(usage)
        return
    with one_line(command.__name__, _CONF.parent):
        command(_CONF, arguments)

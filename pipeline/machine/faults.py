"""An error ends a program with one line; of what nobody foresaw the rest is in a log."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.lowrank.errors import LowRankError
from pipeline.machine.scratch import scratch

LOGS = "logs"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries that write by themselves tell of it.
_FULL_WORDS = (
    "No space left",
    "os error 28",
    "os error 27",
    "PytorchStreamWriter failed writing",
    "unexpected pos",
)
_MOST = 300  # characters of a foreign message


@contextmanager
def one_line(program: str, root: Path = Path()) -> Iterator[None]:
    """Ends the process with one line on stderr and exit code 1 where the block raises.

    A LowRankError is its own line. Any other is told by its first line, with the file that has
    its traceback: in the scratch folder (of `root`), named by the program and the time.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # who reads has enough, as head has: nothing failed here
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # the one place where all that is left is caught
        print(f"error: {told(error, program, root)}", file=sys.stderr)
        sys.exit(1)


def told(error: Exception, program: str, root: Path = Path()) -> str:
    """The one line for an error; what nobody foresaw is written to a log."""
    if isinstance(error, LowRankError):
        return str(error)
    first = " ".join(str(error).split())[:_MOST]
    if _is_full(error):
        return (
            f"{first}: the disk is full, or a file may not grow; free some space and run the same "
            "command again (a .dvc/tmp/rwlock that was cut by it: remove that file)"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return first
    return f"{type(error).__name__}: {first} ({_logged(error, program, root)})"


def _logged(error: Exception, program: str, root: Path) -> str:
    name = f"{Path(program).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    path = scratch(LOGS, root) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as reason:
        return f"unforeseen; its traceback could not be written: {reason}"
    return f"unforeseen; all of it is in {path}: please report it"


def _is_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it came from, is a file that could not grow."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(words in str(error) for words in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False

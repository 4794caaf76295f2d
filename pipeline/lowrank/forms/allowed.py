"""What a folder of somebody else's may name as its network's class: importing it runs its code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from torch import nn

from pipeline.lowrank.errors import LowRankError

# A package or module (all that it defines), the path of one class or function, or it itself.
Allowed: TypeAlias = str | type[nn.Module] | Callable[..., nn.Module]

# These build a network from their arguments alone: they import and fetch nothing that is named.
_KNOWN = ("torch.nn", "pipeline.models.resnet", "pipeline.models.huggingface.skeleton")


def check_named(target: str, allow: Iterable[Allowed]) -> None:
    """Raises LowRankError, before anything is imported, unless the target is torch's own, this
    project's, or lies in what is allowed."""
    names = [*_KNOWN, *map(_path, allow)]
    if not any(_inside(target, name) for name in names):
        raise _refused(target, target, str(target).partition(".")[0])


def check_defined(target: str, builder: object, allow: Iterable[Allowed]) -> None:
    """Raises LowRankError unless what the target led to is also defined there: a module that is
    allowed has names of others, which were not."""
    names = [*_KNOWN, *map(_path, allow)]
    home = str(getattr(builder, "__module__", ""))
    if target not in names and not any(_inside(f"{home}.", f"{name}.") for name in names):
        raise _refused(target, f"{target}, of {home},", target)


def _path(allowed: Allowed) -> str:
    """The import path of what is allowed."""
    return allowed if isinstance(allowed, str) else f"{allowed.__module__}.{allowed.__qualname__}"


def _inside(target: str, name: str) -> bool:
    return target == name or target.startswith(f"{name.rstrip('.')}.")


def _refused(target: str, told: str, line: str) -> LowRankError:
    return LowRankError(
        f"the folder names {told} as its network, whose code would run here: where you trust it, "
        f"allow={[line]} (of lr.load, or of the command), or lr.load_(network, folder) with the "
        "network that you built"
    )

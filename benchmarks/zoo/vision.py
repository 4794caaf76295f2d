"""Makes timm and torchvision importable, in this process only.

They lie in a folder of their own, `.venv/zoo` (requirements-zoo.lock), which importing this module
puts onto the path. PyPI's torchvision is built against PyPI's torch: beside another build of the
same version (the CPU build) its compiled operators, such as nms, do not load, and its import fails
where it declares what they give for fake tensors. That would break transformers too, which imports
torchvision wherever it finds it. No network of the zoo calls one of these operators, so their
declarations are left out. This has to happen before timm, torchvision or transformers is imported
for the first time; where these are not needed, do not import this module.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(sys.prefix, "zoo")
INSTALL = f"pip install --no-deps --target {FOLDER} -r requirements-zoo.lock"
_PREFIX = "torchvision::"


def is_installed() -> bool:
    """Whether the folder has timm and torchvision."""
    return all((FOLDER / name).is_dir() for name in ("timm", "torchvision"))


def import_vision() -> None:
    """Imports torchvision, whose operators may be missing."""
    if not is_installed():
        raise ModuleNotFoundError(f"timm and torchvision are not in {FOLDER}: {INSTALL}")
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    register = torch.library.register_fake

    def passing_over(op: Any, *given: Any, **named: Any) -> Any:
        if isinstance(op, str) and op.startswith(_PREFIX):
            return _as_it_is
        return register(op, *given, **named)

    torch.library.register_fake = passing_over  # type: ignore[assignment]
    try:
        importlib.import_module("torchvision")
    finally:
        torch.library.register_fake = register


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function

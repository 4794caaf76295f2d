"""Networks from what a file or a configuration says of them: an import path and arguments."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

from torch import nn

from pipeline.lowrank.errors import LowRankError, reason_of
from pipeline.lowrank.forms.allowed import Allowed, check_defined, check_named

BUILDER = "_lowrank_builder"  # attribute of a network that knows how it was built


def build_model(spec: Mapping[str, Any], allow: Iterable[Allowed] | None = None) -> nn.Module:
    """The module that a class or function returns.

    spec: `_target_`, the import path of the class or function, and keyword arguments for it. A
        function must say in its annotation that it returns an nn.Module: the path may come from a
        file of somebody else's, and nothing is called before it is known to build a network.
    allow: what the path may lead to beside torch's and this project's networks, see `load`. None:
        anything, of a spec that is the caller's own.

    Raises LowRankError where it is not allowed, cannot be imported or called, or makes no
    nn.Module.
    """
    arguments = {k: v for k, v in spec.items() if k != "_target_"}
    target = spec.get("_target_")
    if not target:
        raise LowRankError("model._target_ is empty: give the import path of an nn.Module class")
    if not isinstance(target, str):
        raise LowRankError(f"model._target_={target}: give the import path of an nn.Module class")
    allowed = None if allow is None else list(allow)
    if allowed is not None:
        check_named(target, allowed)
    try:
        builder = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise LowRankError(
            f"model._target_={target}: cannot be imported ({error}); the module must be on "
            "PYTHONPATH or in the directory of the command"
        ) from error
    if allowed is not None:
        check_defined(target, builder, allowed)
    _check_builder(target, builder)
    try:
        model = builder(**arguments)
    except LowRankError:
        raise
    except Exception as error:  # whatever a class does with arguments that are not for it
        raise LowRankError(
            f"model._target_={target}: {reason_of(error)}; correct the model section"
        ) from error
    if not isinstance(model, nn.Module):
        raise LowRankError(
            f"model._target_={target} gave a {type(model).__name__}, not an nn.Module"
        )
    setattr(model, BUILDER, dict(spec))
    return model


def known_builder(model: nn.Module) -> Mapping[str, Any] | None:
    """How the dense network is built, of one that `build_model` made; None for another one."""
    builder: Mapping[str, Any] | None = getattr(model, BUILDER, None)
    return builder


def _check_builder(target: str, builder: object) -> None:
    """Raises LowRankError unless this is a class of networks, or a function that says in its
    annotation that it returns one."""
    made: object = builder
    if not inspect.isclass(builder):
        try:
            made = get_type_hints(builder).get("return")
        except (NameError, TypeError, AttributeError):  # names that it doesn't have; no function
            made = None
    if not (inspect.isclass(made) and issubclass(made, nn.Module)):
        raise LowRankError(
            f"model._target_={target}: is not called, because it is neither a class of networks "
            "nor a function that is annotated to return one; give an nn.Module class, or annotate "
            "the function: def make(…) -> nn.Module"
        )

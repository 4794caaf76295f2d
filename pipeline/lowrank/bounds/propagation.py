"""A pass through the traced dense network, on which every value carries a bound on its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.lowrank.bounds import traced_functions as traced
from pipeline.lowrank.bounds.carried import (
    Carried,
    Gain,
    added,
    advance,
    concatenated,
    leaves,
    rearranged,
    values,
)
from pipeline.lowrank.bounds.constants import (
    batch_norm_gain,
    equal_modules,
    folded_into,
    function_gain,
    linear_gain,
    module_gain,
)
from pipeline.lowrank.bounds.linear import (
    LinearPair,
    NotCertifiedError,
    batch_norm_scale,
    example_norms,
    is_linear,
    matrix_norms,
    run,
)
from pipeline.lowrank.bounds.lipschitz import attention_refused, no_constant

_BatchNorm = nn.modules.batchnorm._BatchNorm


class Propagation:
    """The dense network as a graph beside the approximate one, both float64 and in eval mode.

    Raises NotCertifiedError where fx cannot trace the network.
    """

    def __init__(self, dense: nn.Module, approximate: nn.Module) -> None:
        # In a Sequential a network that is a single layer is a node like any other.
        self.dense, self.approximate = nn.Sequential(dense), nn.Sequential(approximate)
        try:
            self.graph = traced.Tracer().trace(self.dense)
        except Exception as error:  # the network's own code may raise anything on symbolic values
            first = (str(error).splitlines() or [""])[0]
            raise NotCertifiedError(f"torch.fx cannot trace the network: {first}") from error
        self._gains: dict[str, Gain] = {}
        self.matrix_norms: dict[str, tuple[float, float]] = {}

    @property
    def activation(self) -> float:
        """The largest Lipschitz constant of an activation in the network; 1 without any."""
        return max((gain.activation for gain in self._gains.values()), default=1.0)

    def run(self, inputs: Tensor, longest: float) -> Carried:
        """inputs (N, …) float64, each of norm ≤ longest → the network's output with its bounds.

        Raises NotCertifiedError at the first step for which no constant is known.
        """
        env: dict[fx.Node, Any] = {}
        self._left = {node: len(node.users) for node in self.graph.nodes}
        for node in self.graph.nodes:
            if node.op == "placeholder":
                env[node] = self._placeholder(node, env, inputs, longest)
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
            if node.op == "output":
                break
            try:
                env[node] = self._step(node, *self._apart(node, env, (args, kwargs)))
            except NotCertifiedError as reason:
                raise NotCertifiedError(f"at {_label(node)}: {reason}") from reason
            self._forget(node, env)
        result = args[0]
        if not isinstance(result, Carried):
            raise NotCertifiedError("the network's output is not one tensor that its input reaches")
        return result

    def _placeholder(self, node: fx.Node, env: dict[Any, Any], x: Tensor, longest: float) -> Any:
        if not env:
            return Carried(x.clone(), x.new_zeros(len(x)), longest, 0.0)
        if not node.args:
            raise NotCertifiedError(f"the network has a second input, {node.target!r}")
        return node.args[0]

    def _forget(self, node: fx.Node, env: dict[fx.Node, Any]) -> None:
        """Frees values that nothing reads any more."""
        for read in node.all_input_nodes:
            self._left[read] -= 1
            if not self._left[read]:
                del env[read]

    def _apart(self, node: fx.Node, env: dict[fx.Node, Any], given: Any) -> Any:
        """`given`, with copies of the values that an operation in place would change. Refused where
        the changed memory is read again under another name."""
        if not self._in_place(node):
            return given
        memory = {_storage(leaf) for leaf in leaves(given) if isinstance(leaf, Carried)}
        for other, carried in env.items():
            again = self._left[other] - (other in node.all_input_nodes)
            held = {_storage(leaf) for leaf in leaves(carried) if isinstance(leaf, Carried)}
            if again and held & memory:
                raise NotCertifiedError(
                    f"it works in place on {other.name}, which is read again later"
                )
        return fx.node.map_aggregate(
            given, lambda x: replace(x, value=x.value.clone()) if isinstance(x, Carried) else x
        )

    def _in_place(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return bool(getattr(self.dense.get_submodule(str(node.target)), "inplace", False))
        return node.op != "get_attr" and traced.in_place(node.target, node.kwargs)

    def _step(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        parts = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Carried)]
        call = self._caller(node)
        if not parts or traced.of_shape_only(node.target, args):
            return call(*values(args), **values(kwargs))
        if node.op == "call_module":
            return self._module(node, [*args, *kwargs.values()], parts)
        return self._function(node, args, kwargs, parts, call)

    def _caller(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "call_module":
            return self.dense.get_submodule(str(node.target))
        if node.op == "call_method":
            name = str(node.target)
            return lambda value, *args, **kwargs: getattr(value, name)(*args, **kwargs)
        assert callable(node.target)
        return node.target

    def _attribute(self, name: str) -> Tensor:
        path, _, last = name.rpartition(".")
        one, two = (getattr(n.get_submodule(path), last) for n in (self.dense, self.approximate))
        assert isinstance(one, Tensor)
        if not torch.equal(one, two):
            raise NotCertifiedError(f"{name} is not the same in both networks")
        return one.detach()

    # Layers.

    def _module(self, node: fx.Node, args: list[Any], parts: list[Carried]) -> Carried:
        name = str(node.target)
        dense, other = (n.get_submodule(name) for n in (self.dense, self.approximate))
        if len(args) != 1 or args[0] is not parts[0]:
            raise no_constant(dense)
        (carried,) = parts
        if is_linear(dense):
            return self._linear(node, carried, dense, other)
        if isinstance(dense, _BatchNorm):
            if folded_into(node, self.dense) is not None:
                return carried  # part of the linear map before it
            return self._batch_norm(node, carried, dense, other)
        if not equal_modules(dense, other):
            raise NotCertifiedError("the two networks differ here, in a layer that is not linear")
        gain = self._gain(node, lambda: module_gain(dense, carried.value))
        return advance(carried, gain, run(dense, carried.value), None)

    def _linear(
        self, node: fx.Node, carried: Carried, dense: nn.Module, other: nn.Module
    ) -> Carried:
        pair, maps = LinearPair(dense, other), (dense, other)
        norm = next((u for u in node.users if folded_into(u, self.dense) is node), None)
        if norm is not None:
            norms = [n.get_submodule(str(norm.target)) for n in (self.dense, self.approximate)]
            pair = LinearPair(dense, other, *(batch_norm_scale(n) for n in norms))
            maps = (nn.Sequential(dense, norms[0]), nn.Sequential(other, norms[1]))
        gain = self._gain(node, lambda: linear_gain(pair, maps, carried.value))
        if node.name not in self.matrix_norms:
            self.matrix_norms[node.name] = matrix_norms(pair)
        value = run(maps[0], carried.value)
        changed = gain.difference > 0 or gain.offset_difference > 0
        source = example_norms(value - run(maps[1], carried.value)) if changed else None
        return advance(carried, gain, value, source)

    def _batch_norm(
        self, node: fx.Node, carried: Carried, dense: nn.Module, other: nn.Module
    ) -> Carried:
        value = run(dense, carried.value)
        source = None
        if not equal_modules(dense, other):
            source = example_norms(value - run(other, carried.value))
        gain = self._gain(node, lambda: batch_norm_gain(dense, other, carried.value))
        return advance(carried, gain, value, source)

    # Functions and methods.

    def _function(
        self,
        node: fx.Node,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        parts: list[Carried],
        call: Callable[..., Any],
    ) -> Any:
        target = node.target
        if target in traced.PRODUCTS or (target in traced.MULTIPLY and len(parts) > 1):
            raise attention_refused(_label(node))
        if target in traced.REARRANGE:
            return rearranged(args, kwargs, parts, call)
        if target in traced.ADD + traced.SUBTRACT and len(args) == 2 and not kwargs:
            return added(args, parts, call)
        if target in traced.CONCATENATE:
            return concatenated(args, kwargs, parts, call)
        if target in traced.MULTIPLY and len(args) == 2:
            args = (parts[0], next(a for a in args if a is not parts[0]))
        if len(parts) != 1 or not args or args[0] is not parts[0]:
            raise NotCertifiedError("no rule for this function of these arguments")
        (carried,) = parts
        if target in traced.DROPOUT:
            if kwargs.get("training", args[2] if len(args) > 2 else True):
                raise NotCertifiedError("dropout is active in eval mode")
            return carried
        rest = args[1:]

        if target in traced.MULTIPLY:
            call = torch.mul  # a number may stand first

        def op(value: Tensor) -> Tensor:
            result: Tensor = call(value, *rest, **kwargs)
            return result

        gain = self._gain(node, lambda: function_gain(target, op, carried.value, rest, kwargs))
        return advance(carried, gain, op(carried.value), None)

    def _gain(self, node: fx.Node, make: Callable[[], Gain]) -> Gain:
        if node.name not in self._gains:
            self._gains[node.name] = make()
        return self._gains[node.name]


def _storage(carried: Carried) -> int:
    return carried.value.untyped_storage().data_ptr()


def _label(node: fx.Node) -> str:
    """The layer's name, without the wrapper's; a function's name as the graph has it."""
    if node.op == "call_module":
        return repr(str(node.target).partition(".")[2])
    return node.name

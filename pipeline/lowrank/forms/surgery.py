"""Surgery: dense layers out, factorized layers in."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms import get_form
from pipeline.lowrank.forms.base import Form
from pipeline.lowrank.forms.on_demand import LayerWeight, without_autocast
from pipeline.lowrank.forms.running import lay_out
from pipeline.lowrank.forms.stacked import multiplied_out, stack_weight
from pipeline.lowrank.network.kinds import (
    LOOKUPS,
    in_first,
    kind_of,
    plain_class,
    why_unknown,
)
from pipeline.lowrank.network.opening import module_at, opened
from pipeline.lowrank.network.stacks import Stack
from pipeline.lowrank.network.targets import (
    as_stored,
    dense_weight,
    groups_of,
    write_weight_,
)

# The attributes of an nn.Module that hold what was registered to run with a layer.
FORWARD_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
_HOOKS = (
    *FORWARD_HOOKS,
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
)


class Factorized(nn.Sequential):
    """A factorized layer: a Sequential of standard layers that can be made dense again.

    Its state dict, torch.compile, torch.export, ONNX and optimizers see plain torch layers. Code
    that reads the layer it replaced finds what it looks for: `weight` and `bias`, and the plain
    attributes, such as `in_features` or `stride`.
    """

    stands_for_one_layer: ClassVar[bool] = True
    # What torch.jit.script is not to compile.
    __jit_unused_properties__: ClassVar[list[str]] = ["factors", "weight", "bias"]

    def __init__(
        self,
        layers: Sequence[nn.Module],
        form: Form | str,
        ranks: Sequence[int],
        replaced: nn.Module | None = None,
    ) -> None:
        """layers: the modules that `form.layers` made for these ranks.
        form: the form, or its name.
        replaced: the dense layer, whose class and plain attributes are kept, not its weights.
        """
        super().__init__(*layers)
        self.form = get_form(form) if isinstance(form, str) else form
        self.ranks = tuple(ranks)
        self.replaced = None if replaced is None else plain_class(replaced)
        self.stored_as: tuple[bool, int] | None = None  # of a stack: (in_first, split)
        if isinstance(replaced, Stack):
            self.stored_as = (replaced.in_first, replaced.split)
        self._in_first = None if replaced is None else in_first(type(replaced))
        self._shape = None if replaced is None else weight_shape(replaced)
        self.facts = {} if replaced is None else plain_attributes(replaced)
        self._is_channels_last = replaced is not None and _is_channels_last(replaced)
        for key, value in self.facts.items():
            if not hasattr(type(self), key) and key not in self.__dict__:
                setattr(self, key, value)

    def extra_repr(self) -> str:
        return f"form={self.form.name}, ranks={self.ranks}"

    @property
    def factors(self) -> list[Tensor]:
        """The factors that the layers hold, first to last."""
        return [factor.detach() for factor in self.form.stored(list(self))]

    @property
    def weight(self) -> Tensor:
        """The factors multiplied out, as the dense layer stored its weight: in its shape, layout
        and dtype. Gradients reach the factors; what is written into it is lost. It is multiplied
        out when its numbers are asked for: not for its dtype or shape, nor for a product with it,
        which the factors do."""
        if self._shape is None or torch.compiler.is_compiling():
            return self._multiplied_out()
        if self.stored_as is not None:
            return stack_weight(list(self), *self.stored_as, self._shape)
        return LayerWeight.of(self, self._multiplied_out, self._shape, self._in_first)

    def _multiplied_out(self) -> Tensor:
        if self.stored_as is not None and self._shape is not None:
            return multiplied_out(list(self), *self.stored_as, self._shape)
        factors = self.form.stored(list(self))
        with without_autocast(factors[0]):
            weight = self.form.reconstruct(factors)
        if self.replaced is not None:
            weight = as_stored(self.replaced, weight, groups_of(self))
        if self._is_channels_last:
            return weight.contiguous(memory_format=torch.channels_last)
        return weight.contiguous()

    @property
    def bias(self) -> Tensor | None:
        """The bias, which is that of the last layer; None where there is none."""
        bias: Tensor | None = getattr(self[-1], "bias", None)
        return bias

    def dense_weight(self) -> Tensor:
        """The weight (out, in / groups, *kernel) that the factors stand for, in float64."""
        return self.form.reconstruct([f.to(torch.float64) for f in self.factors])

    @torch.no_grad()
    def as_dense(self) -> nn.Module:
        """A new dense layer of the class that was replaced, with the factors multiplied out."""
        if self.replaced is None:
            raise LowRankError("this layer does not know which layer it replaced: use to_dense")
        dense = self.replaced.__new__(self.replaced)
        nn.Module.__init__(dense)
        dense.__dict__.update(copy.deepcopy(self.facts))
        trained = any(f.requires_grad for f in self.form.stored(list(self)))
        dense.weight = nn.Parameter(self._multiplied_out(), trained)
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        elif not issubclass(self.replaced, (*LOOKUPS, Stack)):
            dense.register_parameter("bias", None)
        dense.train(self.training)
        for hooks in _HOOKS:
            setattr(dense, hooks, getattr(self, hooks))
        return dense

    def to_dense(self, like: nn.Module) -> nn.Module:
        """A copy of the dense layer `like` (stride, padding, …) with the factors multiplied out."""
        dense = copy.deepcopy(like)
        with torch.no_grad():
            write_weight_(dense, self.dense_weight())
            if getattr(dense, "bias", None) is not None:
                dense.bias.copy_(self[-1].bias)  # type: ignore[operator,arg-type]
        return dense


def plain_attributes(module: nn.Module) -> dict[str, object]:
    """The attributes of a layer that describe it: numbers, strings, None, and tuples and lists of
    these; not its weights, submodules and hooks, nor the mode it is in."""
    own = vars(nn.Module())
    return {k: v for k, v in vars(module).items() if k not in own and _is_plain(v)}


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape of the weight as the layer stores it."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return tuple(weight.shape)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)


def check_ranks_fit(name: str, module: nn.Module, form: Form, ranks: Sequence[int]) -> None:
    """Raises LowRankError when the ranks do not fit the layer `module`, or when no form fits it."""
    if kind_of(module) is None:
        raise LowRankError(
            f"layer {name!r} is a {type(module).__name__}: {why_unknown(module)}; leave it out of "
            "the plan"
        )
    outputs, *others = dense_weight(module).shape
    shape = (outputs // groups_of(module), *others)
    if problem := form.check_ranks(shape, ranks):
        raise LowRankError(
            f"layer {name!r} ({' × '.join(map(str, [outputs, *others]))}): {problem}; make the "
            "plan again with rank-select, or correct it"
        )


def unfilled(name: str, module: nn.Module, form: Form, ranks: Sequence[int]) -> Factorized:
    """The factorized layer with uninitialised weights, ready to take the place of `module`: with
    its device, dtype, memory format, training mode, hooks and frozen state.

    Raises LowRankError when the ranks do not fit the layer.
    """
    check_ranks_fit(name, module, form, ranks)
    built = Factorized(form.layers(module, ranks), form, ranks, module).train(module.training)
    bias = getattr(module, "bias", None)
    others = (p for key, p in module.named_parameters() if key != "bias")
    trained = any(parameter.requires_grad for parameter in others)
    biased = trained if bias is None else bool(bias.requires_grad)
    for key, parameter in built.named_parameters():
        parameter.requires_grad_(biased if key.endswith("bias") else trained)
    if _is_channels_last(module):
        lay_out(built, torch.channels_last)
    for hooks in _HOOKS:  # the very same tables, so that their handles still remove them
        setattr(built, hooks, getattr(module, hooks))
    return built


def _is_channels_last(module: nn.Module) -> bool:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return (
        weight.dim() == 4
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not weight.is_contiguous()
    )


def fill_(layer: Factorized, factors: Sequence[Tensor], bias: Tensor | None) -> None:
    """Copies factors, balanced, and the dense layer's bias into an unfilled layer, in the layer's
    own dtype."""
    with torch.no_grad():
        layer.form.store(list(layer), layer.form.balanced(factors))
        if bias is not None:
            layer[-1].bias.copy_(bias)  # type: ignore[operator]


def shift_bias_(layer: Factorized, update: Tensor) -> None:
    """Adds `update` (out,) to the bias, in the layer's own dtype."""
    with torch.no_grad():
        layer[-1].bias.add_(update.to(layer[-1].bias.dtype))  # type: ignore[operator,arg-type]


def layer_at(model: nn.Module, name: str, *, in_first: bool = False, split: int = 0) -> nn.Module:
    """The module `name` of the model, also inside of a packed module, or a stack.

    in_first, split: how a stack is stored that is a parameter still.

    Raises LowRankError if the model has none.
    """
    try:
        return module_at(model, name, in_first=in_first, split=split)
    except AttributeError as error:
        with opened(model):
            known = [n for n, m in model.named_modules() if kind_of(m)]
        more = " …" if len(known) > 20 else ""
        raise LowRankError(
            f"the plan names the layer {name!r}, which the model does not have (it has "
            f"{', '.join(known[:20])}{more}); make the plan for this model"
        ) from error

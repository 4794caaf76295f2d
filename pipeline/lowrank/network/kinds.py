"""The kinds of layers that have factorized forms, and which layers behave as one of them.

A subclass of a torch layer may do anything with its weight. It counts as its parent where it runs
the parent's own code, and else where it gives the parent's output for a weight and inputs that are
drawn for the purpose: that needs no data, so a network that a plan is applied to, or that a file is
loaded into, is judged as the one that was analyzed. Where a layer computes its weight of what it
holds, whatever the input, that weight is what is factorized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from pipeline.lowrank.network.probing import shown_by
from pipeline.lowrank.network.same_padding import SAME, same_padding
from pipeline.lowrank.network.stacks import Stack

KINDS: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
    nn.Embedding: "embedding",
    nn.EmbeddingBag: "embedding_bag",
}
LOOKUPS = (nn.Embedding, nn.EmbeddingBag)  # they read rows of their weight by number
# transformers' Conv1D, known by its name so that nothing here needs transformers. Its weight is
# stored (in, out).
_TRANSPOSED_LINEAR = "transformers.pytorch_utils.Conv1D"
_CODE = ("__call__", "forward", "_conv_forward", "_output_padding")
_PROVEN: dict[str, Behaviour | None] = {}


@dataclass(frozen=True)
class Behaviour:
    """What a layer computes.

    kind: that of the torch layer with its weight, its bias and its options.
    same_padding: a convolution that pads its input with zeros as its size asks for, so that every
        stride gives an output position (TensorFlow's SAME).
    computed: the weight is none of its parameters: it computes it of them in every call, by a
        parametrization of torch or by its own code, whatever the input.
    """

    kind: str
    same_padding: bool = False
    computed: bool = False


def behaviour_of(module: nn.Module) -> Behaviour | None:
    """What the layer computes; None where it has no factorized form, or does not do what its class
    says."""
    if isinstance(module, Stack):
        return Behaviour("stack")
    if is_transposed_linear(type(module)):
        return Behaviour("linear")
    base = base_of(type(module))
    if base is None or _own_forward(module):
        return None
    if _is_parametrized(module):
        return Behaviour(KINDS[base], computed=True) if runs_parents_code(module) else None
    further = _further(module, base)
    if "weight" not in module._parameters or further - module._parameters.keys():
        return None
    if runs_parents_code(module):
        return None if further else Behaviour(KINDS[base])
    return _proven(module, base)


def runs_parents_code(module: nn.Module) -> bool:
    """Whether a layer, or one of a subclass, runs the code of a torch layer of `KINDS`, whatever it
    takes its weight from."""
    cls, base = type(module), base_of(type(module))
    same = (getattr(cls, name, None) is getattr(base, name, None) for name in _CODE)
    return base is not None and not _own_forward(module) and all(same)


def padding_of(
    module: nn.modules.conv._ConvNd, sizes: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """(before, after) each axis of an image of these sizes, what a convolution puts around it. A
    transposed one puts it around the image with its strides' zeros between the positions; what is
    negative there is cut off."""
    if module.transposed:
        assert not isinstance(module.padding, str)
        geometry = zip(module.kernel_size, module.dilation, module.padding, strict=True)
        around = [(k - 1) * d - cut for k, d, cut in geometry]
        return tuple((a, a + m) for a, m in zip(around, module.output_padding, strict=True))
    behaviour = behaviour_of(module)
    if behaviour is not None and behaviour.same_padding:
        return same_padding(sizes, module.kernel_size, module.stride, module.dilation)
    pads = module._reversed_padding_repeated_twice  # last axis first, (before, after) each
    return tuple(zip(pads[0::2][::-1], pads[1::2][::-1], strict=True))


def why_unknown(module: nn.Module) -> str:
    """Why a layer without a behaviour has none."""
    name, base = type(module).__name__, base_of(type(module))
    if base is None:
        return f"{name} has no factorized form here"
    if _own_forward(module):
        return f"this {name} has no factorized form: its forward was replaced on the object"
    if "weight" not in module._parameters:
        return f"{name} has no factorized form: it computes its weight anew in every call"
    if further := _further(module, base):
        held = ", ".join(sorted(further))
        return f"{name} has no factorized form: it holds more than a weight and a bias ({held})"
    return (
        f"{name} has no factorized form: with the same weight and input it gives another output "
        f"than {base.__name__}"
    )


def kind_of(module: nn.Module) -> str | None:
    """The name of the layer's kind, or None where it has no factorized form."""
    found = behaviour_of(module)
    return None if found is None else found.kind


def base_of(cls: type[nn.Module]) -> type[nn.Module] | None:
    """The torch layer that a class is or inherits from; None where it is none of `KINDS`."""
    return next((base for base in KINDS if issubclass(cls, base)), None)


def is_transposed_linear(cls: type[nn.Module]) -> bool:
    """Whether this is the class of linear layers of transformers that store (in, out)."""
    return f"{cls.__module__}.{cls.__qualname__}" == _TRANSPOSED_LINEAR


def in_first(cls: type[nn.Module]) -> bool | None:
    """Whether linear layers of this class store the inputs before the outputs; None for a class of
    other layers."""
    return (
        is_transposed_linear(cls)
        if issubclass(cls, nn.Linear) or is_transposed_linear(cls)
        else None
    )


def computes_weight(module: nn.Module) -> bool:
    """Whether a layer of a known kind computes its weight anew in every call."""
    behaviour = None if type(module) in KINDS else behaviour_of(module)
    return behaviour is not None and behaviour.computed


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class of a layer that has as its weight what `module`, of a known kind, computes: its own
    class where it computes none."""
    base, behaviour = base_of(type(module)), behaviour_of(module)
    if base is None or behaviour is None or not behaviour.computed:
        return type(module)
    return SAME[behaviour.kind] if behaviour.same_padding else base


def _further(module: nn.Module, base: type[nn.Module]) -> set[str]:
    """What a layer holds that its factors would not have."""
    if type(module) is base:
        return set()
    return {*module._parameters, *module._buffers, *module._modules} - {"weight", "bias"}


def _is_parametrized(module: nn.Module) -> bool:
    """Whether torch's parametrizations make the layer's weight, and it holds nothing else."""
    others = {*module._parameters, *module._buffers, *module._modules}
    return is_parametrized(module, "weight") and others <= {"bias", "parametrizations"}


def _own_forward(module: nn.Module) -> bool:
    return "forward" in vars(module)


def _proven(module: nn.Module, base: type[nn.Module]) -> Behaviour | None:
    """What the layer is seen to compute, once for all layers of one class and the same options."""
    own = vars(nn.Module())
    options = {key: value for key, value in sorted(vars(module).items()) if key not in own}
    shapes = {key: value is not None and value.shape for key, value in module._parameters.items()}
    key = f"{type(module)} {id(type(module))} {shapes} {options}"
    if key not in _PROVEN:
        same = SAME.get(KINDS[base])
        shown = shown_by(module, [base] if same is None else [base, same])
        _PROVEN[key] = (
            None if shown is None else Behaviour(KINDS[base], shown.cls is same, shown.computed)
        )
    return _PROVEN[key]

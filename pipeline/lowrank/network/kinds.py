"""The kinds of layers that have factorized forms, and which layers behave as one of them.

A subclass of a torch layer may do anything with its weight. It counts as its parent where it runs
the parent's own code, and else where it gives the parent's output for a weight and inputs that are
drawn for the purpose: that needs no data, so a network that a plan is applied to, or that a file is
loaded into, is judged as the one that was analyzed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
}
# transformers' Conv1D, known by its name so that nothing here needs transformers. Its weight is
# stored (in, out).
_TRANSPOSED_LINEAR = "transformers.pytorch_utils.Conv1D"
_CODE = ("__call__", "forward", "_conv_forward", "_output_padding")
_CLOSE = 1e-4  # of the largest output: float32's rounding, whatever the order of its sums
_PROVEN: dict[str, Behaviour | None] = {}


@dataclass(frozen=True)
class Behaviour:
    """What a layer computes.

    kind: that of the torch layer with its weight, its bias and its options.
    same_padding: a convolution that pads its input with zeros as its size asks for, so that every
        stride gives an output position (TensorFlow's SAME).
    """

    kind: str
    same_padding: bool = False


def behaviour_of(module: nn.Module) -> Behaviour | None:
    """What the layer computes; None where it has no factorized form, or does not do what its class
    says."""
    if isinstance(module, Stack):
        return Behaviour("stack")
    if is_transposed_linear(type(module)):
        return Behaviour("linear")
    base = base_of(type(module))
    if base is None or _own_forward(module) or further_state(module, base):
        return None
    return Behaviour(KINDS[base]) if runs_parents_code(module) else _proven(module, base)


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
    if further := further_state(module, base):
        return f"{name} has no factorized form: it {further}"
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


def further_state(module: nn.Module, base: type[nn.Module]) -> str | None:
    """What a layer holds that its factors would not have; None where that is nothing."""
    if "weight" not in module._parameters:
        return "computes its weight anew in every call"
    if type(module) is base:
        return None
    own = {*module._parameters, *module._buffers, *module._modules} - {"weight", "bias"}
    return f"holds more than a weight and a bias ({', '.join(sorted(own))})" if own else None


def _own_forward(module: nn.Module) -> bool:
    return "forward" in vars(module)


def _proven(module: nn.Module, base: type[nn.Module]) -> Behaviour | None:
    """`_tried`, once for all layers of one class and the same options."""
    own = vars(nn.Module())
    options = {key: value for key, value in sorted(vars(module).items()) if key not in own}
    shapes = {key: value is not None and value.shape for key, value in module._parameters.items()}
    key = f"{type(module)} {id(type(module))} {shapes} {options}"
    if key not in _PROVEN:
        _PROVEN[key] = _tried(module, base)
    return _PROVEN[key]


def _tried(module: nn.Module, base: type[nn.Module]) -> Behaviour | None:
    """What a copy of the layer with a drawn weight shows on drawn inputs."""
    kind, generator = KINDS[base], torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            twin = _twin(module, type(module), generator)
            inputs = _inputs(twin, generator)
            found = [twin(value) for value in inputs]
        except Exception:  # whatever other people's code raises
            return None
        for cls, behaviour in _behaviours(kind, base):
            generator.manual_seed(0)
            known = _twin(module, cls, generator)
            if all(_equal(one, known(value)) for one, value in zip(found, inputs, strict=True)):
                return behaviour
    return None


def _behaviours(kind: str, base: type[nn.Module]) -> Iterator[tuple[type[nn.Module], Behaviour]]:
    yield base, Behaviour(kind)
    if kind in SAME:
        yield SAME[kind], Behaviour(kind, same_padding=True)


def _twin(module: nn.Module, cls: type[nn.Module], generator: torch.Generator) -> nn.Module:
    """A layer of the class with the options of `module`, in eval mode, on the CPU, without hooks,
    with a drawn weight and bias."""
    twin = cls.__new__(cls)
    nn.Module.__init__(twin)
    own = vars(twin).keys()
    twin.__dict__.update({key: value for key, value in vars(module).items() if key not in own})
    for key, value in module._parameters.items():
        drawn = None if value is None else torch.randn(value.shape, generator=generator)
        twin.register_parameter(key, None if drawn is None else nn.Parameter(drawn))
    return twin.eval()


def _inputs(module: nn.Module, generator: torch.Generator) -> list[Tensor]:
    """Inputs of two sizes: of one alone, two paddings may be the same."""
    if isinstance(module, nn.Embedding):
        shapes = [(2, 3), (5,)]
        return [torch.randint(module.num_embeddings, s, generator=generator) for s in shapes]
    if isinstance(module, nn.Linear):
        shapes = [(2, module.in_features), (2, 3, module.in_features)]
    else:
        assert isinstance(module, nn.modules.conv._ConvNd)
        geometry = zip(module.kernel_size, module.stride, module.dilation, strict=True)
        sizes = [(k - 1) * d + 1 + 2 * s for k, s, d in geometry]
        shapes = [(2, module.in_channels, *(size + more for size in sizes)) for more in (0, 1)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _equal(one: object, other: Tensor) -> bool:
    if not isinstance(one, Tensor) or one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= _CLOSE * other.abs().max())

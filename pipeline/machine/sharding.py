"""FSDP: parameters, gradients and the optimizer's state are shared out among processes, each of
which holds a part and gathers a block when it runs. By torch's fully_shard, through Fabric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.strategy import Strategy
    from torch.distributed.device_mesh import DeviceMesh

FSDP = "fsdp"  # as in fabric.strategy


def sharing_strategy(processes: int) -> Strategy:
    """Fabric's strategy that shares out what it trains among so many processes. What is kept of a
    training is one file. Raises LowRankError for one process."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if processes == 1:
        raise LowRankError(
            "fabric.strategy=fsdp: there is one process, and nothing to share out; set "
            "fabric.devices, or choose fabric.strategy=auto"
        )
    return ModelParallelStrategy(share_, processes, 1, save_distributed_checkpoint=False)


def is_shared(fabric: Fabric) -> bool:
    """Whether the strategy is that of `sharing_strategy`."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return isinstance(fabric.strategy, ModelParallelStrategy)


def share_(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shares out the parameters of a network in place: those of each block, and those of the rest,
    belong together and are gathered at once."""
    from torch.distributed.fsdp import fully_shard

    places = mesh["data_parallel"]
    for block in _blocks(model):
        fully_shard(block, mesh=places)
    fully_shard(model, mesh=places, reshard_after_forward=True)
    return model


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The entries of outermost ModuleLists, as the blocks of a transformer, that hold parameters
    which nothing outside of them has too."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    inside: set[nn.Module] = set()
    for module in model.modules():
        if not isinstance(module, nn.ModuleList) or module in inside:
            continue
        for entry in module:
            inside.update(entry.modules())
            own = Counter(id(p) for _, p in entry.named_parameters(remove_duplicate=False))
            runs = not isinstance(entry, nn.ModuleList | nn.ModuleDict)
            if runs and own and all(uses[one] == count for one, count in own.items()):
                yield entry


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """A context in which every process holds all parameters, and calls the network without the
    others. Nothing changes for a network that is not shared out."""
    # Known by what it can, since the import takes a second that ordinary trainings spare.
    parts: list[Any] = [one for one in model.modules() if hasattr(one, "set_reshard_after_forward")]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


def whole(tensor: Any) -> Tensor:
    """The tensor, gathered where each process holds a part of it."""
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def become_(model: nn.Module, plain: nn.Module) -> None:
    """Makes a network that is shared out the plain one that is given: a copy from before, since
    torch has no way back."""
    model.__class__ = type(plain)
    vars(model).clear()
    vars(model).update(vars(plain))

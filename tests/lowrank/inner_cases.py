"""Small networks with inner dimensions, and with channels that only look like one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.resnet import ResNet


class Gated(nn.Module):
    """A gated MLP on a residual stream; gate and value by one layer where they are `fused`."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.up = nn.Linear(12, 60 if fused else 30)
        self.gate = None if fused else nn.Linear(12, 30, bias=False)
        self.down, self.head = nn.Linear(30, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        read = self.norm(x)
        up = self.up(read)
        gate, value = up.chunk(2, -1) if self.gate is None else (self.gate(read), up)
        x = x + self.down(functional.silu(gate) * value)
        found: Tensor = self.head(self.norm(x)).mean(1)
        return found


class Inverted(nn.Module):
    """Expand, depthwise, squeeze and excite, project."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.activation = nn.PReLU(16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project, self.head = nn.Conv2d(16, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.depthwise(functional.relu(self.norm(self.expand(x)))))
        x = x * self.excite(functional.silu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        found: Tensor = self.head(self.project(x).mean((2, 3)))
        return found


class Pair(nn.Module):
    """Two layers with `between` them, and a second reader `aside` of the hidden channels."""

    def __init__(
        self, between: Callable[[Tensor], Tensor], aside: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.between, self.aside = between, aside

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.between(self.first(x))
        found: Tensor = self.second(hidden)
        return found if self.aside is None else found + self.aside(hidden)


class Attention(nn.Module):
    """Six heads of four channels that share three heads of keys and values; as many heads as the
    layers make, or as many as were `counted`."""

    def __init__(self, *, counted: bool) -> None:
        super().__init__()
        self.counts = (6, 3, 3) if counted else (-1, -1, -1)
        self.q, self.k, self.v = nn.Linear(8, 24), nn.Linear(8, 12), nn.Linear(8, 12)
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        made = zip((self.q, self.k, self.v), self.counts, strict=True)
        heads = [m(x).unflatten(-1, (count, 4)).transpose(1, 2) for m, count in made]
        mixed = functional.scaled_dot_product_attention(*heads, enable_gqa=True)
        found: Tensor = self.out(mixed.transpose(1, 2).flatten(2)).mean(1)
        return found


class Counting(nn.Module):
    """Attention that counts six heads, of three heads of keys and values, and has a number for each
    of them; it is the third of something too, which is no number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.place = 6, 3, 3
        self.norm, self.q, self.k = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 12)
        self.v, self.out = nn.Linear(8, 12), nn.Linear(24, 8)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x, counts = self.norm(x), (self.heads, self.kv_heads, self.kv_heads)
        made = zip((self.q, self.k, self.v), counts, strict=True)
        q, k, v = (m(x).reshape(*x.shape[:2], n, 4).transpose(1, 2) for m, n in made)
        mixed = functional.scaled_dot_product_attention(
            q * self.scale[:, None, None], k, v, enable_gqa=True
        )
        found: Tensor = self.out(mixed.transpose(1, 2).reshape(*x.shape[:2], self.heads * 4))
        return found


class Shared(nn.Module):
    """Blocks that add a constant of the first one's size inside of each, so that all need as many
    channels, as attention with a bias that it shares does."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_mlp(nn.ReLU(), outputs=6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        constant = None
        for first, _, last in self.blocks:  # type: ignore[misc]
            inside = first(x)
            constant = torch.ones(inside.shape[-1]) if constant is None else constant
            x = x + last(functional.relu(inside + constant))
        return x.square()


class Frozen(nn.Module):
    """A norm whose numbers are buffers, and that knows no size, as detectors have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(channels) + 0.5)
        self.register_buffer("shift", torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x * self.scale + self.shift
        return found


class NormAndActivation(nn.BatchNorm1d):
    """A norm that holds an activation, as timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.activation(super().forward(x))
        return found


@dataclass(frozen=True)
class InnerCase:
    """A network, one example's shape, and its dimensions: {name: its width}.

    left: {name: words of the reason} of channels that are none.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    found: dict[str, int]
    left: dict[str, str]

    def network(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The seeded network, in eval mode; norms have statistics of their own."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = self.make()
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.5, 2.0)
                    nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
                    nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
        return net.to(dtype).eval()

    def inputs(self, count: int = 64, dtype: torch.dtype = torch.float64) -> Tensor:
        drawn = torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(1))
        return drawn.abs().mul(7).long() % 20 if self.name == "table" else drawn.to(dtype)


def _mlp(*between: nn.Module, outputs: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), *between, nn.Linear(16, outputs))


FOUND = [
    InnerCase("mlp", lambda: _mlp(nn.GELU()), (6,), {"2": 16}, {}),
    InnerCase("norm", lambda: _mlp(NormAndActivation(16)), (6,), {"2": 16}, {}),
    InnerCase("frozen norm", lambda: _mlp(Frozen(16), nn.ReLU()), (6,), {"3": 16}, {}),
    InnerCase("heads", lambda: Attention(counted=False), (4, 8), {"out": 3}, {}),
    InnerCase(
        "counting",
        lambda: nn.Sequential(Counting(), nn.Flatten(), nn.Linear(32, 3)),
        (4, 8),
        {"0.out": 3},
        {"2": "shares 0.out"},
    ),
    InnerCase("gated", lambda: Gated(fused=False), (3, 12), {"down": 30}, {"head": "fails"}),
    InnerCase("fused gate", lambda: Gated(fused=True), (3, 12), {"down": 30}, {"head": "fails"}),
    InnerCase(
        "residual CNN",
        lambda: ResNet(widths=(6, 8), blocks=(1, 1), hidden=12, pool=2),
        (1, 8, 8),
        {"blocks.0.conv2": 6, "blocks.1.conv2": 8, "head.2": 12},
        {"blocks.0.conv1": "shares", "head.0": "shares"},
    ),
    InnerCase(
        "inverted",
        Inverted,
        (3, 5, 5),
        {"squeeze": 16},
        {"excite": "shares squeeze with the dimension before squeeze", "head": "shares project"},
    ),
    InnerCase(
        "flattened image",
        lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4)),
        (2, 5, 5),
        {"3": 6},
        {},
    ),
    InnerCase(
        "table",
        lambda: nn.Sequential(nn.Embedding(20, 8), nn.Tanh(), nn.Linear(8, 5), nn.Flatten()),
        (4,),
        {"2": 8},
        {},
    ),
    InnerCase(
        "packed",
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0),
            nn.Linear(8, 3),
            nn.Flatten(),
        ),
        (4, 8),
        {"0.linear2": 12, "0.self_attn.out_proj": 2},
        {"0.linear1": "fails"},
    ),
]
LEFT = [
    InnerCase("counted heads", lambda: Attention(counted=True), (4, 8), {}, {"out": "fails"}),
    InnerCase("summed", lambda: Pair(lambda h: h.cumsum(-1)), (6,), {}, {"second": "not the one"}),
    InnerCase(
        "softmax", lambda: Pair(lambda h: h.softmax(-1)), (6,), {}, {"second": "not the one"}
    ),
    InnerCase("sorted", lambda: Pair(lambda h: h.sort(-1).values), (6,), {}, {"second": "not the"}),
    InnerCase("turned", lambda: Pair(lambda h: h.flip(-1)), (6,), {}, {"second": "not the one"}),
    InnerCase(
        "read by a sum",
        lambda: Pair(torch.relu, lambda h: h.sum(-1, keepdim=True)),
        (6,),
        {},
        {"second": "outputs of the network"},
    ),
    InnerCase(
        "shuffled",
        lambda: Pair(lambda h: h.view(-1, 2, 4).transpose(1, 2).flatten(1)),
        (6,),
        {},
        {"second": "fails"},
    ),
    InnerCase(
        "one reader is grouped",
        lambda: nn.Sequential(nn.Conv1d(3, 8, 1), nn.Conv1d(8, 6, 1, groups=2)),
        (3, 4),
        {},
        {"1": "grouped convolution"},
    ),
    InnerCase(
        "shared",
        Shared,
        (6,),
        {},
        {
            **{f"blocks.{n}.2": "fails" for n in range(3)},
            "blocks.1.0": "outputs of the network",
        },
    ),
]


def named(name: str) -> InnerCase:
    return next(case for case in FOUND if case.name == name)

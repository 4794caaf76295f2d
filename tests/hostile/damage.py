"""Damage to a file, drawn by hypothesis: of its bytes, and of the values of its JSON."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

# What is no value of the type that is expected, or one out of any range.
_HOSTILE: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, -0.0, "", "x", "../../x",
    "/etc/passwd", "\x00", "é\u2028", [], [[]], [None], ["x"], [0], [-1], [2**40], {}, {"x": {}},
    {"_target_": "os.system"}, float("nan"), float("inf"),
]  # fmt: skip


@dataclass(frozen=True)
class Damage:
    """kind: what is done; at: where, as a share of the whole; value: what is put there."""

    kind: str
    at: float
    value: Any

    def __call__(self, content: bytes) -> bytes:
        """The damaged content. JSON is edited where the file is JSON, or begins with it as
        safetensors do; else a byte is flipped."""
        place = int(self.at * len(content))
        if self.kind == "cut":
            return content[:place]
        if self.kind == "flip":
            return (
                content[:place]
                + bytes(b ^ 0x55 for b in content[place : place + 1])
                + (content[place + 1 :])
            )
        if self.kind == "put":
            return content[:place] + self.value + content[place:]
        if self.kind == "replace":
            return bytes(self.value)
        return _edited(content, self) or Damage("flip", self.at, None)(content)


def damages() -> st.SearchStrategy[Damage]:
    """Edits of values weigh more than damaged bytes: those are told by checksums and parsers."""
    where = st.floats(0, 1, exclude_max=True, width=32)
    small = st.binary(min_size=1, max_size=12)
    values = st.one_of(
        st.sampled_from(_HOSTILE), st.integers(), st.text(max_size=4), st.floats(width=32)
    )
    edit = st.builds(Damage, st.sampled_from(["set", "drop", "add", "twice"]), where, values)
    return st.one_of(
        edit,
        edit,
        edit,
        st.builds(Damage, st.just("cut"), where, st.none()),
        st.builds(Damage, st.just("flip"), where, st.none()),
        st.builds(Damage, st.just("put"), where, small),
        st.builds(Damage, st.just("replace"), where, st.one_of(st.binary(max_size=40), small)),
    )


def _edited(content: bytes, damage: Damage) -> bytes | None:
    """JSON, JSON Lines and the header of safetensors with one value changed; None for others."""
    try:
        return _dump(_change(json.loads(content), damage)).encode()
    except (ValueError, RecursionError):
        pass
    if len(content) > 8 and content[8:9] == b"{":  # safetensors: a length, a header, numbers
        (size,) = struct.unpack("<Q", content[:8])
        try:
            header = _dump(_change(json.loads(content[8 : 8 + size]), damage)).encode()
        except ValueError:
            return None
        return struct.pack("<Q", len(header)) + header + content[8 + size :]
    if content[:1] == b"{":
        lines = content.splitlines()
        number = int(damage.at * len(lines))
        try:
            lines[number] = _dump(_change(json.loads(lines[number]), damage)).encode()
        except ValueError:
            return None
        return b"\n".join(lines)
    return None


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()


def _change(value: Any, damage: Damage) -> Any:
    """The JSON value with one of its parts changed: the one at the share `at` of all parts."""
    parts = list(_parts(value))
    if not parts:
        return damage.value
    holder, key = parts[int(damage.at * len(parts))]
    if damage.kind == "set":
        holder[key] = damage.value
    elif damage.kind == "drop":
        del holder[key]
    elif isinstance(holder, dict):
        holder["more" if damage.kind == "add" else f"{key} "] = damage.value
    else:
        holder.insert(key, damage.value if damage.kind == "add" else holder[key])
    return value


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside, however deep."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in list(items) if isinstance(value, dict | list) else []:
        yield value, key
        if isinstance(one, dict | list):
            yield from _parts(one)

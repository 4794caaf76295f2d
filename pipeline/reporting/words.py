"""Numbers as people read them."""

from __future__ import annotations

_THOUSAND = 1000.0


def percent(fraction: float) -> str:
    """Whole percent, and one decimal below 1: 19 %, 0.4 %."""
    return f"{100 * fraction:.{0 if fraction >= 0.0095 or fraction == 0 else 1}f} %"


def human_count(value: int) -> str:
    """Three digits and a unit: 950, 76.8 k, 1.23 M."""
    return _scaled(float(value), ("", " k", " M", " G", " T", " P"))


def human_bytes(value: int) -> str:
    """Decimal bytes: 950 B, 76.8 kB, 1.23 MB."""
    return _scaled(float(value), (" B", " kB", " MB", " GB", " TB", " PB"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    if value < _THOUSAND:
        return f"{value:.0f}{units[0]}"
    for unit in units[1:-1]:
        value /= _THOUSAND
        # 999.95 would be written as 1000 in this unit.
        if value < 999.5:
            return f"{value:.{_decimals(value)}f}{unit}"
    return f"{value / _THOUSAND:.3g}{units[-1]}"


def _decimals(value: float) -> int:
    return 2 if value < 9.995 else 1 if value < 99.95 else 0


def duration(milliseconds: float) -> str:
    """0.84 ms, 12.3 ms, 1.20 s."""
    if milliseconds < 1000:
        return f"{milliseconds:.{_decimals(milliseconds)}f} ms"
    return f"{milliseconds / 1000:.2f} s"


def times(ratio: float, more: str, less: str) -> str:
    """A ratio in the words of the side on which it is: 1.60× faster, 1.28× slower."""
    return f"{ratio:.2f}× {more}" if ratio >= 1 else f"{1 / ratio:.2f}× {less}"

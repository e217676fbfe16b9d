"""Quantities as the command line writes them: sizes, rates and times, and back to text."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from fractions import Fraction

SIZES = {
    **{"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40},
}
RATES = {
    prefix + unit: 1000.0**power
    for power, prefixes in enumerate(("", "kK", "mM", "gG", "tT"))
    for prefix in prefixes or ("",)
    for unit in ("bit", "bit/s", "bps")
}
MOST_BYTES = 10**15
"""A larger model is a typing error, and the bytes of many messages would not fit 64 bits."""
TIMES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0}


def size(text: str) -> int:
    """Bytes, from 1 to 10^15.

    >>> size("1.024MB"), size("4GiB")
    (1024000, 4294967296)
    """
    found = _quantity(text, SIZES)
    if found is None or not 1 <= found <= MOST_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: write 64kB, 1.024MB, 100MB or 4GiB, at least 1B and at most 1000TB"
        )
    return round(found)


def rate(text: str) -> float:
    """Bits a second, at least 1.

    >>> rate("10gbit"), rate("25Gbit/s")
    (10000000000.0, 25000000000.0)
    """
    found = _quantity(text, RATES)
    if found is None or found < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate: write 100mbit, 10gbit or 25Gbit/s, at least 1bit")
    return found


def duration(text: str) -> float:
    """Seconds, at least 0.

    >>> duration("50us"), duration("0.5s")
    (5e-05, 0.5)
    """
    found = _quantity(text, TIMES)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write 50us, 1ms or 0.5s")
    return found


def bytes_text(count: float) -> str:
    """Bytes to three digits.

    >>> bytes_text(600_000_000), bytes_text(1_234_567), bytes_text(12)
    ('600 MB', '1.23 MB', '12 B')
    """
    return _scaled(count, (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)))


def rate_text(bits: float) -> str:
    """Bits a second to three digits.

    >>> rate_text(1e10)
    '10 Gbit/s'
    """
    units = (("Tbit/s", 1e12), ("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0))
    return _scaled(bits, units)


def seconds_text(seconds: float) -> str:
    """Seconds to three digits.

    >>> seconds_text(0.4808), seconds_text(5e-05), seconds_text(75)
    ('481 ms', '50 us', '75 s')
    """
    return _scaled(seconds, (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)))


def _quantity(text: str, units: Mapping[str, float]) -> float | None:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([^\s0-9.][^\s]*)", text.strip())
    if match is None or match[2] not in units:
        return None
    # Fractions, because 50us would be 4.9999999999999996e-05.
    try:
        return float(Fraction(match[1]) * Fraction(str(units[match[2]])))
    except (OverflowError, ValueError):  # more digits than a number may have
        return None


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    """`value` in the largest of `units` in which it is at least 1; `units` are in falling order."""
    # Round to three digits first, because 999.9 kB is 1 MB.
    value = float(f"{value:.3g}")
    unit, scale = next((each for each in units if value >= each[1] * (1 - 1e-9)), units[-1])
    return f"{_three_digits(value / scale)} {unit}"


def _three_digits(value: float) -> str:
    digits = f"{value:.3g}"
    return f"{value:.0f}" if "e" in digits else digits

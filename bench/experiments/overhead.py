"""What the runtime costs where nothing travels: merging, the step on one rank, memory. Runs on one rank.

merging    one in-peer's message into as many bytes of values, beside one bare torch.lerp_ over the same bytes; bar:
           1.2. What does not depend on the bytes, some 20 to 80 µs, shows where they are few
step       SGP's step on one rank beside the wrapped optimizer's own on the same parameters, and on an identical model
           outside of buckets; ResNet-50's 161 tensors, 25.6 million parameters; bar: 3 % + 50 µs
memory     bytes of tensors that an optimizer holds beside parameters, gradients and the wrapped optimizer's state, in
           models; four ranks as threads

What is compared alternates in one loop, first one first and then the other; medians count.
"""

from __future__ import annotations

import argparse
from typing import Any

from gossip import UsageError
from gossip.launching.launchers import Launcher

from ..shared import options, record, screen
from ..update import judging
from . import footprint, interleaved


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument(
        "--sizes",
        type=options.sizes,
        default=[10**6, 10**7, 4 * 10**7, 10**8],
        metavar="SIZE,...",
        help="bytes that are merged (default: 1MB,10MB,40MB,100MB)",
    )
    parser.add_argument(
        "--rounds", type=options.count, default=100, metavar="N", help="of each comparison (default: 100)"
    )
    options.add_json(parser, "out/overhead.json")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be measured."""
    if launcher.size > 1:
        raise UsageError("this measures one rank by itself: start it as `python -m bench overhead`, without a launcher")
    options.check_writable(given.json, launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Measure, print, write."""
    console = screen.screen(launcher)
    with screen.Course(console, len(given.sizes) + 2) as course:
        merging = []
        for size in given.sizes:
            course.part(f"merging {screen.size(size)}")
            merging.append(interleaved.merging(size, given.rounds))
            course.advance(1)
        course.part("step on one rank")
        step = interleaved.step(given.rounds)
        course.advance(1)
        course.part("memory")
        memory = footprint.footprints()
        course.advance(1)
    console.print(screen.table("merging one message", MERGING, [_merging_row(each) for each in merging]), "")
    console.print(screen.table(f"a step on one rank, {step['parameters']:,} parameters", STEP, _step_rows(step)), "")
    console.print(screen.table("memory, in models", MEMORY, [_row(m) for m in memory]))
    results = {"merging": merging, "step": step, "memory": memory}
    record.write(given, launcher, given.json, unit="seconds, bytes, models", results=results)
    console.print(f"written to {given.json}")


MOST = 1.2
"""Of a bare lerp's time: what merging may take."""

MERGING = ("size", "torch.lerp_ ms", "merge ms", "ratio", "at most")
STEP = ("against", "bare ms", "SGP ms", "difference ms", "allowed ms")
MEMORY = ("algorithm", "held", "expected")


def _merging_row(result: dict[str, float]) -> list[str]:
    lerp, merge = screen.ms(result["lerp"]), screen.ms(result["merge"])
    return [
        screen.size(result["bytes"]),
        lerp,
        merge,
        f"{result['ratio']:.3f}",
        _bar(result["ratio"], MOST, f"{MOST:g}"),
    ]


def _step_rows(step: dict[str, Any]) -> list[list[str]]:
    return [
        [
            against,
            *(screen.ms(step[against][key]) for key in ("bare", "sgp")),
            judging.never_below_zero(step[against]["difference"]),
            _bar(step[against]["difference"], step[against]["allowed"], screen.ms(step[against]["allowed"])),
        ]
        for against in ("in buckets", "outside of buckets")
    ]


def _bar(measured: float, most: float, shown: str) -> str:
    return f"{shown}  missed" if measured > most else shown


def _row(result: dict[str, Any]) -> list[str]:
    return [result["algorithm"], f"{result['held']:.2f}", str(result["expected"])]

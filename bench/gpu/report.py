"""The Markdown of what a GPU has shown."""

from collections.abc import Sequence
from typing import Any

from ..shared import screen

LEAST = 0.85
"""Of the bandwidth of a copy, for a merge."""

MOST = 1.02
"""Times the bare step, for OSGP's."""

LEGEND = (
    "bare, OSGP: a step of all ranks, which share the GPU where there are fewer. host blocked: in a step, until the "
    "message of the step before is there, while the GPU computes. waits for the GPU: calls of CUDA with which a host "
    "waits for it, in four steps. memory: of the GPU beside the bare step. pinned: page-locked memory of the host."
)


def markdown(found: dict[str, Any], facts: dict[str, Any]) -> str:
    """Tables, with the bars that each figure is held against."""
    machine, versions = facts["machine"], facts["versions"]
    lines = [
        f"# {machine['gpu']}",
        "",
        f"`{facts['command']}`, {facts['date']}, torch {versions['torch']}, Python {versions['python']}, "
        f"{machine['cores']} cores of {machine['processor']}.",
    ]
    if found["merging"]:
        lines += ["", f"## Merging (bar: {LEAST} of a copy)", ""]
        columns = ("values", "copy", "wire", "messages", "merge", "of the copy", "torch without the kernel")
        lines += _table(columns, [row for size in found["merging"] for row in _merging(size)])
    for ranks in found["ranks"]:
        lines += ["", f"## {ranks['size']} ranks over {ranks['transport']}", ""]
        if "gpus" in ranks:
            lines.append(f"On {ranks['gpus']} GPU(s). Contract: {ranks.get('contract', 'not asked')}.")
        if ranks.get("steps"):
            columns = ("network", "wire", "sent a step", "bare", "OSGP", f"ratio (bar: {MOST})", "host blocked")
            more = ("waits for the GPU (bar: 0)", "memory", "pinned, in models")
            lines += ["", *_table((*columns, *more), [_step(step) for step in ranks["steps"]])]
        if ranks.get("failed"):
            lines += ["", "Failed:", "", "```", ranks["failed"], "```"]
    if any(ranks.get("steps") for ranks in found["ranks"]):
        lines += ["", LEGEND]
    return "\n".join(lines) + "\n"


def _merging(size: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"{size['elements']:,}",
            _rate(size["copy"]),
            merge["wire"],
            str(merge["messages"]),
            _rate(merge["rate"]),
            f"{merge['of_copy']:.3f}",
            f"{merge['torch']:.3f}",
        ]
        for merge in size["merges"]
    ]


def _step(step: dict[str, Any]) -> list[str]:
    return [
        step["model"],
        step["wire"],
        screen.size(step["sent"]),
        f"{screen.ms(step['bare'])} ms",
        f"{screen.ms(step['osgp'])} ms",
        f"{step['ratio']:.4f}",
        f"{screen.ms(step['host_blocked'])} ms",
        ", ".join(f"{count} {name}" for name, count in step["waits"].items()) or "0",
        f"{step['memory_in_models']:.2f} models",
        f"{step['pinned_in_models']:.2f}",
    ]


def _rate(rate: float) -> str:
    return f"{rate / 1e9:,.0f} GB/s"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(each)} |" for each in (columns, ["---"] * len(columns), *rows)]

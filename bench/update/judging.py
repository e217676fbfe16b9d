"""Judgement of measured rows: whether the ranks had a core each, and which method exposes least."""

from collections.abc import Sequence

from gossip.launching.cores import bound
from gossip.launching.launchers import Launcher

from ..peers import PEERS, YARDSTICK
from ..shared import screen
from .matrix import Result, title

MOST = 1.05  # times the compute that was asked for, or that `none` took: beyond, ranks took the cores from one another
SLACK = 0.0005  # seconds that a sleep may last longer than it was asked to
CROWDED = "too few cores"


def lacks_cores(compute: float, *expected: float) -> bool:
    """Whether `compute` took so much longer than the least of `expected`, seconds, that the ranks lacked cores."""
    return compute > MOST * min(expected) + SLACK


def marked(results: Sequence[Result]) -> list[Result]:
    """The same results, each with whether its ranks lacked cores; all of a size and compute where `none` did."""
    alone = [each for each in results if each["algorithm"] == "none"]
    none = {(each["bytes"], each["compute"]): _computing(each) for each in alone}
    found = []
    for result in results:
        asked: float = result["compute"]
        base = none.get((result["bytes"], asked), asked)
        lacks = lacks_cores(_computing(result), asked, base) or lacks_cores(base, asked)
        found.append({**result, "lacks_cores": lacks})
    return found


def crowded(result: Result) -> bool:
    """Whether a result was `marked` so; one that was not marked counts as fit."""
    return bool(result.get("lacks_cores"))


def verdict(results: Sequence[Result]) -> str:
    """One sentence on the results of one size and compute; an empty text where nothing was compared with `none`."""
    methods = [result for result in results if result["algorithm"] not in ("none", YARDSTICK)]
    told = [result for result in methods if result["exposed"] is not None]
    fit = sorted((result for result in told if not crowded(result)), key=lambda result: float(result["exposed"]))
    left = [_name(result, results) for result in told if crowded(result)]
    if not told:
        return ""
    if not fit:
        return (
            f"No method can be judged: {CROWDED}, as the compute itself took longer; start fewer ranks, or ask for "
            "compute by sleep."
        )
    least, most = fit[0], fit[-1]
    spread = max(float(each["seconds"]["p90"]) - float(each["seconds"]["p10"]) for each in (least, most))
    text = f"{_name(least, results)} exposes least of an update, {_told(least)}"
    if len(fit) > 1 and most["exposed"] - least["exposed"] < spread:
        text = (
            f"Undecided: {_name(least, results)} exposes {_told(least)} and {_name(most, results)} {_told(most)}, and "
            f"single updates of one method differ by {screen.ms(spread)} ms"
        )
    elif len(fit) > 1:
        text += f", and {_name(most, results)} most, {_told(most)}"
    return text + (f"; not judged for {CROWDED}: {', '.join(left)}." if left else ".")


def sharing(launcher: Launcher) -> str:
    """A sentence where ranks share cores; an empty text where each has its own."""
    cores = bound()
    if launcher.local_size <= cores:
        return ""
    return (
        f"{launcher.local_size} ranks share {cores} core{'s' * (cores > 1)} here, so their times hold waits for a core "
        f"too; {cores} rank{'s' * (cores > 1)} or fewer would not."
    )


def never_below_zero(seconds: float) -> str:
    """Milliseconds of a difference of two measured times; what is below 0 is noise."""
    return screen.ms(seconds) if seconds > 0 else "0"


def _told(result: Result) -> str:
    return f"{screen.ms(result['exposed'])} ms" if result["exposed"] > 0 else "nothing that can be measured"


def _name(result: Result, results: Sequence[Result]) -> str:
    several = len({each["topology"] for each in results if each["algorithm"] == result["algorithm"]}) > 1
    return f"{title(result['algorithm'])} over {result['topology']}" if several else title(result["algorithm"])


def _computing(result: Result) -> float:
    took = float(result["computing"]["median"])
    # Some other libraries wait for messages while they compute.
    return took - float(result["waits"]["median"]) if result["algorithm"] in PEERS else took

"""One round of a picture: ranks where the layout puts them, and the lines between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from topologies.arrays.edges import Edges, Floats
from topologies.commands.pictures.canvas import FAINT, GREY, INK, QUIET
from topologies.commands.pictures.layouts import hosts, lattice, layout
from topologies.topology import TOLERANCE, Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes

START, ARRIVED = "#c8500a", "#14568f"

NUMBERED_RANKS = 64
"""The largest number of ranks that carry their numbers."""
MOST_LABELS = 24
"""With more lines in a round, the width of a line shows its share."""

MARGIN = 0.28
"""Around the places of the ranks, which lie within -1 to 1."""
BEND = 0.16
"""The distance of the middle of a bent line from the straight one, in halves of its length."""


class Line(NamedTuple):
    """An edge in a picture; two edges with the same share, there and back, are one line."""

    tail: int
    head: int
    share: float
    mutual: bool
    bent: bool
    """Whether another line comes back, with another share."""
    fresh: bool
    """Whether the edge brings the followed value to a rank for the first time."""


def lines_of(edges: Edges, fresh: npt.NDArray[np.bool_]) -> list[Line]:
    """The lines of a round; `fresh` holds `Line.fresh` for each edge."""
    ends = list(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    shares = dict(zip(ends, edges.share.tolist(), strict=True))
    is_fresh = dict(zip(ends, fresh.tolist(), strict=True))
    lines = []
    for (j, i), share in shares.items():
        back = shares.get((i, j))
        mutual = back is not None and abs(back - share) <= TOLERANCE
        if not mutual or j < i:
            new = is_fresh[j, i] or (mutual and is_fresh[i, j])
            lines.append(Line(j, i, share, mutual, back is not None and not mutual, new))
    return lines


class Scene:
    """Common facts of all panels of one picture: places of ranks, sizes, and the way to show shares."""

    def __init__(self, topology: Topology, rounds: Sequence[Edges], drawn: Sequence[Sequence[Line]]) -> None:
        self.places = layout(topology, rounds)
        low, high = self.places[:, 1].min(), self.places[:, 1].max()
        self.limits = np.array([(-1 - MARGIN, low - MARGIN), (1 + MARGIN, high + MARGIN)])
        self.step = _step(self.places)
        self.hosts = hosts(topology)
        self.lattice = lattice(topology.size, rounds) is not None
        self.inches = _inches(topology.size, len(rounds))
        # In points: a third of the distance to the nearest rank, within legible limits.
        self.radius = min(11.0, max(1.6, 72 * self.inches / (2 + 2 * MARGIN) * self.step * 0.3))
        self.numbered = topology.size <= NUMBERED_RANKS and self.radius >= 4
        lines = [line for each in drawn for line in each]
        self.mutual = {line.mutual for line in lines}
        self.shares = {fraction(line.share) for line in lines}
        self.largest = max((line.share for line in lines), default=1.0)
        mixed = [len(each) for each in drawn if len({fraction(line.share) for line in each}) > 1]
        self.mixed, self.labelled = bool(mixed), bool(mixed) and max(mixed) <= MOST_LABELS
        self.usual = any(_usual(each) for each in drawn)

    def sentences(self) -> Iterable[str]:
        """Sentences that explain edges and shares."""
        if not self.mutual:
            yield "No rank sends."
            return
        if False in self.mutual:
            yield "An arrow: one sends to the other."
        if True in self.mutual:
            yield "A line: both send to each other."
        if len(self.shares) == 1:
            yield f"Each edge carries the share {min(self.shares)} of the sender's weight, the rest stays."
        elif not self.mixed:
            yield "Above: the share of the sender's weight that each edge carries, the rest stays."
        elif self.labelled and self.usual:
            yield "Above, and at the edges where it differs: the share of the sender's weight that an edge carries."
        elif self.labelled:
            yield "Numbers at the edges: the share of the sender's weight that they carry, the rest stays."
        else:
            yield "The wider an edge, the larger the share of the sender's weight that it carries."
        if self.hosts:
            yield "A grey band holds the ranks of one host."

    def share(self, lines: Sequence[Line]) -> str:
        """The suffix of a round's title: the usual share of its edges, if shares differ."""
        shared = _usual(lines)
        return f", share {shared}" if shared and len(self.shares) > 1 and self.labelled >= self.mixed else ""

    def draw(self, axes: Axes, lines: Sequence[Line], known: npt.NDArray[np.bool_], rank: int) -> None:
        """One round: edges below, ranks above."""
        self._bands(axes)
        spots, shared = _Spots(self.places), _usual(lines)
        for line in lines:
            bend = self._bend(line)
            if self.lattice and self._reach(line) > 1.5 * self.step:
                self._stubs(axes, line)
                continue
            self._arrow(axes, line, bend)
            if self.labelled and fraction(line.share) != shared:
                self._label(axes, line, spots.between(line, bend))
        self._ranks(axes, known, rank)

    def _bands(self, axes: Axes) -> None:
        """Grey bands behind the ranks of each host."""
        for ranks in self.hosts:
            first, last = (np.arctan2(*self.places[rank]) % (2 * np.pi) for rank in (ranks[0], ranks[-1]))
            angle = np.linspace(first, last, 50)
            axes.plot(
                np.sin(angle),
                np.cos(angle),
                color=FAINT,
                linewidth=2 * self.radius + 9,
                solid_capstyle="round",
                zorder=1,
            )

    def _reach(self, line: Line) -> float:
        return float(np.hypot(*(self.places[line.head] - self.places[line.tail])))

    def _bend(self, line: Line) -> float:
        """The distance of a line's middle from the straight one, in halves of its length; above 0 to its right."""
        if line.bent:
            return BEND
        tail, way = self.places[line.tail], self.places[line.head] - self.places[line.tail]
        reach, node = self._reach(line), self.radius / 72 / self.inches * (2 + 2 * MARGIN)
        along, aside = np.array([way, (way[1], -way[0])]) @ (self.places - tail).T / reach
        hidden = (along > node) & (along < reach - node) & (np.abs(aside) < 1.3 * node)
        if not hidden.any():
            return 0.0
        # Towards the middle of the picture, past the ranks in its way.
        inward = 1 if tail @ (-way[1], way[0]) >= 0 else -1
        return float(2 * (1.9 * node + (aside[hidden] * inward).max()) / reach * inward)

    def _style(self, line: Line) -> dict[str, Any]:
        width = 1.3 if self.labelled or not self.mixed else 0.4 + 2.4 * line.share / self.largest
        if line.fresh:
            return {"color": ARRIVED, "linewidth": width + 0.5, "zorder": 3}
        return {"color": GREY, "linewidth": width, "zorder": 2}

    def _arrow(self, axes: Axes, line: Line, bend: float) -> None:
        from matplotlib.patches import FancyArrowPatch

        head = min(2.0, max(0.8, self.radius / 5))
        axes.add_patch(
            FancyArrowPatch(
                tuple(self.places[line.tail]),
                tuple(self.places[line.head]),
                arrowstyle="-" if line.mutual else f"-|>,head_length={0.28 * head},head_width={0.14 * head}",
                connectionstyle=f"arc3,rad={bend}",
                mutation_scale=10,
                shrinkA=self.radius + 0.5,
                shrinkB=self.radius + (0.5 if line.mutual else 1.5),
                **self._style(line),
            )
        )

    def _stubs(self, axes: Axes, line: Line) -> None:
        """An edge around the back of a lattice: it leaves on one side and enters on the other."""
        tail, head = self.places[line.tail], self.places[line.head]
        out = (tail - head) / self._reach(line) * min(MARGIN - 0.02, 0.45 * self.step)
        for end, way in ((tail, out), (head, -out)):
            axes.plot(*zip(end, end + way, strict=True), **self._style(line), linestyle=(0, (1.5, 1)))

    def _label(self, axes: Axes, line: Line, spot: Floats) -> None:
        axes.text(
            spot[0],
            spot[1],
            fraction(line.share),
            size=8.5,
            color=ARRIVED if line.fresh else QUIET,
            ha="center",
            va="center",
            zorder=3.5,
            bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none"},
        )

    def _ranks(self, axes: Axes, known: npt.NDArray[np.bool_], rank: int) -> None:
        fills = [ARRIVED if here else "white" for here in known]
        borders = [ARRIVED if here else GREY for here in known]
        # The border distinguishes the start from the others in grey too.
        fills[rank], borders[rank] = START, INK
        x, y = self.places.T
        axes.scatter(x, y, s=(2 * self.radius) ** 2, c=fills, edgecolors=borders, linewidths=1.2, zorder=4)
        if self.numbered:
            for number, (across, up) in enumerate(self.places):
                axes.text(
                    across,
                    up,
                    str(number),
                    size=min(10.5, self.radius * 1.05),
                    color="white" if known[number] else INK,
                    ha="center",
                    va="center_baseline",
                    zorder=5,
                )


def _usual(lines: Sequence[Line]) -> str | None:
    """The share of more than half of the lines, as text; None if there is none."""
    shares = [fraction(line.share) for line in lines]
    return next((share for share in set(shares) if 2 * shares.count(share) > len(shares)), None)


class _Spots:
    """Places for texts at lines, each as far as possible from the ranks and from earlier texts."""

    def __init__(self, places: Floats) -> None:
        self.places = places
        self.taken = list(places)

    def between(self, line: Line, bend: float) -> Floats:
        tail, way = self.places[line.tail], self.places[line.head] - self.places[line.tail]
        aside = np.array([way[1], -way[0]]) * bend / 2
        spots = [tail + at * way + aside * 4 * at * (1 - at) for at in (0.5, 0.4, 0.6, 0.33, 0.67, 0.27, 0.73)]
        best: Floats = max(spots, key=self._room)
        self.taken.append(best)
        return best

    def _room(self, spot: Floats) -> float:
        # Beyond a certain distance more room is no gain, so the first such spot is taken.
        return min(0.34, float(np.hypot(*(np.array(self.taken) - spot).T).min()))


def fraction(share: float) -> str:
    """A share as people write it.

    >>> fraction(1 / 3), fraction(0.15), fraction(1 / 70), fraction(0.31831)
    ('1/3', '3/20', '1/70', '0.318')
    """
    exact = Fraction(share).limit_denominator(1000)
    simple = exact.numerator == 1 or exact.denominator <= 64
    return str(exact) if simple and abs(float(exact) - share) <= TOLERANCE else f"{share:.3g}"


def _inches(size: int, panels: int) -> float:
    """The width of a panel."""
    wide = 2.45 if size <= 8 else 2.9 if size <= 24 else 4.2
    return max(wide, 3.8) if panels == 1 else wide


def _step(places: Floats) -> float:
    """The shortest distance between two ranks."""
    if len(places) == 1:
        return 1.0
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    return float(apart.min())

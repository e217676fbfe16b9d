"""Where every millisecond and byte of an update goes, for each algorithm, size, compute time and topology.

Every update computes and steps. Compute is a sleep, which leaves the cores alone as an accelerator does. With --model
layers 16 layers sleep, a third of it in the forward pass and the rest in the backward one, for methods that communicate
meanwhile. With --model mlp both are those of a small network. The last row of each table is an all-reduce of the same
bytes by torch.distributed over Gloo (NCCL with --transport nccl), which blocks after the compute.

--algorithms takes other libraries too: torch's DistributedDataParallel and post-local SGD, and with the extra `peers`
Decent-DP, torchft and fairscale. They train the same parameters on the CPU over Gloo, after the same sleep, in the same
loop. Their limits stand below the tables; what is not installed is left out with a word.

Exposed communication is an update's time less that of `none` in the same run. Blocking methods are timed from a barrier
just before the step, so that ranks wait for bytes and not for each other's compute. OSGP has no barrier, for its
messages would travel meanwhile. The loop without barriers stands beside it as "free". Figures are medians over the
updates of all ranks. Without barriers, and where something happens every --period steps, they are medians over the
means of so many updates, beside means of `none` over as many. On several hosts raw sockets move the bytes of a round
over the same hops of the graph in the same run: the line. After a pause a shaper lets a burst through at once; a method
that never pauses is up to the line without a pause. Where ranks share hosts, the line goes from each host to the next.

The screen shows a few columns, with --full all of them, and a verdict in one sentence. Where the compute took over 5 %
longer than was asked, or than without communication, ranks took the cores from one another: such a row says "too few
cores", and no figure of its communication.

Writes JSON, and beside it the same as CSV, as Markdown tables and as a bar chart (PNG). The Markdown has every rank's
own figures too, which show who waits for a straggler.

examples
  mpirun -n 4 python -m bench update --sizes 1MB --compute 0.05,0.271 --topologies 'exponential;base_graph,peers=2'
  python -m bench cluster --nodes 8 --slow 3=25mbit -- python -m bench update --algorithms none,ar,sgp,osgp
  mpirun -n 4 python -m bench update --algorithms none,sgp,osgp,ddp,ddp-overlap,decent-dp
  mpirun -n 4 python -m bench update @options.txt --out results
  where options.txt holds an option on each line, as in --algorithms=none,sgp,osgp
"""

import argparse
import functools

import torch

from gossip import UsageError
from gossip.launching.launchers import Launcher

from ..measuring.models import MODELS
from ..peers import PEERS
from ..shared import options, record, screen, tables
from ..shared.methods import METHODS
from . import columns, judging, matrix

DEFAULT = "none,ar,exact,sgp,osgp,local,sgp-slowmo,osgp-slowmo,sgp-noaverage"
WIDE = 180  # columns of the output without a terminal

UNITS = (
    "seconds, bytes and messages of one update; quantiles over windows of `window` updates of all ranks; waits: "
    "blocked in the step; none: an update of `none` in windows as long; exposed: the update less that; hidden: 1 - the "
    "larger of exposed and waits / in_flight; free: without barriers, in windows of `period`; slowest: the rank "
    "with the highest median; line: raw sockets moving the bytes of a round after a pause; line_steady: right behind "
    "another"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = functools.partial(options.option, parser)
    add("--sizes", options.listed(options.size), "1MB,10MB,40MB", "bytes of float32 parameters", "SIZE,...")
    names = f"some of {', '.join(METHODS)}, and of other libraries {', '.join(PEERS)}"
    add("--algorithms", options.some_of(matrix.KNOWN), DEFAULT, names, "NAME,...")
    add("--compute", options.listed(options.seconds), None, "of each update (default: 0.1)", "SECONDS,...")
    parser.add_argument(
        "--topology",
        "--topologies",
        type=options.listed(str, ";"),
        action="extend",
        dest="topologies",
        metavar="SPEC;...",
        help="what `python -m topologies` calls SPEC, as in base_graph,peers=2 or my_graphs:swing; several are "
        "separated by semicolons, or the option is repeated (default: exponential)",
    )
    add("--steps", options.count, "24", "measured updates")
    add("--warmup", options.natural, None, "updates before, over whose last τ consensus is told (default: --period)")
    add("--repeats", options.count, "1", "times that all is measured")
    free = "measured updates without barriers, beside those of blocking methods; 0 for none (default: --steps)"
    add("--free", options.natural, None, free)
    add("--period", options.count, "8", "τ of Local SGD and SlowMo")
    options.add_choice(parser, "--model", MODELS, "sleep", "a sleep of --compute, also layer by layer, or a network")
    parser.add_argument("--full", action="store_true", help="show all columns, as the files do, where there is room")
    options.add_world(parser)
    options.add_files(parser, "update")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be measured, and say what was left open."""
    if given.model == "mlp" and given.compute is not None:
        raise UsageError(f"--compute is how long the ranks sleep, and --model {given.model} does not: leave one out")
    given.compute = given.compute or ([0.0] if given.model == "mlp" else [0.1])
    for name in given.algorithms if given.model == "sleep" else ():
        if name in METHODS and METHODS[name].landing == "forward":
            raise UsageError(f"--algorithms {name} lands while layers run: add --model layers")
    given.topologies = list(dict.fromkeys(given.topologies or ["exponential"]))
    given.free = given.steps if given.free is None else given.free
    given.warmup = given.period if given.warmup is None else given.warmup
    for name, count in (("--steps", given.steps), ("--free", given.free or given.period)):
        if count < given.period:
            raise UsageError(f"{name} {count} is less than one --period {given.period}: it would never be due")
    for graph in given.topologies:
        options.check_graph(graph, launcher.size)
    options.check_world(given)
    _check_peers(given, launcher)
    options.check_files(given, launcher)


def _check_peers(given: argparse.Namespace, launcher: Launcher) -> None:
    """Leave out the peers that are not installed, and refuse those that cannot be measured as asked."""
    missing = {name: PEERS[name].missing for name in given.algorithms if name in PEERS and PEERS[name].missing}
    brings = "pip install 'gossip-runtime[peers]' brings it"
    given.left_out = [f"{name} is left out: {why}, {brings}" for name, why in missing.items()]
    given.algorithms = [name for name in given.algorithms if name not in missing]
    if "none" not in given.algorithms:
        given.left_out.append("exposed and hidden are left out: they are told beside `none`, which --algorithms lacks")
    for name in [name for name in given.algorithms if name in PEERS and PEERS[name].trains]:
        if given.model == "mlp":
            raise UsageError(
                f"--algorithms {name} is another library's, which is driven by a sleep as compute, not by --model "
                f"{given.model}: leave one of them out"
            )
        if torch.cuda.is_available():
            raise UsageError(
                f"--algorithms {name} is measured on CPUs over Gloo, and this process sees a GPU: set "
                "CUDA_VISIBLE_DEVICES= on every rank, or leave it out"
            )
        if reason := PEERS[name].refuses(launcher.size):
            raise UsageError(
                f"--algorithms {name}: {reason}, and there are {launcher.size}: start another number of ranks, or "
                "leave it out"
            )


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Measure, print, write."""
    console = screen.screen(launcher)
    if not console.is_terminal:
        console.width = WIDE
    for sentence in given.left_out:
        console.print(sentence, markup=False)
    updates = given.repeats * sum(matrix.updates_of(cell, given) for cell in matrix.cells(given))
    with screen.Course(console, updates) as course:
        transport, results, lines = matrix.run(given, course)
    took = {(line["bytes"], line["topology"]): line["seconds"] for line in lines}
    matrix.compare(results, lambda nbytes, graph: took.get((nbytes, graph), {}).get("median"))
    for result in results:
        result["line_steady"] = took.get((result["bytes"], result["topology"]), {}).get("steady")
    if launcher.rank > 0:
        return
    ranks = f"{launcher.size} rank{'s' * (launcher.size > 1)} over {transport}, compute by {given.model}"
    if transport == "mpi":
        ranks += "; torch and other libraries over gloo"
    judged = judging.marked(results)
    parts = columns.parts(judged)
    console.print(f"update: {ranks}")
    shown: list[columns.Column] = []
    for part in parts:
        fitting = columns.fitting(part, console.width, given.full)
        console.print(columns.on_screen(part, fitting))
        console.print(judging.verdict(part.results) + "\n", markup=False)
        shown += [column for column in fitting if column not in shown]
    for sentence in filter(None, (judging.sharing(launcher), columns.legend(shown))):
        console.print(sentence, markup=False)
    for sentence in columns.limits(results):
        console.print(f"- {sentence}", markup=False)
    seen = {result["algorithm"]: PEERS[result["algorithm"]] for result in results if result["algorithm"] in PEERS}
    peers = {
        name: {"title": peer.title, "package": peer.package or "torch", "version": peer.version, "limits": peer.limits}
        for name, peer in seen.items()
    }
    everything = {"transport": transport, "unit": UNITS, "peers": peers, "results": [*results, *lines]}
    record.write(given, launcher, given.json, **everything)
    tables.write_csv(options.beside(given, "csv"), results)
    options.beside(given, "md").write_text(columns.markdown(f"Time per update, {ranks}", judged, given.left_out))
    columns.draw(options.beside(given, "png"), parts, ranks)
    console.print(f"written to {given.json}, and as .csv, .md and .png to {given.out / given.json.stem}")

"""The command line of the measurements."""

import argparse
import contextlib
import importlib.util
import io
import os
import sys
from collections.abc import Mapping, Sequence

import torch

from gossip import UsageError
from gossip.launching.cores import share
from gossip.launching.launchers import detect

for needed in ("rich", "sklearn", "scipy", "matplotlib", "sacrebleu", "tabulate"):
    if importlib.util.find_spec(needed) is None:
        sys.exit(f"python -m bench needs {needed}: pip install 'gossip-runtime[bench]'")

from .cluster import command as cluster  # noqa: E402
from .experiments import digits, overhead, overlap, straggler, survive  # noqa: E402
from .gpu import command as gpu  # noqa: E402
from .scale import command as scale  # noqa: E402
from .table2 import command as table2  # noqa: E402
from .train import command as train  # noqa: E402
from .update import command as update  # noqa: E402  not before the look at what they need

COMMANDS = {
    **{"digits": digits, "update": update, "table2": table2, "overlap": overlap, "overhead": overhead},
    **{"straggler": straggler, "survive": survive, "cluster": cluster, "gpu": gpu, "scale": scale, "train": train},
}

EXAMPLES = """\
examples
  mpirun -n 4 python -m bench digits
  mpirun -n 4 python -m bench update --sizes 1MB,40MB --algorithms none,ar,sgp,osgp
  python -m bench scale --ranks 2..4096 --rate 25gbit --size 100MB
  python -m bench train --preset table1 --jobs 2
  python -m bench cluster --nodes 8 --rate 100mbit -- python -m bench table2

Every command prints a table and writes JSON with the command, the machine, the date and the versions; see
`python -m bench COMMAND --help`. With more ranks than cores, mpirun wants --oversubscribe --bind-to none, and Open MPI
waits without burning a core with --mca mpi_yield_when_idle 1. A rank takes its share of the cores, or OMP_NUM_THREADS.

exit codes
  0  done
  1  something failed while it ran
  2  the options are wrong; nothing was started
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; argparse itself exits with 2."""
    try:
        launcher = detect()
    except UsageError as error:
        print(f"python -m bench: {error}", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as quiet:
        if launcher.rank > 0:  # all ranks were given the same options, and rank 0 says what is wrong with them
            quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
            quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
        parser, parsers = _parsers()
        given, unknown = parser.parse_known_args(arguments)
        if unknown:  # argparse itself would show the usage of all commands
            parsers.get(given.command, parser).error(f"unrecognized arguments: {' '.join(unknown)}")
        if given.command is None:
            parser.print_help()
            return 0
        command = COMMANDS[given.command]
        try:
            command.check(given, launcher)
        except UsageError as error:
            print(f"python -m bench {given.command}: {error}", file=sys.stderr)
            return 2
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(share(launcher))
    try:
        command.run(given, launcher)
    except UsageError as error:  # of what ranks can only see together
        print(f"python -m bench {given.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """That of all commands, and that of each."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="What decentralized training costs and gives, measured where you run it.",
        epilog=EXAMPLES,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        summary, _, more = (command.__doc__ or "").partition("\n")
        added = commands.add_parser(
            name,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            fromfile_prefix_chars=None if command is cluster else "@",
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=f"{summary}\n{more}",
        )
        command.add_options(added)
    return parser, commands.choices


if __name__ == "__main__":
    sys.exit(main())

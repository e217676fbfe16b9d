"""Runs the scripts of examples/ one after another on this rank: `python -m workers.examples FOLDER`.

Each runs as a program of its own would, but for the libraries, which take seconds to load and are loaded once.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def main(folder: str) -> None:
    run, model = str(Path(folder, "run")), str(Path(folder, "model.pt"))
    commands = (
        ["digits.py"], ["own_graph.py"], ["resume.py", run, "20"], ["resume.py", run, "30"],
        ["evaluate_mean.py", model], ["language_model.py", "--steps", "60", "--period", "12"],
    )  # fmt: skip
    for name, *arguments in commands:
        print(f"runs {name}", flush=True)
        sys.argv = [name, *arguments]
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1])

"""The options of `python -m bench update` in a file, for runs that are repeated."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Plan(argparse.Action):
    """Takes options from a JSON object as if they stood in its place; what follows on the command line wins.

    The file holds names of options without dashes; a value is one thing or a list of them:

        {"algorithms": ["none", "sgp"], "sizes": ["1.024MB"], "compute": [0.05, 0.271], "topologies": ["exponential"]}
    """

    def __init__(self, *arguments: Any, known: Mapping[str, Callable[[str], Any]], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._known = known

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Read the file; what is wrong in it is refused with the name of file and option."""
        path = Path(str(values))
        try:
            plan = json.loads(path.read_text())
        except OSError as error:
            raise argparse.ArgumentError(self, f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise argparse.ArgumentError(self, f"{path} is no JSON: {error}") from error
        if not isinstance(plan, dict):
            raise argparse.ArgumentError(self, f"{path} holds no JSON object of options")
        for name, value in plan.items():
            if name not in self._known:
                raise argparse.ArgumentError(self, f"{path}: {name!r} is not one of {', '.join(self._known)}")
            between = ";" if name == "topologies" else ","
            text = between.join(map(str, value)) if isinstance(value, list) else str(value)
            try:
                setattr(namespace, name, self._known[name](text))
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentError(self, f"{path}: {name}: {error}") from error
        setattr(namespace, self.dest, str(path))

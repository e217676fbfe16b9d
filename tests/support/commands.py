"""`python -m bench` in this process, for tests of its options."""

from __future__ import annotations

import pytest

from bench.__main__ import main


def code_of(*arguments: str) -> int:
    """The exit code, whichever way it is given."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message about wrong options: on stderr alone, with the exit code for that."""
    assert code_of(*arguments) == 2
    said = capsys.readouterr()
    assert not said.out
    return said.err

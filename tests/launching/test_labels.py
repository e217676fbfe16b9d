"""Every line begins with its rank and stays whole, and no text is lost."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.launch import Labelled


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        (["one\ntwo\n"], "[3] one\n[3] two\n"),
        (["one", " more", "\n"], "[3] one more\n"),
        (["\n\n"], "[3] \n[3] \n"),
        (["a\r\nb\r\n"], "[3] a\r\n[3] b\r\n"),
        (["\r 10 %", "\r 20 %", "\n"], "\r[3]  10 %\r[3]  20 %\n"),
        (["unfinished"], "[3] unfinished"),
    ],
)
def test_each_line_begins_with_the_label(written: list[str], seen: str) -> None:
    below = io.StringIO(newline="")
    stream = Labelled(below, "[3] ")
    for text in written:
        assert stream.write(text) == len(text)
    stream.flush()
    assert below.getvalue() == seen


def test_a_line_is_written_in_one_piece() -> None:
    below = io.StringIO()
    stream = Labelled(below, "[3] ")
    stream.write("half a ")
    assert below.getvalue() == ""
    stream.write("line\nand")
    assert below.getvalue() == "[3] half a line\n"


@given(st.lists(st.text(alphabet="ab\r\n", max_size=5), max_size=12), st.lists(st.booleans(), min_size=12, max_size=12))
def test_text_is_unchanged_but_for_labels(texts: list[str], flushes: list[bool]) -> None:
    below = io.StringIO(newline="")
    stream = Labelled(below, "#")
    for text, flush in zip(texts, flushes, strict=False):
        print(text, end="", file=stream, flush=flush)
    stream.flush()
    assert below.getvalue().replace("#", "") == "".join(texts)

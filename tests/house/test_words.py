"""The words of the project: the terms of the glossary, and sentences that name their subject."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = (ROOT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8")
MOST_TERMS = 25

VERB = (
    r"(is|are|was|were|has|have|had|does|do|did|can|could|may|must|will|would|holds?|means?|makes?|takes?|goes|comes)"
)
FAULTS = {
    # The subject of the sentence is a pronoun, and the reader has to look for the noun.
    "pronoun": re.compile(
        r"^(It|They|One that|Those (that|which|who)|That which|Who|Whom|Whose|Whoever|Whatever|Nobody|Everybody)\b"
        rf"|^What\b(?!.*\?)|^(This|That|These|Those|Both|Each|Others|Such) {VERB}\b"
    ),
    # A clause with "what" or "who" stands in place of a noun.
    "hidden noun": re.compile(
        r"\b(of|by|for|with|to|from|than|as|in|on|at|over) (what|whatever|who|whom|whoever) "
        r"(is|are|has|have|had|was|were|it|they|he|comes?|came|goes|went|sends?|sent|waits?|holds?|held|asks?|each)\b",
        re.IGNORECASE,
    ),
    "archaic": re.compile(
        r"\b(whosoever|whereof|wherein|whereby|whereupon|therein|thereof|thereby|therewith|hereof|herein|hence|thence"
        r"|whence|whither|thither|hither|lest|nigh|aloft|upon|ere|henceforth|henceforward|forthwith|amongst|betwixt"
        r"|of late|at the least|at the most|in vain|foretell\w*|is so \w+ed|such a \w+ has)\b",
        re.IGNORECASE,
    ),
}

# The largest number of faults in each package. A commit that mends sentences lowers its number; none raises one.
BOUNDS = {
    "topologies": {"pronoun": 0, "hidden noun": 0, "archaic": 0},
    "gossip": {"pronoun": 29, "hidden noun": 0, "archaic": 1},
    "slowmo": {"pronoun": 6, "hidden noun": 2, "archaic": 0},
    "bench": {"pronoun": 22, "hidden noun": 2, "archaic": 0},
}


def prose(source: str) -> Iterator[str]:
    """The docstrings, attribute docstrings, comments and error messages of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from (message(argument) for argument in node.exc.args)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("#: ")


def message(argument: ast.expr) -> str:
    """The text of an error message, with `…` for each value in it."""
    if isinstance(argument, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in argument.values)
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else ""


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, without doctests."""
    lines = [line for line in text.splitlines() if not re.match(r"\s*(>>>|\.\.\. )", line)]
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:- |[\w*`]+: ))", "\n".join(lines)):
        words = " ".join(paragraph.split())
        yield from (sentence for sentence in re.split(r"(?<=[.!?:;]) ", words) if sentence)


@functools.cache
def sources(package: str) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted((ROOT / package).rglob("*.py"))]


def faults(package: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {kind: [] for kind in FAULTS}
    for sentence in dict.fromkeys(s for source in sources(package) for text in prose(source) for s in sentences(text)):
        for kind, pattern in FAULTS.items():
            if pattern.search(sentence):
                found[kind].append(sentence)
    return found


def terms() -> list[str]:
    return re.findall(r"^\*\*(.+?)\*\*", GLOSSARY, re.MULTILINE)


def test_the_glossary_has_few_terms_in_alphabetical_order() -> None:
    assert len(terms()) <= MOST_TERMS
    assert terms() == sorted(set(terms()))


def test_every_term_is_defined_in_one_line() -> None:
    _title, _introduction, *lines = filter(None, GLOSSARY.splitlines())
    assert len(lines) == len(terms())
    assert [line for line in lines if not re.fullmatch(r"\*\*[a-z ]+\*\*: \S.*\.", line)] == []


def test_docstrings_use_every_term() -> None:
    text = "\n".join(
        " ".join(docstring.split())
        for package in BOUNDS
        for source in sources(package)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and (docstring := ast.get_docstring(node))
    )
    missing = {term for term in terms() if not re.search(rf"\b{term}(s|es)?\b", text, re.IGNORECASE)}
    assert not missing


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("It lands later.", "pronoun"),
        ("What is sent is kept.", "pronoun"),
        ("This is the mean.", "pronoun"),
        ("The mean of what is held.", "hidden noun"),
        ("Ranks wait, lest one is late.", "archaic"),
    ],
)
def test_faults_are_recognised(sentence: str, kind: str) -> None:
    assert [name for name, pattern in FAULTS.items() if pattern.search(sentence)] == [kind]


@pytest.mark.parametrize(
    "sentence", ["This rank sends.", "What does a rank send?", "The flight lands and it is merged."]
)
def test_plain_sentences_are_no_faults(sentence: str) -> None:
    assert not any(pattern.search(sentence) for pattern in FAULTS.values())


def test_every_kind_of_text_is_read() -> None:
    source = (
        'x = 1\n"""Attribute."""\n# Comment.\ndef f():\n    """Doc: it."""\n    raise E(f"rank {x} is late: wait")\n'
    )
    assert Counter(prose(source)) == Counter(["Attribute.", "Comment.", "Doc: it.", "rank … is late: wait"])


@pytest.mark.parametrize("package", BOUNDS)
def test_sentences_name_their_subject(package: str) -> None:
    found = faults(package)
    worse = {kind: found[kind] for kind, most in BOUNDS[package].items() if len(found[kind]) > most}
    assert not worse

"""Translation of generated English sentences about numbers and dates into German, scored by BLEU.

"on the third of may nineteen eighty-seven we counted twenty-three thousand and five small ships" becomes "am dritten
mai neunzehnhundertsiebenundachtzig zählten wir dreiundzwanzigtausendfünf kleine schiffe": numbers turn their tens and
units round and grow together, verbs come before subjects, and dates take an ending. Tokens are words in English and
parts of words in German, of which those with ## before them belong to the word before.
"""

import itertools
from random import Random

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .text import EncoderDecoder
from .workload import Data, Workload

TRAINING, HELD, LENGTH = 4096, 256, 24
SPECIAL = ("<pad>", "<begin>", "<end>")

listed = str.split  # words, written without all the quotation marks

ONES = listed(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
EINS = listed(
    "ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn "
    "achtzehn neunzehn"
)
TENS = listed("twenty thirty forty fifty sixty seventy eighty ninety")
ZEHNER = listed("zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig")
ORDINALS = listed(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth"
)
ORDNUNG = listed(
    "ersten zweiten dritten vierten fünften sechsten siebten achten neunten zehnten elften zwölften dreizehnten "
    "vierzehnten fünfzehnten sechzehnten siebzehnten achtzehnten neunzehnten"
)
MONTHS = {
    "january": "januar", "february": "februar", "march": "märz", "april": "april", "may": "mai", "june": "juni",
    "july": "juli", "august": "august", "september": "september", "october": "oktober", "november": "november",
    "december": "dezember",
}  # fmt: skip
VERBS = {"counted": "zählten", "saw": "sahen", "sold": "verkauften", "bought": "kauften", "found": "fanden"}
SUBJECTS = {"we": "wir", "they": "sie", "the children": "die kinder", "my friends": "meine freunde"}
ADJECTIVES = {"small": "kleine", "large": "große", "old": "alte", "new": "neue", "red": "rote", "blue": "blaue"}
NOUNS = {
    "ships": "schiffe", "houses": "häuser", "books": "bücher", "birds": "vögel", "trees": "bäume", "letters": "briefe",
    "stones": "steine", "apples": "äpfel",
}  # fmt: skip
Pair = tuple[list[str], list[str]]


def number(n: int) -> Pair:
    """From 1 to 999,999."""
    for unit, word, part in ((1000, "thousand", "##tausend"), (100, "hundred", "##hundert")):
        if n >= unit:
            (english, german), rest = number(n // unit), n % unit
            more = number(rest) if rest else ([], [])
            joint = ["and"] if 0 < rest < 100 else []
            return [*english, word, *joint, *more[0]], [*german, part, *_glued(more[1])]
    if n < 20:
        return [ONES[n - 1]], [EINS[n - 1]]
    ten, one = divmod(n, 10)
    if one == 0:
        return [TENS[ten - 2]], [ZEHNER[ten - 2]]
    return [TENS[ten - 2], ONES[one - 1]], [EINS[one - 1], "##und", f"##{ZEHNER[ten - 2]}"]


def day(n: int) -> Pair:
    """From the first to the thirty-first."""
    if n < 20:
        return [ORDINALS[n - 1]], [ORDNUNG[n - 1]]
    ten, one = divmod(n, 10)
    if one == 0:
        return [f"{TENS[ten - 2][:-1]}ieth"], [ZEHNER[ten - 2], "##sten"]
    return [TENS[ten - 2], ORDINALS[one - 1]], [EINS[one - 1], "##und", f"##{ZEHNER[ten - 2]}", "##sten"]


def year(n: int) -> Pair:
    """From 1701 to 1999, as two numbers in English and one in German."""
    century, rest = divmod(n, 100)
    english, german = number(rest) if rest else (["hundred"], [])
    return [ONES[century - 1], *english], [EINS[century - 1], "##hundert", *_glued(german)]


def _glued(pieces: list[str]) -> list[str]:
    return [f"##{pieces[0].removeprefix('##')}", *pieces[1:]] if pieces else []


def text(pieces: list[str]) -> str:
    """The pieces as words."""
    return " ".join(pieces).replace(" ##", "")


def sentence(draw: Random) -> Pair:
    """A number of things, half of the time with a date before it."""
    things = number(draw.choice((draw.randrange(2, 100), draw.randrange(100, 1000), draw.randrange(1000, 1_000_000))))
    subject, verb, adjective, noun = (draw.choice(sorted(words)) for words in (SUBJECTS, VERBS, ADJECTIVES, NOUNS))
    english = [*subject.split(), verb, *things[0], adjective, noun]
    told = [*things[1], ADJECTIVES[adjective], NOUNS[noun]]
    who = SUBJECTS[subject].split()
    if draw.random() < 0.5:
        return english, [*who, VERBS[verb], *told]
    when, month, century = day(draw.randrange(1, 32)), draw.choice(sorted(MONTHS)), year(draw.randrange(1701, 2000))
    english = ["on", "the", *when[0], "of", month, *century[0], *english]
    return english, ["am", *when[1], MONTHS[month], *century[1], VERBS[verb], *who, *told]


# All tokens of both languages: those of very many sentences, of which each token is in thousands.
_SAID = list(zip(*map(sentence, [Random(0)] * 6000), strict=True))
ENGLISH, GERMAN = ([*SPECIAL, *sorted(set(itertools.chain(*said)))] for said in _SAID)
_CODES = tuple({word: code for code, word in enumerate(words)} for words in (ENGLISH, GERMAN))


class Phrases(Workload):
    """English to German."""

    title, optimizer = "phrases", "adamw"
    steps, batch, seconds = 192, 8, 8e-3
    metric, rises, worst = "BLEU", True, 0.0

    def data(self, seed: int) -> Data:
        """No sentence is held out and trained on."""
        draw = Random(seed)
        chosen: dict[str, Pair] = {}
        while len(chosen) < TRAINING + HELD:
            pair = sentence(draw)
            if len(pair[0]) <= LENGTH and len(pair[1]) < LENGTH:
                chosen[" ".join(pair[0])] = pair
        pairs = list(chosen.values())
        inputs = torch.tensor([_padded([_CODES[0][word] for word in english]) for english, _ in pairs])
        targets = torch.tensor([_padded([1, *(_CODES[1][word] for word in german), 2]) for _, german in pairs])
        return Data(inputs[HELD:], targets[HELD:], inputs[:HELD], targets[:HELD])

    def build(self) -> nn.Module:
        """One block of width 32 on each side."""
        return EncoderDecoder(len(ENGLISH), len(GERMAN), LENGTH + 1, width=32, heads=4)

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = model(inputs, targets[:, :-1]).flatten(0, 1).float()
        return cross_entropy(logits, targets[:, 1:].flatten(), ignore_index=0)

    def score(self, model: nn.Module, data: Data) -> float:
        """sacrebleu's corpus BLEU of greedy translations."""
        from sacrebleu.metrics import BLEU

        assert isinstance(model, EncoderDecoder), "what `model` makes"
        said = list(map(_words, model.translate(data.held_inputs, LENGTH).tolist()))
        meant = list(map(_words, data.held_targets[:, 1:].tolist()))
        return float(BLEU().corpus_score(said, [meant]).score)


def _padded(codes: list[int]) -> list[int]:
    return codes + [0] * (LENGTH + 1 - len(codes))


def _words(codes: list[int]) -> str:
    ended = codes[: codes.index(2)] if 2 in codes else codes
    return text([GERMAN[code] for code in ended if code > 2])

"""A language model of the text of Python's own help, and small transformers with the norm before each part."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from .workload import Data, Workload


class Attention(nn.Module):
    """softmax(QKᵀ/√d) V with several heads."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.query, self.both, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """`x` asks and `memory` answers, where `mask`, of shape (batch, 1, 1, length), is true."""
        vectors = (self.query(x), *self.both(memory).chunk(2, -1))
        q, k, v = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in vectors)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention to itself, where there is a memory attention to that, and two linear layers."""

    def __init__(self, width: int, heads: int, *, causal: bool, memory: bool = False) -> None:
        super().__init__()
        self.own, self.own_norm = Attention(width, heads, causal), nn.LayerNorm(width)
        self.other = Attention(width, heads, causal=False) if memory else None
        self.other_norm = nn.LayerNorm(width) if memory else None
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        """Shape (batch, length, width) in and out."""
        seen = self.own_norm(x)
        x = x + self.own(seen, seen, mask)
        if self.other is not None and self.other_norm is not None:
            x = x + self.other(self.other_norm(x), memory, memory_mask)
        return x + self.narrow(gelu(self.wide(self.norm(x))))  # type: ignore[no-any-return]


class Embedding(nn.Module):
    """Tokens and their places."""

    def __init__(self, tokens: int, length: int, width: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, length) to (batch, length, width)."""
        return self.tokens(tokens) + self.places.weight[: tokens.shape[1]]  # type: ignore[no-any-return]


class EncoderDecoder(nn.Module):
    """A translator. Token 0 is padding, 1 begins and 2 ends a sentence."""

    def __init__(self, sources: int, targets: int, length: int, width: int, heads: int) -> None:
        super().__init__()
        self.source, self.target = Embedding(sources, length, width), Embedding(targets, length, width)
        self.encoder = Block(width, heads, causal=False)
        self.decoder = Block(width, heads, causal=True, memory=True)
        self.memory_norm, self.norm, self.out = nn.LayerNorm(width), nn.LayerNorm(width), nn.Linear(width, targets)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of what follows each token of `target`, which is padded at its end alone."""
        return self.decode(*self.encode(source), target)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's memory, and its mask."""
        mask = (source != 0)[:, None, None, :]
        return self.memory_norm(self.encoder(self.source(source), mask)), mask

    def decode(self, memory: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        """Logits of what follows each token of `target`."""
        return self.out(self.norm(self.decoder(self.target(target), None, memory, mask)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def translate(self, source: Tensor, length: int) -> Tensor:
        """Greedily, (batch, up to length): what is most likely next, until each sentence has ended."""
        memory, mask = self.encode(source)
        target = source.new_ones(len(source), 1)
        while target.shape[1] < length and not bool((target == 2).any(1).all()):
            following = self.decode(memory, mask, target)[:, -1].argmax(-1, keepdim=True)
            target = torch.cat([target, following], 1)
        return target[:, 1:]


LENGTH, BYTES = 32, 128  # the text is ASCII but for a few signs, which stand as one byte


class Topics(Workload):
    """Python's help topics, byte by byte; a tenth of those of `pydoc_data`, drawn by seed, is held out."""

    title, optimizer = "topics", "adamw"
    steps, batch, seconds = 192, 8, 4e-3
    metric, rises, worst = "held-out bits per byte", False, 7.0

    def data(self, seed: int) -> Data:
        """Windows of `LENGTH` + 1 bytes, one after another; the targets are the inputs one byte later."""
        from pydoc_data.topics import topics

        texts = [text for _, text in sorted(topics.items())]
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
        few = len(texts) // 10
        held, rest = (_windows("\n".join(texts[place] for place in part)) for part in (order[:few], order[few:]))
        shown = held[torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))[:256]]
        return Data(rest[:, :-1], rest[:, 1:], shown[:, :-1], shown[:, 1:])

    def build(self) -> nn.Module:
        """One block of width 32."""
        return nn.Sequential(
            Embedding(BYTES, LENGTH, 32), Block(32, heads=4, causal=True), nn.LayerNorm(32), nn.Linear(32, BYTES)
        )

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten())

    def score(self, model: nn.Module, data: Data) -> float:
        """Bits per byte, each seen with up to 31 bytes before it."""
        with torch.no_grad():
            return float(self.loss(model, data.held_inputs, data.held_targets)) / math.log(2)


def _windows(text: str) -> Tensor:
    codes = torch.frombuffer(bytearray(text.encode("ascii", "replace")), dtype=torch.uint8).long()
    return codes[: len(codes) - len(codes) % (LENGTH + 1)].view(-1, LENGTH + 1)

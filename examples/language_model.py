"""A small GPT that predicts the next character, with AdamW, OSGP and slow momentum.

    mpirun -n 4 python examples/language_model.py

The text is Python's own help on its language (`pydoc_data.topics`), half a million characters that come with Python.
"""

import argparse
from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gossip
import slowmo
import topologies

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--period", type=int, default=24, help="steps between two exact averages, τ")
options = parser.parse_args()
BATCH, CONTEXT, WIDTH, LAYERS, HEADS = 16, 64, 64, 2, 4


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each after a norm and around a residual."""

    def __init__(self):
        super().__init__()
        self.before_attention, self.before_layer = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.project, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.layer = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x):
        batch, length, _ = x.shape
        heads = self.project(self.before_attention(x)).view(batch, length, 3, HEADS, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.join(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.layer(self.before_layer(x))


class GPT(nn.Module):
    """Logits of the next character at each place."""

    def __init__(self, characters):
        super().__init__()
        self.characters, self.places = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH))
        self.output = nn.Linear(WIDTH, characters)

    def forward(self, text):
        places = torch.arange(text.shape[1], device=text.device)
        return self.output(self.blocks(self.characters(text) + self.places(places)))


world = gossip.init()

text = "\n".join(topics.values())
alphabet = sorted(set(text))
number = {character: index for index, character in enumerate(alphabet)}
data = torch.tensor([number[character] for character in text], device=world.device)
train, test = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]


def draw(part, generator):
    """A batch of windows of the text, and the same moved on by one character."""
    starts = torch.randint(len(part) - CONTEXT, (BATCH, 1), generator=generator).to(world.device)
    windows = part[starts + torch.arange(CONTEXT + 1, device=world.device)]
    return windows[:, :-1], windows[:, 1:]


def loss_of(model, batch):
    """In nats per character."""
    inputs, targets = batch
    return cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


model = GPT(len(alphabet)).to(world.device)
adam = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
warmup = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: min(1.0, (step + 1) / 50))
averager = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
optimizer = gossip.GossipOptimizer(adam, averager, module=model)
optimizer = slowmo.SlowMo(optimizer, gossip.ExactAverage(world), period=options.period)

generator = torch.Generator().manual_seed(world.rank)  # every rank draws windows of its own
for step in range(1, options.steps + 1):
    optimizer.zero_grad()
    loss = loss_of(model, draw(train, generator))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    warmup.step()
    if step % 50 == 0 and world.rank == 0:
        print(f"step {step}: loss {loss.item():.2f}")
optimizer.settle()

with torch.no_grad():
    same = torch.Generator().manual_seed(0)
    losses = [loss_of(model, draw(test, same)).item() for _ in range(20)]
print(f"rank {world.rank} of {world.size}: test loss {sum(losses) / len(losses):.2f} nats per character")

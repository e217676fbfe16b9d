"""Real networks on random data: ResNet-50 on images of 224 × 224, and GPT-2 small on texts of 1024 tokens."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

IMAGES, TEXTS = 256, 16  # a batch of one rank


class Task(NamedTuple):
    """A network, the optimizer that trains it, and what leaves a batch's gradient in its parameters."""

    network: nn.Module
    optimizer: Optimizer
    passes: Callable[[], None]


class Bottleneck(nn.Module):
    """A residual block of 1 × 1, 3 × 3 and 1 × 1 convolutions (He et al. 2016, arXiv 1512.03385, figure 5)."""

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = ((channels, inner, 1, 1), (inner, inner, 3, stride), (inner, 4 * inner, 1, 1))
        for before, after, width, step in sizes:
            layers += [nn.Conv2d(before, after, width, step, width // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        same = stride == 1 and channels == 4 * inner
        project = (nn.Conv2d(channels, 4 * inner, 1, stride, bias=False), nn.BatchNorm2d(4 * inner))
        self.shortcut = nn.Identity() if same else nn.Sequential(*project)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return torch.relu(y + self.shortcut(x))


def resnet50() -> nn.Module:
    """25.6 million parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = 64
    for inner, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, inner, stride if block == 0 else 1))
            channels = 4 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


class GPT2(nn.Module):
    """GPT-2 small without dropout: 124.4 million parameters, the head tied to the embedding."""

    def __init__(self, words: int = 50257, length: int = 1024, width: int = 768, heads: int = 12, depth: int = 12):
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)
        nn.init.normal_(self.words.weight, std=0.02)

    def forward(self, texts: torch.Tensor) -> torch.Tensor:
        places = torch.arange(texts.shape[1], device=texts.device)
        x: torch.Tensor = self.blocks(self.words(texts) + self.places(places), mask=self.mask, is_causal=True)
        return x @ self.words.weight.T


def image_task(device: torch.device, seed: int) -> Task:
    """ResNet-50, SGD with Nesterov momentum, bf16 autocast, channels last."""
    torch.manual_seed(0)
    network = resnet50().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.manual_seed(seed)
    images = torch.randn(IMAGES, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (IMAGES,), device=device)
    sgd = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    return _task(network, sgd, device, lambda: cross_entropy(network(images), labels))


def text_task(device: torch.device, seed: int) -> Task:
    """GPT-2 small, AdamW, bf16 autocast."""
    torch.manual_seed(0)
    network = GPT2().to(device)
    torch.manual_seed(seed)
    texts = torch.randint(50257, (TEXTS, 1025), device=device)
    adamw = torch.optim.AdamW(network.parameters(), lr=3e-4)
    return _task(
        network, adamw, device, lambda: cross_entropy(network(texts[:, :-1]).flatten(0, 1), texts[:, 1:].flatten())
    )


def _task(network: nn.Module, optimizer: Optimizer, device: torch.device, loss: Callable[[], torch.Tensor]) -> Task:
    def passes() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            reached = loss()
        reached.backward()

    return Task(network, optimizer, passes)


TASKS: dict[str, Callable[[torch.device, int], Task]] = {"resnet50": image_task, "gpt2": text_task}

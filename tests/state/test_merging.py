"""Messages merged by the kernel and without it, against the same sum in float64."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from gossip.state import merging
from gossip.state.codecs import CODECS

GPU = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(
        not (torch.cuda.is_available() and find_spec("triton")),
        reason="the kernel needs a GPU and Triton, and this machine has not both",
    ),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wire", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("elements", [1, 255, 1024, 5000])
@pytest.mark.parametrize("messages", [1, 3])
def test_is_the_weighted_mean(device: str, dtype: torch.dtype, wire, elements: int, messages: int) -> None:
    torch.manual_seed(elements)
    z = torch.randn(elements, device=device).to(dtype)
    rooms = []
    for _ in range(messages):
        values = torch.randn(elements, device=device).to(dtype)
        rooms.append(wire.buffer(values))
        wire.encode(values, rooms[-1])
    # From w = 1/2 each in-peer brings 1/4: the mean of the held values and the received ones, by weight.
    held, ratios = torch.tensor(0.5, dtype=torch.float64, device=device), []
    exact = 0.5 * z.double()
    for room in rooms:
        held = held + 0.25
        ratios.append(0.25 / held)
        exact += 0.25 * wire.values(room).double()
    exact /= 0.5 + 0.25 * messages
    # Rounded to the nearest once, or with every message where there is no kernel, and in float32 or wider before that.
    greatest = torch.stack([z.double().abs(), *(wire.values(room).double().abs() for room in rooms)]).amax(0)
    narrow, wide = torch.finfo(dtype).eps, torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    bound = (
        0.5 * messages * narrow + 4 * messages * (torch.finfo(torch.float32).eps if wire.name else wide)
    ) * greatest
    for on_host in (True, False):
        mixed = z.clone()
        merging.mix_(mixed, rooms, [ratio.cpu() for ratio in ratios] if on_host else ratios, wire)
        assert ((mixed.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_ratio_is_not_rounded_to_16_bits(device: str, dtype: torch.dtype) -> None:
    """Over many values the rounding of each cancels, and what is left is the ratio that was really taken."""
    torch.manual_seed(0)
    z, other = (torch.randn(1 << 18, device=device).to(dtype) for _ in range(2))
    for place in ("cpu", device):
        mixed = z.clone()
        merging.mix_(mixed, [other], [torch.tensor(1 / 3, dtype=torch.float64, device=place)])
        change, whole = mixed.double() - z.double(), other.double() - z.double()
        assert abs(float((change * whole).sum() / whole.square().sum()) - 1 / 3) < 2e-5


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_change_counts_for_mass_one(device: str, dtype: torch.dtype) -> None:
    before = torch.randn(3000, device=device).to(dtype)
    values = before + torch.randn(3000, device=device).to(dtype)
    exact = before.double() + (values.double() - before.double()) / 0.75
    merging.scale_change_(before, values, torch.tensor(1 / 0.75, dtype=torch.float64, device=device))
    assert (values.double() - exact).abs().max() <= 16 * torch.finfo(dtype).eps


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and this machine has none")
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_a_gpu_is_not_waited_for(dtype: torch.dtype) -> None:
    """A ratio on the device is never read: torch raises where the host would wait for it."""
    z, other = (torch.randn(10_000, device="cuda").to(dtype) for _ in range(2))
    ratio = torch.tensor(0.5, dtype=torch.float64, device="cuda")
    merging.mix_(z, [other], [ratio])
    torch.cuda.set_sync_debug_mode("error")
    try:
        merging.mix_(z, [other], [ratio])
        merging.scale_change_(z, other, ratio)
    finally:
        torch.cuda.set_sync_debug_mode("default")

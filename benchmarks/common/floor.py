"""The least an operator can do, counted, and the least time that it takes on a known device.

Counts are of the best known algorithm (notes in each function), not of any implementation: symmetric Gram matrices
once, attention maps on chip, logits upsampled in registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["forward", "backward", "both"]


@dataclass(frozen=True)
class Count:
    """What must be done at least. FLOP counts a multiplication and an addition as two."""

    flop: float
    bytes: float
    exps: float
    """Exponentials: they have units of their own on a GPU, and these are few."""

    def __add__(self, other: Count) -> Count:
        return Count(self.flop + other.flop, self.bytes + other.bytes, self.exps + other.exps)


@dataclass(frozen=True)
class Device:
    """Rated peaks, dense, of the SXM boards."""

    bf16: float
    """bf16 and fp16 matrix products, FLOP/s."""
    tf32: float
    """TF32 matrix products, FLOP/s; an fp32-accurate product takes three of them."""
    fp32: float
    """fp32 outside of matrix units, FLOP/s."""
    bandwidth: float
    """Device memory, bytes/s."""
    exps: float
    """Exponentials a second: 16 a cycle and multiprocessor, at boost clock."""


DEVICES = {
    "H200": Device(bf16=989e12, tf32=494e12, fp32=67e12, bandwidth=4.8e12, exps=132 * 16 * 1.98e9),
    "H100": Device(bf16=989e12, tf32=494e12, fp32=67e12, bandwidth=3.35e12, exps=132 * 16 * 1.98e9),
    "A100": Device(bf16=312e12, tf32=156e12, fp32=19.5e12, bandwidth=2.04e12, exps=108 * 16 * 1.41e9),
}


def find_device(name: str) -> Device | None:
    """The device of that name, "NVIDIA H100 80GB HBM3"; None for one that is not in the table, PCIe boards too."""
    if "PCIe" in name:
        return None
    return next((device for key, device in DEVICES.items() if key in name), None)


def floor_ms(count: Count, device: Device, *, dtype: str, products: bool) -> float:
    """The longest of arithmetic, memory and exponentials, ms; `products`: the FLOP are matrix products."""
    peak = device.fp32
    if products:
        peak = max(device.fp32, device.tf32 / 3) if dtype == "fp32" else device.bf16
    return 1e3 * max(count.flop / peak, count.bytes / device.bandwidth, count.exps / device.exps)


def count_kl(batch: int, tokens: int, depth: int, itemsize: int, direction: Direction) -> Count:
    """One branch of `attention_kl`, tokens (B, T, D) of synthetic and target, gradient to the synthetic.

    Forward: the upper half of two symmetric Gram matrices, 2 B D T^2; two inputs read. Backward: one product of a
    T x T matrix with the tokens, 2 B D T^2; two inputs read, one gradient written.
    """
    pairs, size = batch * tokens**2, batch * tokens * depth * itemsize
    forward = Count(2 * depth * pairs, 2 * size, pairs)
    return _pick(forward, Count(2 * depth * pairs, 3 * size, pairs / 2), direction)


def count_l1(batch: int, tokens: int, depth: int, itemsize: int, direction: Direction) -> Count:
    """One branch of `attention_l1`, gradient to the student alone.

    Forward: two half Gram matrices, 2 B D T^2, and two maps applied, 4 B D T^2. Backward: gradient of the values, of
    the map, and of the Gram matrix, 2 B D T^2 each.
    """
    pairs, size = batch * tokens**2, batch * tokens * depth * itemsize
    forward = Count(6 * depth * pairs, 2 * size, pairs)
    return _pick(forward, Count(6 * depth * pairs, 3 * size, 0), direction)


def count_patch_entropy(
    batch: int, classes: int, low: tuple[int, int], size: tuple[int, int], itemsize: int, direction: Direction
) -> Count:
    """`patch_entropy` of logits (B, K, *low) upsampled to `size`.

    14 FLOP for each class of each pixel: 6 to interpolate, 8 for softmax, entropy and square; 22 backward, which
    recomputes them. Logits read once each way, their gradient written.
    """
    values = batch * classes * size[0] * size[1]
    logits = batch * classes * low[0] * low[1] * itemsize
    return _pick(Count(14 * values, logits, values), Count(22 * values, 2 * logits, values), direction)


def _pick(forward: Count, backward: Count, direction: Direction) -> Count:
    return {"forward": forward, "backward": backward, "both": forward + backward}[direction]

"""Counts against sums done by hand, and floors against rated peaks."""

from __future__ import annotations

import pytest

from benchmarks.common.floor import Count, count_kl, count_l1, count_patch_entropy, find_device, floor_ms


def test_attention_kl_by_hand() -> None:
    # B 2, T 4, D 3, 2 bytes: a Gram product is 2 * 2 * 4 * 4 * 3 = 192 FLOP, half of it for a symmetric one
    forward = count_kl(2, 4, 3, 2, "forward")
    assert forward == Count(flop=2 * 96, bytes=2 * 48, exps=2 * 16)
    backward = count_kl(2, 4, 3, 2, "backward")
    assert backward == Count(flop=192, bytes=3 * 48, exps=16)
    assert count_kl(2, 4, 3, 2, "both") == forward + backward


def test_attention_l1_by_hand() -> None:
    forward = count_l1(2, 4, 3, 4, "forward")
    assert forward == Count(flop=2 * 96 + 2 * 192, bytes=2 * 96, exps=32)
    assert count_l1(2, 4, 3, 4, "backward").flop == 3 * 192


def test_patch_entropy_by_hand() -> None:
    # 2 images of 8 x 16 pixels and 5 classes, logits 1 x 2
    forward = count_patch_entropy(2, 5, (1, 2), (8, 16), 4, "forward")
    assert forward == Count(flop=14 * 1280, bytes=80, exps=1280)
    assert count_patch_entropy(2, 5, (1, 2), (8, 16), 4, "backward") == Count(22 * 1280, 160, 1280)


def test_the_notes_floor_of_the_channel_branch() -> None:
    # notes/kernels.md: C 2048, N 512, batch 8: 68.7 ideal GF of the two halves, in bf16
    both = count_kl(8, 2048, 512, 2, "both")
    assert both.flop == pytest.approx(68.7e9, rel=1e-3)
    device = find_device("NVIDIA H100 80GB HBM3")
    assert device is not None
    assert floor_ms(both, device, dtype="bf16", products=True) == pytest.approx(1e3 * 68.7e9 / 989e12, rel=1e-3)
    assert floor_ms(both, device, dtype="fp32", products=True) == pytest.approx(3e3 * 68.7e9 / 494e12, rel=1e-3)


def test_the_floor_is_the_slowest_of_three() -> None:
    device = find_device("NVIDIA H200")
    assert device is not None
    assert floor_ms(Count(1, 4.8e12, 1), device, dtype="fp32", products=False) == pytest.approx(1e3)
    assert floor_ms(Count(67e12, 1, 1), device, dtype="fp32", products=False) == pytest.approx(1e3)
    assert floor_ms(Count(1, 1, device.exps), device, dtype="fp32", products=False) == pytest.approx(1e3)


@pytest.mark.parametrize("name", ["CPU Intel(R) Xeon(R) Processor", "NVIDIA H100 PCIe", "NVIDIA RTX 4090"])
def test_an_unknown_device_has_no_floor(name: str) -> None:
    assert find_device(name) is None

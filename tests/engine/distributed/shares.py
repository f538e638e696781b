"""Run by `test_distributed` in two processes: everything that is shared, against one process with the whole batch.

Each process first computes the whole batch alone, then meets the other and computes its share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from sfda_engine.distributed import collectives as distributed
from sfda_engine.errors import UserError
from sfda_engine.losses.adversarial import adversarial_loss, discriminator_loss, split_patches
from sfda_engine.losses.attention import AttentionSettings
from sfda_engine.losses.bn_statistics import bns_loss, record_statistics
from sfda_engine.losses.distillation import dad_ss_loss, dad_st_loss, mae_loss
from sfda_engine.losses.pseudo_label import pseudo_label_loss
from sfda_engine.method.ranking import rank_target
from sfda_engine.models.discriminator import PatchDiscriminator
from sfda_engine.models.norms import batch_norm_statistics, set_momentum, share_statistics
from sfda_engine.pipelines.source_training import segmentation_loss

BATCH, CLASSES, GRID, SIZE = 4, 3, 2, (16, 20)
SETTINGS = AttentionSettings(temperature=0.1, cosine=True)
close = torch.testing.assert_close


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def norms() -> nn.Sequential:
    """Convolutions that BatchNorm layers follow, one of them with a cumulative average, one over 1x1 inputs."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, 2, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.BatchNorm2d(5, affine=False),
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 4, 1, bias=False), nn.BatchNorm2d(4),
    )  # fmt: skip
    set_momentum(network[3], None)
    with torch.no_grad():
        network[1].weight.uniform_(0.5, 2)
        network[1].bias.normal_()
    return network


def bn_output(images: Tensor, network: nn.Module) -> Tensor:
    with batch_norm_statistics(network, "update"):
        return network(images + 3)


def bn_unwritten(images: Tensor, network: nn.Module) -> Tensor:
    with batch_norm_statistics(network, "batch"):
        return network(images)


def bns(images: Tensor, network: nn.Module) -> Tensor:
    with record_statistics(network) as layers:
        network(images)
    return bns_loss(layers)


def logarithm_of_mae(logits: Tensor, network: nn.Module) -> Tensor:
    """Eq. 11 under discrepancy log: not the mean of the processes' own logarithms."""
    return torch.log1p(mae_loss(torch.zeros_like(logits), logits * (1 + own(torch.arange(BATCH))[:, None, None, None])))


def dad_ss(features: Tensor, network: nn.Module) -> Tensor:
    return dad_ss_loss(own(normal(BATCH, CLASSES, 4, 5, seed=3)), features, SETTINGS)


def dad_st(features: Tensor, network: nn.Module) -> Tensor:
    return dad_st_loss(features, own(normal(BATCH, CLASSES, 4, 5, seed=3)), SETTINGS)


def max_square(logits: Tensor, network: nn.Module) -> Tensor:
    return rank_target(logits, grid=GRID, size=SIZE).max_square


def discriminated(logits: Tensor, network: nn.Module) -> Tensor:
    easy = rank_target(logits, grid=GRID, size=SIZE).easy
    return discriminator_loss(network, split_patches(logits, GRID), easy)


def adversarial(logits: Tensor, network: nn.Module) -> Tensor:
    easy = rank_target(logits, grid=GRID, size=SIZE).easy
    return adversarial_loss(network, split_patches(logits, GRID), easy)


def all_easy_here(logits: Tensor, network: nn.Module) -> Tensor:
    """The first half of the batch is easy throughout: the first process has no hard patch, the second no easy one."""
    easy = own((torch.arange(BATCH) < BATCH // 2)[:, None].expand(-1, GRID**2))
    patches = split_patches(logits, GRID)
    return adversarial_loss(network, patches, easy) + discriminator_loss(network, patches, easy)


def labels() -> Tensor:
    """None in the first half of the batch, two thirds in the second."""
    drawn = torch.randint(0, CLASSES + 1, (BATCH, *SIZE), generator=torch.Generator().manual_seed(5))
    drawn[drawn == CLASSES] = 255
    drawn[: BATCH // 2] = 255
    return own(drawn)


def pseudo_labelled(logits: Tensor, network: nn.Module) -> Tensor:
    return pseudo_label_loss(logits, labels())


def cross_entropy(logits: Tensor, network: nn.Module) -> Tensor:
    return segmentation_loss(logits, labels())


Function = Callable[[Tensor, nn.Module], Tensor]
IMAGES, LOGITS = (3, 9, 11), (CLASSES, 4, 5)
NORMS: dict[Function, tuple[int, ...]] = {bn_output: IMAGES, bn_unwritten: IMAGES, bns: IMAGES}
TERMS: dict[Function, tuple[int, ...]] = dict.fromkeys(
    [
        *(logarithm_of_mae, dad_ss, dad_st, max_square, discriminated, adversarial, all_easy_here),
        *(pseudo_labelled, cross_entropy),
    ],
    LOGITS,
)


def own(whole: Tensor) -> Tensor:
    return distributed.own_share(whole)


def run(function: Function, network: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, gradient of the inputs, and the network's gradients and buffers, after one backward pass."""
    inputs = own(normal(BATCH, *shape, seed=7)).requires_grad_()
    network.zero_grad()
    output = function(inputs, network)
    upstream = own(normal(BATCH, *output.shape[1:], seed=8)) if output.ndim else torch.tensor(0.7)
    output.backward(upstream)
    if any(parameter.grad is not None for parameter in network.parameters()):
        distributed.average_gradients(network.parameters())
    gradient = torch.zeros_like(inputs) if inputs.grad is None else inputs.grad  # D's loss gives the student none
    left = {name: value for name, value in network.named_buffers() if value.is_floating_point()}
    left |= {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    return output.detach(), gradient, {name: value.clone() for name, value in left.items()}


def functions() -> list[tuple[Function, nn.Module, tuple[int, ...]]]:
    torch.manual_seed(2)
    discriminator = PatchDiscriminator(CLASSES, GRID**2, 8)
    cases = [(function, norms(), shape) for function, shape in NORMS.items()]
    return cases + [(function, copy.deepcopy(discriminator), shape) for function, shape in TERMS.items()]


def check(function: Function, network: nn.Module, shape: tuple[int, ...], alone: tuple) -> None:
    """The same as alone: terms in value, outputs and gradients in this process's share.

    Of a term, which all have, the objective is the mean over processes: a share's gradient is `processes()` times what
    it is of the whole. Of outputs, of which each has its own, it is the sum.
    """
    factor = distributed.processes() if function in TERMS or function is bns else 1
    output, gradient, left = run(function, network, shape)
    close(output, own(alone[0]) if output.ndim else alone[0], rtol=1e-5, atol=1e-6, msg=function.__name__)
    close(gradient, factor * own(alone[1]), rtol=1e-4, atol=1e-6, msg=f"{function.__name__}: gradient")
    for name, value in left.items():
        averaged = alone[2][name] if "running" in name else alone[2][name] * factor / distributed.processes()
        close(value, averaged, rtol=1e-4, atol=1e-6, msg=f"{function.__name__}: {name}")


def check_ranking(alone: dict[str, Tensor], tied: Tensor, logits: Tensor) -> None:
    for name, whole in (("drawn", logits), ("tied", tied)):
        assert torch.equal(rank_target(own(whole), grid=GRID, size=SIZE).easy, own(alone[name])), name


def check_helpers() -> None:
    index = distributed.process_index()
    assert distributed.any_process(index == 1)
    assert not distributed.any_process(False)
    assert torch.equal(distributed.gather(torch.tensor([index], dtype=torch.uint8)), torch.tensor([0, 1]).byte())
    assert distributed.decided_by_main(lambda: f"process {index}") == "process 0"
    with pytest.raises(UserError, match="made by process 0"):
        distributed.decided_by_main(mistake)
    layer = nn.BatchNorm1d(2)
    with torch.no_grad():
        layer.running_mean.fill_(index + 1)
    distributed.copy_from_main(layer)
    assert layer.running_mean.tolist() == [1, 1]


def mistake() -> str:
    raise UserError(f"made by process {distributed.process_index()}")


def main() -> None:
    torch.set_num_threads(1)
    assert distributed.processes() == 1
    alone = [run(*case) for case in functions()]
    logits = normal(BATCH, *LOGITS, seed=9)
    tied = logits[[0, 1, 0, 1]]
    easy = {name: rank_target(of, grid=GRID, size=SIZE).easy for name, of in (("drawn", logits), ("tied", tied))}
    distributed.join()
    assert dist.get_world_size() == 2
    for (function, network, shape), expected in zip(functions(), alone, strict=True):
        share_statistics(network)
        check(function, network, shape, expected)
    check_ranking(easy, tied, logits)
    check_helpers()
    distributed.leave()
    print(f"{len(alone)} functions agree")


if __name__ == "__main__":
    main()

"""TENT (Wang, Shelhamer, Liu, Olshausen, Darrell, "Fully test-time adaptation by entropy minimization", ICLR 2021).

Entropy of the predictions, normalized by the statistics of the batch, moves scale and shift of the BN layers alone.
Settings of github.com/DequanWang/tent, cfgs/tent.yaml: Adam, learning rate 1e-3, betas 0.9 and 0.999, no weight decay,
constant rate, one update a batch.

Differs from the paper: its code predicts each batch with that batch's own statistics and keeps no running ones; here,
as for every method, the network is scored afterwards on held-out frames with running statistics, which begin as the BN
warm start and follow the batches by the engine's momentum. The frames are seen more than once. What the paper sets for
segmentation is not in its repository; the settings above are those of its example.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import ConstantLR

from benchmarks.common.methods.entropy import mean_entropy, size_of
from benchmarks.common.methods.target import Target, descend, forward, frames, warm_start
from sfda_engine.models.norms import batch_norm_layers


def tent(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """At its own learning rate."""
    yield from tent_at(network, target, lr=1e-3)


def tent_at(network: nn.Module, target: Target, *, lr: float) -> Iterator[nn.Module]:
    """Entropy in nats, descended on by the BN layers' affine parameters."""
    warm_start(network, target)
    network.requires_grad_(False)
    affine = [parameter for layer in batch_norm_layers(network).values() for parameter in layer.parameters()]
    for parameter in affine:
        parameter.requires_grad_(True)
    optimizer = Adam(affine, lr=lr, betas=(0.9, 0.999))

    def loss(images: Tensor) -> Tensor:
        return mean_entropy(forward(network, images).logits, size_of(images))

    yield from descend(network, target, optimizer, ConstantLR(optimizer, factor=1.0), frames(target), loss)

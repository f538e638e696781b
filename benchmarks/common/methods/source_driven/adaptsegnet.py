"""AdaptSegNet (Tsai, Hung, Schulter, Sohn, Yang, Chandraker, "Learning to adapt structured output space for semantic
segmentation", CVPR 2018): a discriminator tells source from target predictions, the network makes them alike.

Single-level: on the output. Multi-level: on that of an auxiliary head as well, with a discriminator of its own.
Settings of github.com/wasidennis/AdaptSegNet, train_gta2cityscapes_multi.py, model/discriminator.py and README.md:
softmax at the input's size into five 4x4 convolutions of stride 2, 64 to 512 channels wide, leaky ReLU 0.2; binary
cross-entropy ("vanilla"), source 0 and target 1, halved for the discriminator; the adversarial term weighs 0.001 on
the output, 0.0002 on the auxiliary one, whose cross-entropy weighs 0.1; SGD, learning rate 2.5e-4, momentum 0.9,
weight decay 5e-4; Adam, 1e-4, betas 0.9 and 0.99 for discriminators; polynomial decay of power 0.9 for all.

Differs from the paper: starts at the source network, not at ImageNet's weights, so that the auxiliary head alone begins
from nothing. That head is a pixel-wise (1x1) convolution of the encoder features F, with ten times the learning rate:
every segmenter here returns F and has layers of its own behind it. There it is a dilated convolution on conv4, since
DeepLab v2 has only the classifier behind conv5. The decay ends with the run (150,000 of 250,000 steps there); batches
of the table's size, not of one frame; augmented source frames; scale and shift of BN layers learn too; learning rate
and BN as in the package's docstring.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import PolynomialLR

from benchmarks.common.methods.cbst import labelled_loss
from benchmarks.common.methods.entropy import size_of
from benchmarks.common.methods.labelling import outputs
from benchmarks.common.methods.source_driven.source import LabelledSource, source_forward, source_frames
from benchmarks.common.methods.target import Target, forward, frames, warm_start
from sfda_engine.distributed.optimizer_step import make_update
from sfda_engine.models.segmenter import SegmenterOutput, upsample

RATE = 2.5e-4


class Level(NamedTuple):
    """Weights of an output's cross-entropy on the source and of its adversarial term on the target."""

    segmentation: float
    adversarial: float


MAIN = Level(segmentation=1.0, adversarial=0.001)
AUXILIARY = Level(segmentation=0.1, adversarial=0.0002)


def output_discriminator(classes: int) -> nn.Sequential:
    """Probabilities (B, K, H, W), H, W >= 32 -> logits (B, 1, H/32, W/32) that they are of the target."""
    layers: list[nn.Module] = []
    for inputs, width in itertools.pairwise((classes, 64, 128, 256, 512, 1)):
        layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def called_source(logits: Tensor) -> Tensor:
    """Mean binary cross-entropy of a discriminator's logits, of any shape, with label 0."""
    return functional.softplus(logits.float()).mean()


def called_target(logits: Tensor) -> Tensor:
    """Mean binary cross-entropy of a discriminator's logits, of any shape, with label 1."""
    return functional.softplus(-logits.float()).mean()


def auxiliary_head(network: nn.Module, target: Target) -> nn.Conv2d:
    """Encoder features (B, C, h', w') -> logits (B, K, h', w'); the published initialization."""
    head = nn.Conv2d(next(outputs(network, target)).features.shape[1], target.info.num_classes, 1)
    nn.init.normal_(head.weight, std=0.01)
    return head.to(target.accelerator.device)


def predictions(output: SegmenterOutput, heads: nn.ModuleList, size: tuple[int, int]) -> list[Tensor]:
    """Logits (B, K, H, W) of the main output, then of the auxiliary heads."""
    levels = [output.logits, *(head(output.features) for head in heads)]
    return [upsample(logits.float(), size) for logits in levels]


def adaptsegnet_single(network: nn.Module, target: Target, labelled: LabelledSource) -> Iterator[nn.Module]:
    """A discriminator on the output."""
    warm_start(network, target)
    yield from _adversarial(network, target, labelled, [MAIN], nn.ModuleList())


def adaptsegnet_multi(network: nn.Module, target: Target, labelled: LabelledSource) -> Iterator[nn.Module]:
    """Discriminators on the output and on that of an auxiliary head, which is dropped at the end."""
    warm_start(network, target)
    heads = nn.ModuleList([auxiliary_head(network, target)])
    yield from _adversarial(network, target, labelled, [MAIN, AUXILIARY], heads)


def _adversarial(
    network: nn.Module, target: Target, labelled: LabelledSource, levels: list[Level], heads: nn.ModuleList
) -> Iterator[nn.Module]:
    accelerator = target.accelerator
    discriminators = nn.ModuleList(output_discriminator(target.info.num_classes) for _ in levels)
    discriminators.to(accelerator.device).to(memory_format=torch.channels_last)
    learning = [*network.parameters(), *heads.parameters()]
    groups: list[dict[str, Any]] = [{"params": network.parameters()}, {"params": heads.parameters(), "lr": 10 * RATE}]
    optimizer = SGD(groups, lr=RATE, momentum=0.9, weight_decay=5e-4)
    adam = Adam(discriminators.parameters(), lr=1e-4, betas=(0.9, 0.99))
    schedules = [PolynomialLR(each, total_iters=target.steps, power=0.9) for each in (optimizer, adam)]
    updates = [make_update(accelerator, each) for each in (optimizer, adam)]
    for source, images in zip(source_frames(target, labelled), frames(target), strict=True):
        with accelerator.autocast():
            on_source = predictions(source_forward(network, source.images), heads, size_of(images))
            on_target = predictions(forward(network, images), heads, size_of(images))
            loss, judged = torch.zeros(2, device=images.device)
            for level, discriminator, own, other in zip(levels, discriminators, on_source, on_target, strict=True):
                of_target = discriminator(other.softmax(1))
                of_source = discriminator(own.detach().softmax(1))
                loss = loss + level.segmentation * labelled_loss(own, source.labels)
                loss = loss + level.adversarial * called_source(of_target)
                judged = judged + (called_source(of_source) + called_target(of_target)) / 2
        # one pass of target predictions through the discriminators serves both sides, each with its own gradient
        accelerator.backward(loss, inputs=learning, retain_graph=True)
        accelerator.backward(judged, inputs=list(discriminators.parameters()))
        for update, schedule in zip(updates, schedules, strict=True):
            update.step()
            schedule.step()
        yield network

"""Third stage of a run: generator warm-up and adaptation, as phases of the one loop."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sfda_engine.data.images import ImageSize, stated
from sfda_engine.data.loaders import TargetFrames, draw_loader, mix_seeds
from sfda_engine.distributed.collectives import gather, own_share
from sfda_engine.judge.collapse import make_probe
from sfda_engine.method.optimizers import prepare_networks
from sfda_engine.method.self_training import self_training_batches
from sfda_engine.method.steps import (
    SelfTraining,
    adaptation_step,
    generator_terms,
)
from sfda_engine.models.generator import LATENT_DIM
from sfda_engine.models.norms import batch_norm_statistics
from sfda_engine.pipelines.objective import objective_of, total_steps, warmup_steps
from sfda_engine.pipelines.preparation import Prepared, put_under
from sfda_engine.training.guard import Guard
from sfda_engine.training.loop import Intervals, Loop, Phase, in_steps
from sfda_engine.training.position import PhaseName
from sfda_engine.training.snapshots import Snapshots

ZOOM = 1.5
"""Largest enlargement of pseudo-labelled frames: things as large as the teacher saw them."""


class Batch(NamedTuple):
    """Normalized target frames (B, 3, H, W) and, where the run trains on pseudo-labels, a batch of those."""

    images: Tensor
    self_training: SelfTraining | None = None


class Trainer:
    """Trains prepared networks as a configuration says; `run` returns when the last step is done."""

    def __init__(
        self,
        prepared: Prepared,
    ) -> None:
        self.inputs, self.start = prepared.inputs, prepared.start
        self.config, self.accelerator = self.inputs.config, self.inputs.accelerator
        self.target, self.preprocess = prepared.training, prepared.preprocess
        self.objective = objective_of(self.config.method)
        self.steps = total_steps(self.config, len(self.target))
        self.warmup_steps = warmup_steps(self.config)
        run, method, accelerator = self.config.run, self.config.method, self.accelerator
        self.networks, self.updates, self.schedule = prepare_networks(
            prepared.networks,
            self.objective,
            accelerator,
            lr=method.lr,
            generator_lr=method.generator_lr,
            discriminator_lr=method.discriminator_lr,
            clip_grad_norm=method.clip_grad_norm,
            steps=self.steps,
        )
        networks = self.networks
        self.loop = Loop(
            accelerator,
            {"student": networks.student, "generator": networks.generator, "discriminator": networks.discriminator},
            self.schedule,
            folder=self.inputs.folder,
            intervals=Intervals(
                log_every=run.log_every, checkpoint_every=run.checkpoint_every, keep_last=run.keep_last
            ),
            after_step=self._take_snapshot,
        )
        self.snapshots = Snapshots(0 if self.objective.fresh else self.steps)
        accelerator.register_for_checkpointing(self.snapshots)

    @property
    def size(self) -> ImageSize:
        """(width, height) of the frames as the student sees them."""
        return self.start.view.size

    def run(self) -> None:
        """Warm-up and adaptation from wherever the newest checkpoint left off, to the last step or the third strike.

        Raises TrainingError on NaN where `method.guard` is off.
        """
        guard = self.make_guard() if self.config.method.guard else None
        self.loop.run(self.phases(), resume=self.config.run.resume, guard=guard)

    def phases(self) -> list[Phase]:
        """Generator warm-up, where there is any, and adaptation."""
        return [
            Phase("generator_warmup", self.warmup_steps, partial(self.batches, "generator_warmup"), self.warm_up_on),
            Phase("adaptation", self.steps, partial(self.batches, "adaptation"), self.adapt_on, self.schedule),
        ]

    def finish_statistics(self, student: nn.Module) -> None:
        """Estimate the BN statistics of trained weights as those that the run began with; all processes do.

        `student` is the network itself, or another with its layers.
        """
        if self.objective.target_bn == "running":
            put_under(self.inputs, student, self.start.view)

    def make_guard(self) -> Guard:
        """The guard of a run that begins, or that is yet to be loaded: the student is as it starts."""
        target = self.config.target
        if self.objective.fresh:
            return Guard(self.networks, self.updates, None)
        probe = make_probe(
            self.networks.student, self.target, self.preprocess, size=self.size, batch_size=target.batch_size
        )
        return Guard(self.networks, self.updates, probe)

    def _take_snapshot(self, phase: PhaseName, step: int) -> None:
        if phase == "adaptation":
            self.snapshots.take(step, self.accelerator.unwrap_model(self.networks.student))

    def batches(self, phase: PhaseName, start: int, stop: int) -> Iterator[tuple[int, list[Batch]]]:
        """The batches of every step: `gradient_accumulation` of them, from draws that only the seed decides."""
        run, target = self.config.run, self.config.target
        repeat = run.gradient_accumulation
        seed = mix_seeds(run.seed, 1 if phase == "generator_warmup" else 2)
        loader: DataLoader = self.accelerator.prepare(
            draw_loader(
                TargetFrames(self.target, size=self.size, flip=True, seed=seed, crop=stated(target.crop)),
                len(self.target),
                batch_size=target.batch_size,
                seed=seed,
                start=start * repeat,
                stop=stop * repeat,
                num_workers=run.num_workers,
            )
        )
        labelled = self.self_training(phase, start * repeat, stop * repeat)
        batches = (Batch(self._seen(item["image"]), own) for item, own in zip(loader, labelled, strict=False))
        return in_steps(batches, start=start, repeat=repeat)

    def _seen(self, images: Tensor) -> Tensor:
        return self.preprocess(images).contiguous(memory_format=torch.channels_last)

    def self_training(self, phase: PhaseName, start: int, stop: int) -> Iterator[SelfTraining | None]:
        """A batch of pseudo-labelled frames for each of the draws `start` to `stop`; None where there are no labels."""
        if self.start.pseudo_labelled is None or phase == "generator_warmup":
            return itertools.repeat(None)
        target = self.config.target
        return self_training_batches(
            self.accelerator,
            self.preprocess,
            self.start.pseudo_labelled,
            size=self.size,
            crop=stated(target.crop),
            zoom=ZOOM,
            batch_size=target.batch_size,
            num_workers=self.config.run.num_workers,
            seed=self.config.run.seed,
            start=start,
            stop=stop,
        )

    def warm_up_on(self, index: int, batch: Batch) -> dict[str, Tensor]:
        networks, objective = self.networks, self.objective
        with self.accelerator.autocast():
            features = None
            if objective.tau > 0:
                with torch.no_grad(), batch_norm_statistics(networks.student, objective.unwritten_statistics):
                    features = networks.student(batch.images).features
            terms = generator_terms(networks, self._latent(0, index, 0), features, objective, warmup=True)
        self.updates.generator(terms["total"])
        return {f"generator/{name}": value.detach() for name, value in terms.items()}

    def adapt_on(self, index: int, batch: Batch) -> dict[str, Tensor]:
        latents = [self._latent(1, index, part) for part in range(self.config.method.generator_steps + 1)]
        return adaptation_step(
            self.networks,
            self.updates,
            batch.images,
            latents,
            self.objective,
            self.accelerator.autocast,
            batch.self_training,
        )

    def _latent(self, phase: int, step: int, part: int) -> Tensor:
        """z ~ N(0, I) of Eq. 3: drawn for the global batch from (seed, phase, step, part), this process's share."""
        generator = torch.Generator().manual_seed(mix_seeds(self.config.run.seed, 3, phase, step, part))
        latent = torch.randn(self.config.target.batch_size, LATENT_DIM, generator=generator)
        return own_share(latent).to(self.accelerator.device)

    @torch.no_grad()
    def synthesize(self, count: int) -> Tensor:
        """Synthetic images (count, 3, h, w) of the generator as it stands, for the report; all processes draw them."""
        return gather(self.networks.generator(self._latent(2, 0, 0)))[:count]


def train(prepared: Prepared) -> Trainer:
    """Train to the last step, or to the guard's third strike. Raises TrainingError, KeyboardInterrupt (`Loop.run`)."""
    trainer = Trainer(prepared)
    trainer.run()
    return trainer

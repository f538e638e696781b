"""The SFDA loop under Accelerate: generator warm-up, adaptation; logging, checkpoints, Ctrl-C."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import PolynomialLR
from torch.utils.data import DataLoader

from sfda_engine.config.schema import Config
from sfda_engine.data.loaders import TargetFrames, draw_loader, mix_seeds
from sfda_engine.data.readers import Images
from sfda_engine.distributed.collectives import any_process, copy_from_main, gather, own_share
from sfda_engine.distributed.interrupts import Interrupts, stopped
from sfda_engine.distributed.optimizer_step import make_update
from sfda_engine.errors import TrainingError
from sfda_engine.judge.collapse import make_probe
from sfda_engine.method.self_training import self_training_batches
from sfda_engine.method.steps import (
    Networks,
    SelfTraining,
    Updates,
    adaptation_step,
    generator_terms,
    unwritten_statistics,
)
from sfda_engine.method.synthetic_views import draw_view
from sfda_engine.method.warm_start import estimate_on_target
from sfda_engine.models.generator import View
from sfda_engine.models.norms import batch_norm_statistics, set_momentum, share_statistics
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.run_folder.checkpoint import load_newest, save_checkpoint
from sfda_engine.run_folder.start import Start
from sfda_engine.training.guard import Guard
from sfda_engine.training.metrics import Metrics
from sfda_engine.training.position import Position, total_steps, warmup_steps
from sfda_engine.training.progress import RunProgress
from sfda_engine.training.snapshots import Snapshots

log = logging.getLogger(__name__)

LATENT = 256


class Batch(NamedTuple):
    """Normalized target frames (B, 3, H, W) and, where the run trains on pseudo-labels, a batch of those."""

    images: Tensor
    self_training: SelfTraining | None = None


class Trainer:
    """Runs the phases of one adaptation on prepared networks; `run` returns when the last step is done."""

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        networks: Networks,
        preprocess: Preprocess,
        target: Images,
        run_folder: Path | None,
        start: Start,
    ) -> None:
        self.config, self.accelerator, self.target, self.run_folder = config, accelerator, target, run_folder
        self.start = start
        self.preprocess = preprocess.to(accelerator.device)
        self.steps = total_steps(config, len(target))
        self.warmup_steps = warmup_steps(config)
        self.position = Position()
        self.networks, self.updates, self.schedule = self._prepare(networks)
        judged = config.method.student_init != "fresh"
        self.snapshots = Snapshots(self.steps if judged else 0)
        accelerator.register_for_checkpointing(self.position, self.schedule, self.snapshots)
        self.metrics = Metrics(run_folder / "metrics.jsonl" if run_folder and accelerator.is_main_process else None)
        self.interrupts = Interrupts()
        self.guard: Guard | None = None

    def _prepare(self, networks: Networks) -> tuple[Networks, Updates, PolynomialLR]:
        method, accelerator = self.config.method, self.accelerator
        student_optimizer = torch.optim.SGD(
            networks.student.parameters(),
            lr=method.lr,
            momentum=method.momentum,
            weight_decay=method.weight_decay,
            nesterov=method.momentum > 0,
        )
        generator_optimizer = torch.optim.Adam(
            networks.generator.parameters(), lr=method.generator_lr, betas=method.generator_betas
        )
        discriminator_optimizer = torch.optim.Adam(
            networks.discriminator.parameters(), lr=method.discriminator_lr, betas=method.discriminator_betas
        )
        set_momentum(networks.student, method.bn_momentum)
        for network in (networks.source, networks.student, networks.generator, networks.discriminator):
            copy_from_main(network)
            network.to(memory_format=torch.channels_last)  # faster convolutions
        trained = (networks.student, networks.generator, networks.discriminator)
        for network in trained:
            share_statistics(network)
        # evaluation_mode: not wrapped in DistributedDataParallel, see `Update`
        student, generator, discriminator = (accelerator.prepare_model(one, evaluation_mode=True) for one in trained)
        # eval mode: no dropout in any pass of the student, so that MAE measures the models and not the noise;
        # BatchNorm is governed pass by pass
        student.eval()
        source = networks.source.to(accelerator.device).eval().requires_grad_(False)
        updates = Updates(
            student=make_update(accelerator, student_optimizer, method.student_clip_grad_norm),
            generator=make_update(accelerator, generator_optimizer, method.clip_grad_norm),
            discriminator=make_update(accelerator, discriminator_optimizer),
        )
        schedule = PolynomialLR(student_optimizer, total_iters=self.steps, power=method.poly_power)
        return Networks(source, student, generator, discriminator), updates, schedule

    def run(self) -> None:
        """Warm-up and adaptation from wherever the newest checkpoint left off, to the last step or the third strike.

        Raises TrainingError on NaN where `method.guard` is off.
        """
        if self.config.method.guard:
            self.guard = self._make_guard()
            self.accelerator.register_for_checkpointing(self.guard)
        if self.config.run.resume and self.run_folder is not None:
            load_newest(self.accelerator, self.run_folder)
            self.metrics.rewind(self.position.total)
        with RunProgress(enabled=self.accelerator.is_main_process) as progress, self.interrupts:
            if self.position.warmup < self.warmup_steps and not self._struck_out():
                self._phase(progress, "generator warm-up", "warmup", self.warmup_steps, self.warm_up_on)
            if not self._asked_to_stop() and not self._struck_out():
                self._phase(progress, "adaptation", "adaptation", self.steps, self.adapt_on)
        if self._asked_to_stop():
            raise stopped(self.run_folder)

    def finish_statistics(self, student: nn.Module) -> None:
        """Estimate the BN statistics of trained weights as those that the run began with; all processes do.

        `student` is the network itself, or another with its layers.
        """
        if passes := self.config.method.bn_final_passes:
            estimate_on_target(
                student,
                self.networks.source,
                self.preprocess,
                self.target,
                self.config,
                self.accelerator,
                passes=passes,
                share=self.start.source_share,
            )

    def _make_guard(self) -> Guard:
        """The guard of a run that begins, or that is yet to be loaded: the student is as it starts."""
        method = self.config.method
        if method.student_init == "fresh" or not method.bn_warm_start_passes:
            return Guard(self.networks, self.updates, None)
        probe = make_probe(self.networks.student, self.target, self.config.target, self.preprocess)
        return Guard(self.networks, self.updates, probe)

    def _struck_out(self) -> bool:
        return self.guard is not None and self.guard.ended

    def _asked_to_stop(self) -> bool:
        """Whether any process was, so that all stop after the same step; a signal reaches each at its own time."""
        asked = any_process(self.interrupts.requested)
        if asked:
            self.interrupts.requested = True
        return asked  # not `requested`, which a signal may have turned true since, on this process alone

    def _phase(self, progress: RunProgress, title: str, counter: str, total: int, step: Any) -> None:
        run, done = self.config.run, getattr(self.position, counter)
        progress.phase(title, total=total, completed=done)
        seen, since = 0, time.perf_counter()
        for index, batches in self.batches(counter, done, total):
            for batch in batches:
                with self.accelerator.accumulate(*self._trained()):
                    self.metrics.add(step(index, batch))
                seen += len(batch.images) * self.accelerator.num_processes
            if counter == "adaptation":
                self.schedule.step()
            setattr(self.position, counter, index + 1)
            progress.advance()
            stop = self._asked_to_stop()  # once: Ctrl-C while this step is logged counts for the next one
            save = self.position.total % run.checkpoint_every == 0 or index + 1 == total
            due = (index + 1) % run.log_every == 0 or save
            if due or stop:
                elapsed = time.perf_counter() - since
                self._log(progress, title, counter, index + 1, total, seen / elapsed, look=due)
                self.position.seconds += elapsed
            if counter == "adaptation":  # after the guard: weights that it went back from are no candidates
                self.snapshots.take(index + 1, self.accelerator.unwrap_model(self.networks.student))
            if save or stop or self._struck_out():
                self.save()
            if due or stop:
                seen, since = 0, time.perf_counter()
            if stop or self._struck_out():
                break

    def batches(self, counter: str, start: int, stop: int) -> Iterator[tuple[int, list[Batch]]]:
        """The batches of every step: `gradient_accumulation` of them, from draws that only the seed decides."""
        run, target = self.config.run, self.config.target
        repeat = run.gradient_accumulation
        seed = mix_seeds(run.seed, 1 if counter == "warmup" else 2)
        loader: DataLoader = self.accelerator.prepare(
            draw_loader(
                TargetFrames(self.target, size=target.size, flip=target.augment, seed=seed, crop=target.crop),
                len(self.target),
                batch_size=target.batch_size,
                seed=seed,
                start=start * repeat,
                stop=stop * repeat,
                num_workers=target.num_workers,
            )
        )
        batches: list[Batch] = []
        index = start
        for item, labelled in zip(loader, self._self_training(counter, start * repeat, stop * repeat), strict=False):
            images = self.preprocess(item["image"]).contiguous(memory_format=torch.channels_last)
            batches.append(Batch(images, labelled))
            if len(batches) == repeat:
                yield index, batches
                batches, index = [], index + 1

    def _self_training(self, counter: str, start: int, stop: int) -> Iterator[SelfTraining | None]:
        if self.start.pseudo_labelled is None or counter == "warmup":
            return itertools.repeat(None)
        return self_training_batches(
            self.config, self.accelerator, self.preprocess, self.start.pseudo_labelled, start=start, stop=stop
        )

    def warm_up_on(self, index: int, batch: Batch) -> dict[str, Tensor]:
        networks, method = self.networks, self.config.method
        view = self._view(0, index)
        with self.accelerator.autocast():
            features = None
            if method.tau > 0:
                with torch.no_grad(), batch_norm_statistics(networks.student, unwritten_statistics(method)):
                    features = networks.student(batch.images).features
                    features = view.of_features(features, (batch.images.shape[-2], batch.images.shape[-1]))
            terms = generator_terms(networks, self._latent(0, index, 0), features, method, warmup=True, view=view)
        self.updates.generator(terms["total"])
        return {f"generator/{name}": value.detach() for name, value in terms.items()}

    def adapt_on(self, index: int, batch: Batch) -> dict[str, Tensor]:
        latents = [self._latent(1, index, part) for part in range(self.config.method.generator_steps + 1)]
        return adaptation_step(
            self.networks,
            self.updates,
            batch.images,
            latents,
            self.config.method,
            self.accelerator.autocast,
            batch.self_training,
            self._view(1, index),
        )

    def _view(self, phase: int, step: int) -> View:
        """What the synthetic images of a step show, the same on all processes: drawn from (seed, phase, step)."""
        return draw_view(self.config, torch.Generator().manual_seed(mix_seeds(self.config.run.seed, 5, phase, step)))

    def _latent(self, phase: int, step: int, part: int) -> Tensor:
        """z ~ N(0, I) of Eq. 3: drawn for the global batch from (seed, phase, step, part), this process's share."""
        generator = torch.Generator().manual_seed(mix_seeds(self.config.run.seed, 3, phase, step, part))
        latent = torch.randn(self.config.target.batch_size, LATENT, generator=generator)
        return own_share(latent).to(self.accelerator.device)

    @torch.no_grad()
    def synthesize(self, count: int) -> Tensor:
        """Synthetic images (count, 3, h, w) of the generator as it stands, for the report; all processes draw them."""
        return gather(self.networks.generator(self._latent(2, 0, 0), self._view(2, 0)))[:count]

    def _log(
        self, progress: RunProgress, title: str, counter: str, step: int, total: int, rate: float, *, look: bool
    ) -> None:
        """Write the means of the terms since the last line. `look`: let the guard look, which it does at the same steps
        whether a run is stopped in between or not."""
        guard = self.guard if look else None
        means = self.metrics.flush(title, step) if guard is None else self._guarded(counter, guard)
        means |= {"lr": float(self.schedule.get_last_lr()[0]), "images_per_second": rate}
        phase = "generator_warmup" if counter == "warmup" else "adaptation"
        self.metrics.write({"phase": phase, "step": step, "total_step": self.position.total} | means)
        self.accelerator.log({f"{phase}/{name}": value for name, value in means.items()}, step=self.position.total)
        progress.status(title, step, total, means)

    def _guarded(self, counter: str, guard: Guard) -> dict[str, float]:
        """Means of the terms since the last log step, as far as they are finite, and the guard's signals."""
        terms = self.metrics.means()
        look = guard.look(self.position.total, adapting=counter == "adaptation", terms=terms)
        if look.event is not None:
            log.warning("step %(total_step)d, strike %(strike)d: %(seen)s; %(done)s", look.event)
            self.metrics.write({"phase": "guard", **look.event})
        return {name: value for name, value in terms.items() if math.isfinite(value)} | look.signals

    def save(self) -> None:
        """Write a checkpoint, unless the weights broke between two log steps. Raises TrainingError where they did."""
        broken = [
            name
            for name, module in zip(("student", "generator", "discriminator"), self._trained(), strict=True)
            if not all(bool(p.isfinite().all()) for p in module.parameters())
        ]
        if broken:
            raise TrainingError(
                f"weights of the {', '.join(broken)} are no longer finite; the last good checkpoint is kept"
            )
        if self.run_folder is not None:
            save_checkpoint(self.accelerator, self.run_folder, self.position.total, keep_last=self.config.run.keep_last)

    def _trained(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.networks.student, self.networks.generator, self.networks.discriminator

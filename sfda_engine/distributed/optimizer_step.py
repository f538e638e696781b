"""Descent on one loss, or on the sum of several: over processes, under fp16, with accumulated gradients."""

from __future__ import annotations

from dataclasses import dataclass, field

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from sfda_engine.distributed.collectives import average_gradients


@dataclass(frozen=True)
class Update:
    """Descend on a loss, or on the sum of several: `backward` each, then `step`. Honors gradient accumulation.

    The gradient is averaged over processes once, before the step: DistributedDataParallel would do so in every backward
    pass, and does not know of networks that several losses run through, some of them frozen. `scaler` scales the losses
    of this update alone under fp16: with a shared one, the generator's step would unscale, and its overflow rescale,
    what the student has gathered so far.
    """

    accelerator: Accelerator
    optimizer: AcceleratedOptimizer
    clip_grad_norm: float | None = None
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))

    def __call__(self, loss: Tensor) -> None:
        self.backward(loss)
        self.step()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss, and free its graph."""
        self.accelerator.backward(self.scaler.scale(loss))

    def step(self) -> None:
        """Average over processes, clip where asked, move the weights, forget the gradients."""
        if not self.accelerator.sync_gradients:
            return
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        average_gradients(parameters)
        if self.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(parameters, self.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


def make_update(accelerator: Accelerator, optimizer: Optimizer, clip_grad_norm: float | None = None) -> Update:
    """An update of what `optimizer` moves; under fp16 with a loss scale of its own, which its checkpoints hold."""
    half = accelerator.mixed_precision == "fp16"
    scaler = GradScaler(accelerator.device.type, enabled=half)
    if half:
        accelerator.register_for_checkpointing(scaler)
    return Update(accelerator, accelerator.prepare_optimizer(optimizer), clip_grad_norm, scaler)

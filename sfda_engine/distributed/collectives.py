"""Several processes as one: each holds an equal share of the global batch, in the order of the processes.

One rule keeps their losses those of a single process: every term is a value over the global batch, equal on all of
them, and `average_gradients` then averages what each has found. The backward pass of a sum over processes is a sum
over processes, so statistics that are shared this way get the gradient that they would have in one process.

A single process takes none of these ways: every function returns what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from torch import Tensor, nn

from sfda_engine.errors import TrainingError, UserError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long one process waits for the others before it ends the job: they may have died without a word."""


def launched() -> int:
    """Processes that the launcher has started, known before they meet."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def speaks() -> bool:
    """Whether this process speaks for all of them; known before they meet and after they have parted."""
    return launched() == 1 or os.environ.get("RANK") == "0"


def join() -> None:
    """Meet the other processes of an `accelerate launch`: over NCCL on GPUs (gloo for what lies on the CPU), or gloo.

    A machine without a GPU needs no `--cpu`, with which Accelerate's launcher would start one process alone.
    """
    if launched() == 1 or dist.is_initialized():
        return
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in this process
    gpu = torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")
    PartialState(cpu=not gpu, timeout=TIMEOUT, **({"backend": "cuda:nccl,cpu:gloo"} if gpu else {}))


def leave() -> None:
    """Part from the others at the end of a command. Not sooner: processes that have parted cannot meet again."""
    if dist.is_initialized():
        dist.destroy_process_group()


def processes() -> int:
    """Processes that have met; 1 where there is no other."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_index() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def _others_answer() -> Iterator[None]:
    """Turn an exchange that a lost process has broken off into a TrainingError that says so."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"another process of this job has died or does not answer ({str(error).splitlines()[0]}); what it said "
            "itself is above, or in the log of its machine. Checkpoints are kept: go on with --run.resume true"
        ) from error


def wait_for_all() -> None:
    """Return when every process has come by here. Raises TrainingError where one never will."""
    if processes() > 1:
        with _others_answer():
            PartialState().wait_for_everyone()


class _Total(torch.autograd.Function):
    """Sum over processes; torch's own `distributed.nn.functional` is deprecated, and does the same."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        result = tensor.clone(memory_format=torch.contiguous_format)
        with _others_answer():
            dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.apply(gradient)


def total(tensor: Tensor) -> Tensor:
    """Sum over processes of tensors of one shape; differentiable, the one exchange that all others are made of."""
    return tensor if processes() == 1 else _Total.apply(tensor)


def mean(tensor: Tensor) -> Tensor:
    """Mean over processes: of the global batch, where `tensor` is a mean over this process's share. Differentiable."""
    return tensor if processes() == 1 else total(tensor) / processes()


def mean_of_all(values: Tensor) -> Tensor:
    """Mean of the elements that all processes hold, of which one may have more than another, or none."""
    if processes() == 1:
        return values.mean()
    summed, count = total(torch.stack([values.sum(), values.new_tensor(values.numel())])).unbind()
    return summed / count


def gather(share: Tensor) -> Tensor:
    """The global batch (B, ...) from equal shares (B / processes, ...), in the order of processes. Differentiable."""
    if processes() == 1:
        return share
    shares = share.new_zeros(processes(), *share.shape)
    shares[process_index()] = share
    return total(shares).flatten(0, 1)


def own_share(whole: Tensor) -> Tensor:
    """This process's share (B / processes, ...) of a global batch (B, ...)."""
    return whole.chunk(processes())[process_index()]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over processes, in one exchange."""
    if processes() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    averaged = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, averaged.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def copy_from_main(module: nn.Module) -> None:
    """Give every process the main one's parameters and buffers: on GPUs, equal seeds need not mean equal bits."""
    if processes() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true on any process. Over gloo, so that no GPU is waited for."""
    return flag if processes() == 1 else bool(total(torch.tensor(int(flag))))


def decided_by_main(decide: Callable[[], T]) -> T:
    """`decide()` of the main process, on all of them; its UserError too."""
    if processes() == 1:
        return decide()
    decision: list[Any] = [None]
    if process_index() == 0:
        try:
            decision = [decide()]
        except UserError as error:
            decision = [error]
    (decided,) = broadcast_object_list(decision)
    if isinstance(decided, UserError):
        raise decided
    return decided

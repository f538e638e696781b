"""Checkpointed blocks: the same losses, gradients and running statistics as kept ones, in less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sfda_engine.errors import UserError
from sfda_engine.method.steps import frozen
from sfda_engine.models import build_segmenter
from sfda_engine.models.activation_checkpointing import blocks_of, checkpoint_activations
from sfda_engine.models.norms import Statistics, batch_norm_layers, batch_norm_statistics
from sfda_engine.models.segmenter import SegmenterOutput

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def kept_and_checkpointed() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    kept = build_segmenter("streetnet", 4).eval()
    checkpointed = copy.deepcopy(kept)
    checkpoint_activations(checkpointed)
    return kept, checkpointed


def forward(model: nn.Module, use: Statistics) -> SegmenterOutput:
    with batch_norm_statistics(model, use):
        output: SegmenterOutput = model(IMAGES)
    return output


@pytest.mark.parametrize("use", ["running", "batch", "update"])
def test_bits_of_outputs_gradients_and_statistics(use: Statistics) -> None:
    kept, checkpointed = kept_and_checkpointed()
    outputs = [forward(model, use) for model in (kept, checkpointed)]
    for output in outputs:
        (output.logits.square().mean() + output.features.sin().mean()).backward()
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    theirs = dict(checkpointed.named_parameters())
    for name, parameter in kept.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0, name
        assert torch.equal(parameter.grad, theirs[name].grad), name
    state = checkpointed.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in kept.state_dict().items())
    tracked = next(tensor for name, tensor in state.items() if name.endswith("num_batches_tracked"))
    assert int(tracked) == (use == "update")


def test_a_frozen_student_passes_gradients_and_gets_none() -> None:
    kept, checkpointed = kept_and_checkpointed()
    gradients: list[Tensor] = []
    for model in (kept, checkpointed):
        images = IMAGES.clone().requires_grad_()
        with frozen(model), batch_norm_statistics(model, "batch"):
            logits = model(images).logits
        logits.square().mean().backward()  # by now the weights are trained again, and the layers in eval mode
        assert images.grad is not None
        gradients.append(images.grad)
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        assert not any(layer.training or not layer.track_running_stats for layer in batch_norm_layers(model).values())
    assert torch.equal(gradients[0], gradients[1])


def test_the_random_state_is_repeated() -> None:
    drop = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)))
    kept, checkpointed = drop, copy.deepcopy(drop)
    checkpoint_activations(checkpointed)
    found = []
    for model in (kept, checkpointed):
        torch.manual_seed(3)
        model(torch.ones(4, 8)).square().sum().backward()
        found.append(([parameter.grad for parameter in model.parameters()], torch.rand(())))
    assert all(torch.equal(one, other) for one, other in zip(found[0][0], found[1][0], strict=True))
    assert found[0][1] == found[1][1]


def saved_bytes(model: nn.Module) -> int:
    """What the graph of a pass keeps alive, beside the parameters."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(model, "batch")
    return sum(seen.values())


def test_less_is_kept() -> None:
    kept, checkpointed = kept_and_checkpointed()
    assert saved_bytes(checkpointed) < 0.6 * saved_bytes(kept)


@pytest.mark.parametrize(
    ("arch", "blocks"),
    [("streetnet", 7), ("deeplabv3_resnet50", 17), ("lraspp_mobilenet_v3_large", 17), ("segnet_vgg16", 5)],
)
def test_every_architecture_has_blocks_that_do_not_overlap(arch: str, blocks: int) -> None:
    with torch.device("meta"):
        found = list(blocks_of(build_segmenter(arch, 4)))
    inside = [module for block in found for module in block.modules()]
    assert len(inside) == len(set(inside))
    assert len(found) == blocks


def test_a_copy_computes_with_its_own_weights() -> None:
    _, checkpointed = kept_and_checkpointed()
    copied = copy.deepcopy(checkpointed)
    with torch.no_grad():
        for parameter in checkpointed.parameters():
            parameter.zero_()
    assert forward(copied, "batch").logits.abs().max() > 0


def test_a_network_without_blocks() -> None:
    with pytest.raises(UserError, match="has no blocks"):
        checkpoint_activations(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))

"""Weights files: self-describing safetensors of ours, foreign state dicts, and strict loading of both."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import warnings
from argparse import Namespace
from dataclasses import asdict, dataclass, field
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.files import whole_file
from sfda_engine.models import ARCHITECTURES, build_segmenter
from sfda_engine.models.foreign_state import State, matched, states_in
from sfda_engine.models.preprocess import Exposure, Normalization
from sfda_engine.models.user_module import UserModule

METADATA_KEY = "sfda"
MOST_CLASSES = 1000
LONGEST_NAME = 200
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
# what trainers keep beside weights, and what makes nothing but itself: options and single numbers
HARMLESS: list[Any] = [
    Namespace,
    PurePosixPath,
    PosixPath,
    numpy.dtype,
    *(type(numpy.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")),
    (numpy.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (numpy.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
]


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """What a weights file says about itself, so that no later command repeats it."""

    arch: str
    """Key of ARCHITECTURES or "module.path:factory"."""
    num_classes: int
    class_names: tuple[str, ...] = ()
    """One name for each class; empty if unknown."""
    palette: tuple[tuple[int, int, int], ...] = ()
    """One RGB color (0..255) for each class; empty if unknown."""
    normalization: Normalization = field(default_factory=Normalization)
    exposure: Exposure = "none"
    """none | gamma, see `models.preprocess`."""
    feature_layer: str | None = None
    """The encoder's last layer; for a user module only."""
    size: ImageSize | None = None
    """(width, height) in pixels it was trained at; None if unknown."""
    source_sha256: str | None = None
    """Hash of the source weights it was adapted from."""
    method: str | None = None
    """What made it, for example "train_source" or "sfda stable"."""


def weights_module(model: nn.Module) -> nn.Module:
    """The module whose keys a weights file holds: the user's own network, else the segmenter itself."""
    return model.network if isinstance(model, UserModule) else model


def save_weights(path: str | Path, model: nn.Module, info: WeightsInfo) -> None:
    """Write the model's state and `info` to a safetensors file, whole or not at all."""
    state = weights_module(model).state_dict()
    # Cloned because safetensors refuses tensors that share memory (tied weights).
    tensors = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    with whole_file(Path(path)) as partial:
        # Not save_file: it makes a file that only its owner can read, whatever the umask. One entry of metadata:
        # safetensors writes several in random order, and equal models should make equal files.
        partial.write_bytes(save(tensors, metadata={METADATA_KEY: json.dumps(asdict(info))}))


def read_weights(path: str | Path, network: nn.Module | None = None) -> tuple[dict[str, Tensor], WeightsInfo | None]:
    """Read a state dict (CPU tensors) and its description; None if the file is not one of ours.

    Formats: .safetensors, or what torch saves (TORCH_SUFFIXES): a state dict, bare or anywhere in a checkpoint. With
    the `network` that it is for, it is the state that fits best, without its prefix (`foreign_state`); else the
    largest. No code in the file is run. UserError: it is missing, of another kind, damaged, holds code, or no tensors.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"weights {path} {what}: give the path of a weights file")
    if path.suffix == ".safetensors":
        state, info = read_safetensors(path)
        states = {"": state}
    elif path.suffix in TORCH_SUFFIXES:
        states, info = read_torch(path), None
    else:
        known = ", ".join((".safetensors", *TORCH_SUFFIXES))
        raise UserError(f"weights {path}: unknown suffix '{path.suffix}', a weights file ends in one of {known}")
    if info is None and network is not None:
        return matched(states, network.state_dict(), path), None
    return max(states.values(), key=len), info


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], WeightsInfo | None]:
    """Tensors and description of a safetensors file; UserError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {path} is truncated or damaged ({error}): copy or download it again") from error
    return state, parse_info(path, metadata[METADATA_KEY]) if METADATA_KEY in metadata else None


def parse_info(path: Path, text: str) -> WeightsInfo:
    """The description in the metadata; UserError if this version cannot read it."""
    try:
        fields = json.loads(text)
        norm = fields["normalization"]
        norm = Normalization(**(norm | {"mean": tuple(norm["mean"]), "std": tuple(norm["std"])}))
        tuples: dict[str, Any] = {
            "class_names": tuple(fields["class_names"]),
            "palette": tuple(tuple(color) for color in fields["palette"]),
            "size": ImageSize(*fields["size"]) if fields["size"] else None,
        }
        return checked(WeightsInfo(**(fields | tuples | {"normalization": norm})))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"weights {path}: its description cannot be read ({repr(error)[:200]}); another version wrote it, "
            "read it with that version or write it again"
        ) from error


def checked(info: WeightsInfo) -> WeightsInfo:
    """`info` itself. ValueError where a field, as a damaged file may have it, is not what its type says."""
    count, norm = info.num_classes, info.normalization
    numbers = (*norm.mean, *norm.std, norm.value_range)
    fits = {
        "arch": isinstance(info.arch, str) and len(info.arch) <= LONGEST_NAME,
        "num_classes": type(count) is int and 2 <= count <= MOST_CLASSES,
        "class_names": len(info.class_names) in (0, count) and all(isinstance(name, str) for name in info.class_names),
        "palette": len(info.palette) in (0, count) and all(map(is_color, info.palette)),
        "exposure": info.exposure in ("none", "gamma"),
        "feature_layer": info.feature_layer is None or isinstance(info.feature_layer, str),
        "size": info.size is None or (len(info.size) == 2 and all(type(n) is int and n > 0 for n in info.size)),
        "normalization": len(norm.mean) == len(norm.std) == 3
        and all(map(math.isfinite, numbers))
        and min(norm.std) > 0,
    }
    if wrong := [name for name, good in fits.items() if not good]:
        raise ValueError(f"impossible {', '.join(wrong)}")
    return info


def is_color(color: tuple[int, ...]) -> bool:
    """Whether a color has three whole values of 0..255."""
    return len(color) == 3 and all(type(value) is int and 0 <= value <= 255 for value in color)


def read_torch(path: Path) -> dict[str, State]:
    """The state dicts in a torch file, by their place; UserError if it is damaged, holds code, or holds none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the errors below say all that is needed
            with torch.serialization.safe_globals(HARMLESS):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"weights {path} is damaged, or holds Python code or objects beside tensors; nothing in it was executed. "
            "Re-save its state_dict as .safetensors where you trust it"
        ) from error
    except Exception as error:
        raise UserError(
            f"weights {path} is truncated, a TorchScript archive or no torch file ({type(error).__name__}): "
            "copy it again, or save the model's state_dict()"
        ) from error
    states = dict(states_in(content))
    if not states:
        raise UserError(f"weights {path} hold a {type(content).__name__} without tensors: save model.state_dict()")
    return states


def load_state(model: nn.Module, state: dict[str, Tensor], origin: str | Path) -> None:
    """Load `state` into `model` (in place), strictly: every key there, no other key, every shape equal.

    `origin` names the file in the UserError, which lists missing, unexpected and misshapen keys: nothing is loaded.
    """
    module = weights_module(model)
    expected = module.state_dict()
    problems = [
        *list_keys("missing", [key for key in expected if key not in state]),
        *list_keys("unexpected", [key for key in state if key not in expected]),
        *list_keys(
            "misshapen",
            [
                f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
                for key, value in expected.items()
                if key in state and state[key].shape != value.shape
            ],
        ),
    ]
    if problems:
        problems = [*class_mismatch(expected, state), *problems]
        arch = next((name for name, kind in ARCHITECTURES.items() if kind is type(model)), type(module).__name__)
        raise UserError(f"weights {origin} do not fit {arch}: " + "; ".join(problems))
    module.load_state_dict(state)


def list_keys(kind: str, keys: list[str], limit: int = 10) -> list[str]:
    """One phrase with the count and the first `limit` keys, or none if there are no keys."""
    more = ", ..." if len(keys) > limit else ""
    listed = ", ".join(key[:200] for key in keys[:limit])  # a hostile file may have long ones
    return [f"{len(keys)} {kind} ({listed}{more})"] if keys else []


def class_mismatch(expected: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """A phrase if the final layer, the last weight matrix, differs in its number of outputs alone."""
    key = next((key for key in reversed(expected) if expected[key].ndim >= 2), None)
    if key is None or key not in state or state[key].ndim != expected[key].ndim:
        return []
    found, wanted = state[key].shape, expected[key].shape
    if found[0] == wanted[0] or found[1:] != wanted[1:]:
        return []
    return [
        f"the file has {found[0]} classes, the model was built for {wanted[0]} (final layer {key}), "
        f"set model.num_classes to {found[0]}"
    ]


def build_from_weights(
    path: str | Path,
    arch: str | None = None,
    num_classes: int | None = None,
    feature_layer: str | None = None,
) -> tuple[nn.Module, WeightsInfo]:
    """Build the segmenter a weights file describes and load it; CPU, training mode as torch builds it.

    What the file says need not be stated; a foreign file needs `arch` and `num_classes` and gets ImageNet's
    normalization and unknown class names. UserError: a stated value differs, or nothing says what to build.
    """
    state, info = read_weights(path)
    stated = {"arch": arch, "num_classes": num_classes, "feature_layer": feature_layer}
    if info is None:
        if arch is None:
            raise UserError(
                f"weights {path} do not say what network they are for: name it with --model.arch module.path:factory, "
                f"or one of {', '.join(ARCHITECTURES)}"
            )
        num_classes = num_classes or last_layer_classes(state, arch)
        model = build_segmenter(arch, num_classes, feature_layer)
        load_state(model, read_weights(path, weights_module(model))[0], path)
        if isinstance(model, UserModule):
            model.look_at_output()
            num_classes, feature_layer = model.num_classes, model.feature_layer
        assert num_classes is not None
        return model, WeightsInfo(arch=arch, num_classes=num_classes, feature_layer=feature_layer)
    for name, value in stated.items():
        if value is not None and value != getattr(info, name):
            raise UserError(
                f"model.{name} is {value}, but weights {path} say {getattr(info, name)}: "
                "leave it null or use other weights"
            )
    model = build_segmenter(info.arch, info.num_classes, info.feature_layer)
    load_state(model, state, path)
    if isinstance(model, UserModule):
        model.look_at_output()
    return model, info


def last_layer_classes(state: dict[str, Tensor], arch: str) -> int | None:
    """Outputs of the weight matrix that an architecture of ours ends with; None for others, or where it is absent."""
    if arch not in ARCHITECTURES:
        return None
    with torch.device("meta"):
        own = build_segmenter(arch, 2).state_dict()
    key = next(key for key in reversed(own) if own[key].ndim >= 2)  # a file may have its keys in another order
    return len(state[key]) if key in state else None


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

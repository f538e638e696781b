"""The configuration's dotted keys, read off its dataclasses: type, default and documentation of each."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields, is_dataclass
from difflib import SequenceMatcher
from functools import cache
from types import NoneType
from typing import Any, Literal

from sfda_engine.config.schema import Config


@dataclass(frozen=True)
class Section:
    """A dataclass of keys; an optional one is None unless one of its keys is given."""

    cls: type
    optional: bool
    doc: str


@dataclass(frozen=True)
class Key:
    """One value that YAML or the command line can set."""

    hint: Any
    default: Any
    section: type
    name: str

    @property
    def doc(self) -> str:
        """The docstring beside the field."""
        return _docs(self.section)[self.name]

    @property
    def is_text(self) -> bool:
        """Whether any text is a value of this key: its type is `str` or `str | None`."""
        return str in (self.hint, *typing.get_args(self.hint))


@cache
def _docs(cls: type) -> dict[str, str]:
    """Docstrings of a dataclass's fields, of its bases first; a run that prints no help does without the parser."""
    from docstring_parser import parse_from_object

    params = [param for base in reversed(cls.__mro__[:-1]) for param in parse_from_object(base).params]
    return {param.arg_name: " ".join((param.description or "").split()) for param in params}


def _collect(cls: type, prefix: str = "") -> tuple[dict[str, Section], dict[str, Key]]:
    sections: dict[str, Section] = {}
    keys: dict[str, Key] = {}
    hints = typing.get_type_hints(cls)
    for field in fields(cls):
        if not field.compare:  # Config.name is not a key
            continue
        name, hint = f"{prefix}{field.name}", hints[field.name]
        members = (hint, *typing.get_args(hint))
        section = next((member for member in members if isinstance(member, type) and is_dataclass(member)), None)
        if section is None:
            keys[name] = Key(hint, field.default, cls, field.name)
            continue
        sections[name] = Section(section, NoneType in members, (section.__doc__ or "").strip())
        inner_sections, inner_keys = _collect(section, f"{name}.")
        sections |= inner_sections
        keys |= inner_keys
    return sections, keys


SECTIONS, KEYS = _collect(Config)
LONGEST_NAME = 100
CLOSE = 0.65
"""Least likeness of the last parts of two keys, one of which may have been meant: batch is batch_size, dir not root."""


def nearest(name: str) -> str:
    """The section or key most like `name`: as a whole, or in its last part ("lr" is near "method.lr")."""
    name = name[:LONGEST_NAME]  # the time of a comparison grows with the square of the length

    def likeness(known: str) -> float:
        return max(_likeness(name, known), 0.95 * _likeness(name, known, last=True))

    return max([*SECTIONS, *KEYS], key=likeness)


def _likeness(name: str, known: str, *, last: bool = False) -> float:
    """0 to 1, of whole names or of their last parts."""
    if last:
        name, known = name.rpartition(".")[2], known.rpartition(".")[2]
    return SequenceMatcher(None, name, known).ratio()


RENAMED = {
    "target.num_workers": "run.num_workers",
    "source.num_workers": "run.num_workers",
    "source.scale": "source.augment",
    "source.flip": "source.augment",
    "source.jitter": "source.augment",
    "method.max_square_scale": "method.terms (stable: halved, printed: whole)",
    "method.attention": "method.temperature (null = raw dot products)",
    "method.discrepancy": "method.terms",
    "method.bns_norm": "method.terms",
    "method.discriminator_input": "method.terms",
    "method.bn_source_share": "method.bn_share",
    "method.bn_warm_start_passes": "method.bn_share (1 = no warm start)",
    "method.student_clip_grad_norm": "method.clip_grad_norm",
    "method.synthetic_sizes": "method.synthetic_size",
}
"""Keys of earlier versions, and what does their work now."""
GONE = {
    "model.activation_checkpointing",
    "target.augment",
    "target.max_corrupt_share",
    "evaluate.window_overlap",
    "source.momentum",
    "method.attention_divergence",
    "method.bn_final_passes",
    "method.bn_momentum",
    "method.discriminator_betas",
    "method.generator_betas",
    "method.generator_width",
    "method.max_square_image_weighted",
    "method.momentum",
    "method.poly_power",
    "method.pseudo_label_drop",
    "method.pseudo_label_scales",
    "method.synthetic_view",
    "method.weight_decay",
}
"""Keys of earlier versions that nothing replaces: what they set is as it should be."""


def suggest(name: str) -> str:
    """What to take for an unknown key: what an old one is called now, the nearest one where it is like it, else what
    there is to choose from."""
    if name in RENAMED:
        return f"it is now {RENAMED[name]}"
    if name in GONE:
        return "it was removed: leave it out"
    close = nearest(name)
    if _likeness(name[:LONGEST_NAME], close, last=True) >= CLOSE:
        return f"the nearest valid one is {close!r}"
    section = name.partition(".")[0]
    if section not in SECTIONS or section == name:
        return f"the sections are {', '.join(known for known in SECTIONS if '.' not in known)}"
    keys = ", ".join(known.removeprefix(f"{section}.") for known in KEYS if known.startswith(f"{section}."))
    return f"the keys of {section} are {keys}"


def shown(text: str, longest: int = 120) -> str:
    """A word of the user's as a message quotes it: control characters escaped, what is long cut."""
    return repr(text if len(text) <= longest else f"{text[:longest]}...")


def describe(hint: Any) -> str:
    """A type in the words of YAML: "int or null", "[int, int]", "one of: stable, literal"."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is Literal:
        return "one of: " + ", ".join(map(str, arguments))
    if origin is tuple:
        return f"[{', '.join('...' if a is Ellipsis else describe(a) for a in arguments)}]"
    if NoneType in arguments:
        return " or ".join(describe(argument) for argument in arguments)
    return {NoneType: "null", bool: "true or false"}.get(hint, getattr(hint, "__name__", str(hint)))

"""result.json -> the words and figures that the page shows; honest where the adapted model lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sfda_engine.report.numbers import Tone, duration, fixed, number, signed, tone

MODELS = {
    "source": "Source model",
    "bn_warm_start": "Full BN warm start",
    "start": "Start",
    "adapted": "Shipped model",
}
MEASURES = {
    "miou": "mIoU, at the labels' own size",
    "miou_training_size": "mIoU, at training size",
    "pixel_accuracy": "Pixel accuracy",
    "mean_pixel_accuracy": "Mean class accuracy",
}
VERDICTS: dict[str, tuple[str, Tone]] = {
    "adapted": ("Adapted model ships", "good"),
    "keep_start": ("The start ships, untrained", "warn"),
    "keep_source": ("The untouched source ships", "warn"),
}
HELD = {
    "keep_source": "the weights of the source model",
    "keep_start": "the weights of the source with the BN statistics that were chosen for the start",
}
GRAY = "#94a3b8"


@dataclass(frozen=True, kw_only=True)
class Badge:
    """A short colored label."""

    text: str
    tone: Tone


@dataclass(frozen=True, kw_only=True)
class Alert:
    """A colored box: a title in bold, then one or two sentences."""

    tone: Tone
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """One of the models on the labelled frames: mIoU in percent and its gain over the source."""

    key: str
    title: str
    value: float | None
    gain: float | None


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class: its CSS color, the IoU of the models in the order of MODELS, and adapted minus source."""

    name: str
    color: str
    values: tuple[float | None, ...]
    gain: float | None


def section(result: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A nested object of the result, empty where it is absent or null."""
    value = result.get(key)
    return value if isinstance(value, Mapping) else {}


def judged(result: Mapping[str, Any]) -> bool:
    """Whether the run was judged without labels; a fresh student is not."""
    return bool(section(result, "selection"))


def held(result: Mapping[str, Any]) -> str:
    """What adapted.safetensors holds, in words."""
    if not judged(result):
        return "the last weights"
    step = section(result, "selection").get("step")
    return HELD.get(str(result.get("verdict")), f"the weights after step {fixed(step, 0)}")


def scores(result: Mapping[str, Any]) -> list[Score]:
    """The mIoU cards; empty where no labels were given."""
    miou = {key: number(section(result, "miou").get(key)) for key in MODELS}
    if miou["adapted"] is None:
        return []
    return [
        Score(key=key, title=MODELS[key], value=miou[key], gain=_minus(miou[key], miou["source"])) for key in MODELS
    ]


def badges(result: Mapping[str, Any]) -> list[Badge]:
    """What the engine decided, and where labels are known, whether the adapted model is better."""
    text, color = VERDICTS.get(str(result.get("verdict")), ("No verdict", "plain"))
    found = [Badge(text=text, tone=color) if judged(result) else Badge(text="Not judged", tone="plain")]
    over_source, over_start = _gains(result)
    if tone(over_source) == "bad":
        found.append(Badge(text="Worse than source", tone="bad"))
    elif tone(over_start) == "bad":
        found.append(Badge(text="Worse than its start", tone="warn"))
    elif tone(over_source) == "good":
        found.append(Badge(text="Better than source", tone="good"))
    elif over_source is not None:
        found.append(Badge(text="No change", tone="plain"))
    return found


def headline(result: Mapping[str, Any]) -> str:
    """What happened, in one or two plain sentences."""
    effort = f"{_count(result.get('steps'), 'step')} ({duration(result.get('seconds'))})"
    found = {score.key: score.value for score in scores(result)}
    if not found:
        return (
            f"The model was adapted to unlabelled frames of the target in {effort}. No labels were given, so "
            "this report shows what changed and how the model was judged without them, not how much better it is."
        )
    frames = _count(result.get("evaluated_frames"), "labelled frame")
    over_source, over_start = _gains(result)
    comparisons = []
    if over_source is not None:
        comparisons.append(f"{_compare(over_source)} the source model ({fixed(found['source'])})")
    if over_start is not None:
        comparisons.append(f"{_compare(over_start)} its start ({fixed(found['start'])})")
    reached = f"On {frames} of the target the shipped model reaches {fixed(found['adapted'])} mIoU"
    return f"{', '.join([reached, ' and '.join(comparisons)] if comparisons else [reached])}, after {effort}."


def alerts(result: Mapping[str, Any], *, unread_lines: int = 0) -> list[Alert]:
    """What a reader must not miss, worst first."""
    found = []
    over_source, over_start = _gains(result)
    if over_source is not None and tone(over_source) == "bad":
        text = (
            f"It lost {abs(over_source):.1f} points of mIoU on the labelled frames. Keep the source model, "
            "unless these frames do not stand for the target. A mild shift can leave nothing to win."
        )
        found.append(Alert(tone="bad", title="The shipped model is worse than the source model", text=text))
    if over_start is not None and tone(over_start) == "bad":
        text = f"The start, without any training, scores {abs(over_start):.1f} points of mIoU more."
        found.append(Alert(tone="warn", title="The shipped model is worse than its start", text=text))
    found.append(_judgement(result))
    if unread_lines:
        text = f"{_count(unread_lines, 'line')} of metrics.jsonl could not be read; the curves leave them out."
        found.append(Alert(tone="warn", title="The loss curves are incomplete", text=text))
    return found


def class_rows(result: Mapping[str, Any]) -> list[ClassRow]:
    """Per-class IoU in the order of `classes`; empty where no labels were given."""
    iou = section(result, "iou")
    if not iou:
        return []
    rows = []
    for name, color in legend(result):
        values = tuple(number(section(iou, key).get(name)) for key in MODELS)
        rows.append(ClassRow(name=name, color=color, values=values, gain=_minus(values[-1], values[0])))
    return rows


def class_sentence(rows: list[ClassRow]) -> str:
    """How many classes gained and lost, and the two extremes."""
    gains = {row.name: row.gain for row in rows if row.gain is not None}
    if not gains:
        return ""
    counts = [sum(tone(gain) == kind for gain in gains.values()) for kind in ("good", "bad")]
    text = f"Against the source model {_count(counts[0], 'class', 'classes')} improved and {counts[1]} lost"
    best, worst = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    if counts[0]:
        text += f"; most gained: {best} ({signed(gains[best])})"
    if counts[1]:
        text += f"; most lost: {worst} ({signed(gains[worst])})"
    return text + "."


def measures(result: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """The table of all measures: a title, then the models and the last weights, in percent."""
    keys = [*MODELS, "last"]
    rows = [(title, [number(section(result, key).get(model)) for model in keys]) for key, title in MEASURES.items()]
    return [row for row in rows if any(value is not None for value in row[1])]


def legend(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Class names and CSS colors; gray where the palette has none."""
    names = result.get("classes") or []
    colors = [_css(color) for color in result.get("palette") or []]
    return [(str(name), colors[index] if index < len(colors) else GRAY) for index, name in enumerate(names)]


def _css(color: Any) -> str:
    """ "#rrggbb", gray where there are no three whole numbers of 0 to 255."""
    good = isinstance(color, list | tuple) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)
    return "#" + "".join(f"{channel:02x}" for channel in color) if good else GRAY


def facts(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The small cards: title, value, unit."""
    memory = number(result.get("peak_memory_mb"))
    used = (fixed(memory, 0), "MB") if memory is None or memory < 1000 else (fixed(memory / 1000), "GB")
    time, _, unit = duration(result.get("seconds")).partition(" ")
    frames = result.get("evaluated_frames")
    labelled = [("Labelled frames", fixed(frames, 0), "for evaluation only")] if frames else []
    return [
        ("Speed", fixed(result.get("images_per_second")), "images/s"),
        ("Adaptation time", time, unit),
        ("Peak memory", *used),
        ("Adaptation steps", fixed(result.get("steps"), 0), ""),
        *labelled,
    ]


def strikes(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The guard's strikes: step, what was seen, what was done; empty where there was none."""
    events = section(result, "guard").get("events") or []
    return [(fixed(event.get("total_step"), 0), str(event.get("seen")), str(event.get("done"))) for event in events]


def provenance(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What it takes to get the same result again."""
    keys = ["config", "arch", "preset", "exposure", "device", "seed", "verdict", "verdict_basis"]
    keys += sorted(key for key in result if key.endswith("_sha256"))
    rows = [(key.replace("_", " "), str(result[key])) for key in keys if result.get(key) is not None]
    return rows + [(f"{name} version", str(version)) for name, version in sorted(section(result, "versions").items())]


def _judgement(result: Mapping[str, Any]) -> Alert:
    if not judged(result):
        text = (
            "A student that started fresh is not judged: adapted.safetensors is simply the last weights of the run, "
            "whether they are better than the source model or not."
        )
        if scores(result):
            text += " The scores on this page come from labels that took no part in the adaptation."
        return Alert(tone="info", title="Not judged", text=text)
    title = VERDICTS.get(str(result.get("verdict")), ("No verdict", "plain"))[0]
    text = f"Judged without labels. Basis: {result.get('verdict_basis')}. adapted.safetensors holds {held(result)}."
    return Alert(tone="info", title=title, text=text)


def _gains(result: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """mIoU of the shipped model minus the source's, and minus the start's."""
    found = {score.key: score.value for score in scores(result)}
    adapted = found.get("adapted")
    return _minus(adapted, found.get("source")), _minus(adapted, found.get("start"))


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _compare(gain: float) -> str:
    if tone(gain) == "plain":
        return "level with"
    return f"{abs(gain):.1f} points {'above' if gain > 0 else 'below'}"


def _count(value: Any, one: str, many: str = "") -> str:
    count = number(value)
    if count is None:
        return f"the {many or one + 's'}"
    return f"{count:,.0f} {one if count == 1 else many or one + 's'}"

"""The page: self-contained, escaped, honest, the same bytes for the same folder."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfda_engine.errors import UserError
from sfda_engine.report import summary
from sfda_engine.report.figures import save_frame, save_synthetic
from sfda_engine.report.html import write_report

EVIL = "<img src=x onerror=alert(1)>"
PALETTE = [[70, 130, 180], [128, 64, 128], [0, 0, 142]]
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects attributes and text, and checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def make_result(*, labels: bool = True, adapted: float = 32.0, **changes: Any) -> dict[str, Any]:
    result: dict[str, Any] = {
        "verdict": "adapted",
        "verdict_basis": "not judged",
        "steps": 200,
        "seconds": 120.3,
        "images_per_second": 13.2,
        "peak_memory_mb": 812.0,
        "classes": ["sky", "road", "car"],
        "palette": PALETTE,
        "warnings": ["learning rate is high"],
        "seed": 7,
        "arch": "streetnet",
        "preset": "paper",
        "source_sha256": "ab" * 32,
        "versions": {"torch": "2.14.1"},
        "config": "camvid_day_to_dusk",
        "device": "cpu",
    }
    if labels:
        miou = {"source": 13.2, "bn_warm_start": 28.0, "start": 30.0, "adapted": adapted, "last": adapted}
        tables = {
            "source": {"sky": 20.0, "road": 6.4, "car": None},
            "bn_warm_start": {"sky": 45.0, "road": 9.0, "car": None},
            "start": {"sky": 50.0, "road": 10.0, "car": None},
            "adapted": {"sky": 62.5, "road": 1.5, "car": None},
        }
        result |= {"miou": miou, "iou": tables, "evaluated_frames": 62}
    return result | changes


def make_run(folder: Path, result: dict[str, Any], *, name: str = "frame_1") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.yaml").write_text(f"# {EVIL}\nrun:\n  steps: 200\n")
    row = {"phase": "adaptation", "student/total": 1.5, "generator/bns": 0.6}
    (folder / "metrics.jsonl").write_text("".join(json.dumps({**row, "step": s}) + "\n" for s in (10, 20)))
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (12, 16), dtype=np.uint8)
    image = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    save_frame(folder, name, image=image, source=ids, adapted=ids, easy=np.eye(2, dtype=bool), palette=PALETTE)
    save_synthetic(folder, image[None], ids[None], PALETTE)
    return folder


def render(folder: Path, result: dict[str, Any]) -> Page:
    return Page(write_report(make_run(folder, result)).read_text(encoding="utf-8"))


def test_self_contained(tmp_path: Path) -> None:
    page = render(tmp_path, make_result())
    assert len([a for a in page.addresses if a.startswith("data:image/png;base64,")]) == 6
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\((?!#)|@import|<script|<link", text)
    frame = next(tmp_path.glob("figures/frames/*_frame.png")).read_bytes()
    assert base64.b64encode(frame).decode() in text
    assert not list(tmp_path.rglob("*.tmp"))


def test_says_what_happened(tmp_path: Path) -> None:
    text = render(tmp_path, make_result()).text
    assert "32.0 mIoU" in text
    assert "18.8 points above" in text
    assert "200 steps (2.0 min)" in text
    assert "Better than source" in text
    assert "Worse" not in text
    assert "worse than" not in text
    for part in (
        "Not judged",
        "simply the last weights",
        "learning rate is high",
        "812 MB",
        "ab" * 32,
        "2.14.1",
    ):
        assert part in text
    assert "nan" not in re.findall(r"\w+", text.lower())
    assert "None" not in text


@pytest.mark.parametrize(
    ("adapted", "badge", "alerts"),
    [
        (10.0, "Worse than source", ["bad", "warn", "info", "warn"]),
        (20.0, "Worse than its start", ["warn", "info", "warn"]),
        (32.0, "Better than source", ["info", "warn"]),
    ],
)
def test_honest_about_a_loss(tmp_path: Path, adapted: float, badge: str, alerts: list[str]) -> None:
    page = render(tmp_path, make_result(adapted=adapted))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert badge in page.text
    assert re.findall(r'<div class="alert (\w+)">', text) == alerts
    assert ("The shipped model is worse than the source model" in page.text) == (adapted < 13.2)
    assert ("3.2 points below" in page.text) == (adapted == 10.0)


def test_without_labels(tmp_path: Path) -> None:
    page = render(tmp_path, make_result(labels=False, miou=None, iou=None))
    assert "No labels were given" in page.text
    assert "how the model was judged without them" in page.text
    for absent in ("mIoU", "Every class", "All measures", "Better than", "Labelled frames"):
        assert absent not in page.text


def test_class_table(tmp_path: Path) -> None:
    render(tmp_path, make_result())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    body = text[text.index("Every class") :].split("<tbody>")[1].split("</tbody>")[0]
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in body.split("</tr>")[:3]]
    assert rows == [
        ["sky", "20.0", "45.0", "50.0", "62.5", "+42.5"],
        ["road", "6.4", "9.0", "10.0", "1.5", "\N{MINUS SIGN}4.9"],
        ["car"] + ["\N{EN DASH}"] * 5,
    ]
    assert "sky (+42.5)" in text


def test_escapes_everything(tmp_path: Path) -> None:
    evil = dict.fromkeys(("arch", "preset", "device", "config", "verdict_basis", "source_sha256"), EVIL)
    tables = {model: {EVIL: 50.0} for model in ("source", "bn_warm_start", "adapted")}
    tables_and_lists = {"classes": [EVIL], "iou": tables, "warnings": [EVIL], "versions": {EVIL: EVIL}}
    result = make_result() | evil | tables_and_lists
    folder = make_run(tmp_path, result, name=EVIL)
    frame = next(folder.glob("figures/frames/*_frame.png"))
    shutil.copy(frame, frame.with_name("07_<u>under_frame.png"))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"phase": "adaptation", "step": 30, f"student/{EVIL}": 1.0, f"{EVIL}/x": 1.0}) + "\n")
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "u" not in page.tags
    assert "x" not in page.addresses
    assert page.text.count(EVIL) >= 10
    assert "<u>under" in page.text


def test_same_folder_same_bytes(tmp_path: Path) -> None:
    first = write_report(make_run(tmp_path / "one", make_result())).read_bytes()
    again = write_report(tmp_path / "one").read_bytes()
    moved = write_report(make_run(tmp_path / "two", make_result())).read_bytes()
    assert first == again == moved


def test_only_a_result(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "Not judged" in page.text
    for absent in ("Target frames", "Synthetic images", "Loss curves", "Configuration"):
        assert absent not in page.text


def test_broken_lines_and_numbers_are_tolerated(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_result(images_per_second=float("nan"), peak_memory_mb=None))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "adaptation", "step": 30, "student/total": NaN}\n[1]\n{"phase": "adap')
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert "2 lines of metrics.jsonl" in text
    assert "nan" not in re.findall(r"\w+", text.lower())


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_broken_result_is_the_users_mistake(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result\.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_needs_no_torch() -> None:
    # The package itself is stubbed: only what the report imports counts here.
    code = (
        "import sys, types; sys.modules['torch'] = None; stub = types.ModuleType('sfda_engine');"
        "stub.__path__ = ['sfda_engine']; sys.modules['sfda_engine'] = stub; import sfda_engine.report"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_was_judged_where_it_has_a_selection_whatever_the_words() -> None:
    assert not summary.judged(make_result(verdict_basis="in other words"))
    kept = {verdict: make_result(verdict=verdict, selection={"step": 1500}) for verdict in summary.VERDICTS}
    assert all(map(summary.judged, kept.values()))
    assert [verdict for verdict, result in kept.items() if "1,500" in summary.held(result)] == ["adapted"]
    assert len({summary.held(result) for result in [make_result(), *kept.values()]}) == 4

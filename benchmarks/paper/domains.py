"""Where a table's columns come from: for each a source and a target, both by the name of a shipped configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sfda_engine.data.published.crosscity import CITIES
from sfda_engine.errors import UserError

ARCHITECTURES = {
    "deeplabv3": "deeplabv3_resnet50",
    "segnet": "segnet_vgg16",
    "streetnet": "streetnet",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A source and a target."""

    name: str
    source: str
    """Name of the source data set, as Table 4 has it."""
    target: str
    """Name of the target, as a column."""
    recipe: str
    """Shipped configuration that trains the source model; for SegNet with `_segnet` behind it."""
    config: str
    """Shipped configuration that adapts to the target; likewise."""
    source_root: str | None = None
    """Name of the root that holds the source; None = procedural."""
    target_root: str | None = None
    split: str | None = None
    """Split of target and evaluation, where the configuration leaves it open."""
    weights: str | None = None
    """The source model where it is shipped; then none is trained."""
    exposure: str = "none"
    """`model.exposure` of every method: none, as the paper has it, or gamma."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A set of tasks that fills every table."""

    name: str
    networks: tuple[str, ...]
    roots: tuple[str, ...]
    """Names of the data roots."""
    columns: dict[str, tuple[Task, ...]] = field(hash=False)
    """Tasks of each table and of figure 8, by name."""
    remark: str


def _to_cityscapes(source: str) -> Task:
    root = source.lower()
    return Task(
        name=f"{root}_to_cityscapes",
        source=source,
        target="Cityscapes",
        recipe=f"{root}_source",
        config=f"{root}_to_cityscapes",
        source_root=root,
        target_root="cityscapes",
    )


def _crosscity(city: str) -> Task:
    return Task(
        name=f"cityscapes_to_{city.lower()}",
        source="Cityscapes",
        target=city,
        recipe="cityscapes_source",
        config="cityscapes_to_crosscity",
        source_root="cityscapes",
        target_root="crosscity",
        split=city,
    )


GTA5, SYNTHIA = map(_to_cityscapes, ("GTA5", "SYNTHIA"))
CROSS_CITY = {city: _crosscity(city) for city in CITIES}
SCENES = tuple(
    Task(
        name=f"day_to_{split}",
        source="day",
        target=split,
        recipe="demo_source",
        config="demo",
        split=split,
        weights="package:demo_source",
        exposure="gamma",
    )
    for split in ("night", "fog", "rain", "city")
)
CAMVID = Task(
    name="day_to_dusk",
    source="day",
    target="dusk",
    recipe="camvid_source",
    config="camvid_day_to_dusk",
    source_root="camvid",
    target_root="camvid",
    exposure="gamma",
)


def _everywhere(tasks: tuple[Task, ...]) -> dict[str, tuple[Task, ...]]:
    """The same tasks in every table; one is enough for Table 4, which looks at the source."""
    names = ("table_1", "table_2", "table_3", "table_5", "table_6", "figure_8")
    return dict.fromkeys(names, tasks) | {"table_4": tasks[:1]}


DOMAINS = {
    "paper": Domain(
        name="paper",
        networks=("deeplabv3", "segnet"),
        roots=("gta5", "synthia", "cityscapes", "crosscity"),
        columns={
            "table_1": (GTA5,),
            "table_2": (SYNTHIA,),
            "table_3": tuple(CROSS_CITY.values()),
            "table_4": (GTA5, CROSS_CITY["Rio"], SYNTHIA),
            "table_5": (GTA5,),
            "table_6": (GTA5,),
            "figure_8": (GTA5, CROSS_CITY["Rio"]),
        },
        remark="The paper's data sets, networks and sizes.",
    ),
    "scenes": Domain(
        name="scenes",
        networks=("streetnet",),
        roots=(),
        columns=_everywhere(SCENES),
        remark="Not the paper's data: procedural street scenes, source day (the shipped source model), four targets in "
        "place of each of the paper's, network streetnet (0.6 M parameters). Tables 1 and 2 have the same runs here.",
    ),
    "camvid": Domain(
        name="camvid",
        networks=("streetnet",),
        roots=("camvid",),
        columns=_everywhere((CAMVID,)),
        remark="Not the paper's data: CamVid, source day sequences, target dusk, network streetnet (0.6 M parameters). "
        "Tables 1, 2 and 3 have the same target here.",
    ),
}


def find_domain(name: str) -> Domain:
    """The domain called `name`. Raises UserError for an unknown one."""
    if name not in DOMAINS:
        raise UserError(f"no domain is called {name!r}; choose from {', '.join(DOMAINS)}")
    return DOMAINS[name]


def find_roots(domain: Domain, data_root: Path | None, named: dict[str, Path], camvid_root: Path | None) -> dict:
    """The folder of each data root that is known; raises UserError for a name that the domain does not have."""
    for name in named:
        if name not in domain.roots:
            known = ", ".join(domain.roots) or "no data at all"
            raise UserError(f"--root {name}=: domain {domain.name} needs {known}")
    inside = {name: data_root.expanduser() / name for name in domain.roots} if data_root is not None else {}
    camvid = {"camvid": camvid_root.expanduser()} if camvid_root is not None and "camvid" in domain.roots else {}
    return inside | camvid | {name: path.expanduser() for name, path in named.items()}

"""Everything a run can be told: one frozen dataclass a section, one documented field a key, its range beside it.

`--help` shows these docstrings, `loader` reads the keys from YAML and the command line. Defaults are the
recommendation; `presets` has the others. Config objects stop at the pipelines: modules take plain arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Dataset = Literal[
    "folder",
    "scenes",
    "cityscapes",
    "gta5",
    "synthia",
    "crosscity",
    "camvid",
    "bdd100k",
    "acdc",
    "dark_zurich",
    "idd",
]
LONGEST_SIDE = 2**14
"""Pixels. Beyond it, as beyond LARGEST_BATCH, no machine has the memory."""
LARGEST_BATCH = 2**16
MOST_WORKERS = 2**10


@dataclass(frozen=True)
class Range:
    """What the numbers of a key may be; each bound is None where there is none."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None


def key(default: Any, **bounds: float) -> Any:
    """A field whose numbers, also those within a tuple, lie within `bounds` (`Range`)."""
    return field(default=default, metadata={"range": Range(**bounds)})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long to run, where to write, how often to log."""

    output: str | None = None
    """Run folder, empty or absent. null = runs/<config>-<time> under the working directory."""
    seed: int = key(0, at_least=0, at_most=2**32 - 1)
    """Seed of every random number of the run."""
    steps: int | None = key(None, at_least=1)
    """Training steps (updates of the student); the generator's warm-up is not counted. null = 60 as recommended, 600
    for the presets paper and literal and for train_source."""
    epochs: int | None = key(None, at_least=1)
    """Passes over the training frames. When given, it overrides `steps`."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Autocast precision. null = what the launcher says; fp16 needs a GPU."""
    checkpoint_every: int = key(100, at_least=1)
    """Steps between checkpoints; the generator's warm-up steps count."""
    keep_last: int = key(3, at_least=1)
    """Number of checkpoints that are kept."""
    log_every: int = key(10, at_least=1)
    """Steps between lines of metrics.jsonl."""
    log_with: Literal["tensorboard", "none"] = "tensorboard"
    """Tracker that is written beside metrics.jsonl."""
    gradient_accumulation: int = key(1, at_least=1)
    """Batches whose gradients are summed before an update."""
    num_workers: int = key(0, at_least=0, at_most=MOST_WORKERS)
    """Loader processes. 0 = load in the training process."""
    resume: bool = False
    """Continue from the newest complete checkpoint of `output`; without one, start from the beginning."""
    export: bool = False
    """Export the adapted model to `bundle` in the run folder when all is done, as sfda_export.to_onnx does."""
    dry_run: bool = False
    """Check everything, print what would be done, train nothing (the same as --dry-run)."""


@dataclass(frozen=True, kw_only=True)
class NormalizationConfig:
    """Input normalization of foreign weights: x = (image * value_range - mean) / std, image in [0, 1]."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean per channel, in units of `value_range`, in the order of `channel_order`."""
    std: tuple[float, float, float] = key((0.229, 0.224, 0.225), above=0)
    """Standard deviation per channel, in units of `value_range`, in the order of `channel_order`."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels that the network expects."""
    value_range: float = 1.0
    """Pixel value of white that the network expects: 1.0 or 255.0."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The segmentation network and its weights."""

    arch: str | None = None
    """streetnet, deeplabv3_resnet50, segnet_vgg16, lraspp_mobilenet_v3_large or module.path:factory.
    null = from the weights' metadata."""
    num_classes: int | None = key(None, at_least=2)
    """Number of classes. null = from the weights' metadata or from `classes`."""
    classes: str | None = None
    """Named class set: scenes, camvid, cityscapes (19), synthia16 or cityscapes13 (NTHU's and the short SYNTHIA's).
    null = from the weights' metadata, or the source data set's own."""
    weights: str | None = None
    """Safetensors file or state dict; package:demo_source is the source model shipped for the demo."""
    backbone_weights: str | None = None
    """ImageNet weights for the encoder of a network that starts fresh: the file of a torchvision classifier, or
    imagenet = torchvision's published weights of that encoder, from torch's cache."""
    download: bool = False
    """Let `backbone_weights: imagenet` download what the cache lacks; nothing is downloaded otherwise."""
    feature_layer: str | None = None
    """Module whose output is the encoder feature map F. null = the architecture's own choice."""
    normalization: NormalizationConfig | None = None
    """Input normalization of foreign weights. null = from the weights' metadata."""
    exposure: Literal["none", "gamma", "auto"] = "auto"
    """Per-image exposure correction: gamma brings every frame to one mean luminance. auto = chosen without labels
    (train_source: none)."""
    check_input: bool = True
    """Refuse a source model that was never trained, or whose BatchNorm statistics contradict `normalization` on the
    target's frames. false = warn and go on."""


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """Unlabelled target frames that the model is adapted to."""

    dataset: Dataset = "folder"
    """folder = images under root or root/images; scenes = procedural street scenes; the others = published data sets
    in their official layout, see `python -m sfda_engine.data.check ROOT`."""
    root: str | None = None
    """Folder of the images, or of a published data set."""
    split: str | None = None
    """Subfolder (dataset folder), day, fog, night, rain, city, camera (scenes), or an official split: train, val, ...;
    a city of crosscity; night/train of acdc. null = all of gta5 and synthia."""
    size: tuple[int, int] | None = key(None, at_least=32, at_most=LONGEST_SIDE)
    """[width, height] in pixels at which the model sees the frames, here and on the vehicle. null = chosen without
    labels, up to 2.5 times the pixels that the model was trained at."""
    crop: tuple[int, int] | None = key(None, at_least=32)
    """[width, height] in pixels of a random crop of each frame of `size` that a training step sees; the start and the
    evaluation see whole frames. null = whole frames."""
    batch_size: int = key(8, at_least=2, at_most=LARGEST_BATCH)
    """Frames a step, over all processes."""
    frames: int | None = key(None, at_least=1)
    """Use only this many frames. null = all of a folder, the default number of scenes."""

    @property
    def seen(self) -> tuple[int, int] | None:
        """[width, height] of what a training step sees: the crop, or the whole frame; None until that is chosen."""
        return self.crop or self.size


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """Labelled frames."""

    dataset: Dataset = "folder"
    """folder = images in root/images and labels in root/labels; scenes = procedural street scenes; the others =
    published data sets in their official layout."""
    root: str | None = None
    """Folder with images/ and labels/, or of a published data set."""
    split: str | None = None
    """Subfolder (dataset folder), day, fog, night, rain, city, camera (scenes), or an official split: train, val, ...;
    a city of crosscity; night/train of acdc. null = all of gta5 and synthia."""
    frames: int | None = key(None, at_least=1)
    """Use only this many frames. null = all of a folder, the default number of scenes."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(LabelledConfig):
    """Labelled target frames that only `evaluate` opens, after adaptation."""

    subset: tuple[str, ...] | None = None
    """Names of the classes that the mean is taken over, or of class sets ([synthia16], [cityscapes13]).
    null = every class with a labelled pixel."""
    expected_source_miou: float | None = key(None, at_least=0, at_most=100)
    """Published mIoU (percent) of the source model on these frames and this `subset`; a source model that is further
    than 3 points from it, in either direction, is reported with a warning. null = not known."""
    as_deployed: bool = False
    """Score also what the vehicle writes: labels at target.size, by nearest to the frame (as --as-deployed)."""
    window: tuple[int, int] | None = key(None, at_least=32)
    """[width, height] in pixels, multiples of 32, of sliding windows over the frames of target.size, whose logits are
    averaged where they overlap, by a quarter: bounds the memory of large frames. null = whole frames."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The adaptation method; names and equations from Liu, Zhang, Wang, CVPR 2021."""

    preset: Literal["recommended", "paper", "literal"] = "recommended"
    """Fills every key of this section that nobody names: recommended = what works on real networks; paper = the
    paper's terms made stable; literal = the paper as printed (it diverges)."""
    alpha: float = key(0.0, at_least=0)
    """Weight of L_MAE (Eq. 11, 12, 16). alpha = beta = 0 leaves out the generator."""
    beta: float = key(0.0, at_least=0)
    """Weight of L_DAD^ss (Eq. 11, 12, 16)."""
    tau: float = key(0.5, at_least=0)
    """Weight of L_DAD^st in the generator's loss (Eq. 11)."""
    gamma: float = key(0.0, at_least=0)
    """Weight of L_ADV in the student's loss (Eq. 16). 0 = no patch ranking."""
    bns_weight: float = key(1.0, at_least=0)
    """Weight of L_BNS in the generator's loss (Eq. 11)."""
    max_square_weight: float = key(0.0, at_least=0)
    """Weight of L_TAR, MaxSquare on target predictions (Eq. 2, 16)."""
    pseudo_label_weight: float = key(1.0, at_least=0)
    """Weight of the cross-entropy on pseudo-labels of the target frames (self-training). 0 = none."""
    patch_grid: int = key(4, at_least=1)
    """K: entropies are ranked on a grid of K x K patches (Eq. 13-14). 1 = no patch ranking."""
    temperature: float | None = key(0.1, above=0)
    """Divisor of the cosine similarities in the attention maps (Eq. 8-9). null = raw dot products, as printed."""
    terms: Literal["stable", "printed"] = "stable"
    """Form of Eq. 2, 4, 11, 15: stable = MaxSquare halved, norms of BN differences averaged over layers,
    -log(1 + MAE) and -log(1 + DAD) for the generator, probabilities to the discriminator; printed = MaxSquare whole,
    squared norms summed, -MAE and -DAD, logits."""
    student_init: Literal["source", "fresh"] = "source"
    """The student starts from the source weights, or fresh (then no warm start, no generator warm-up)."""
    synthetic_size: tuple[int, int] | None = key(None, at_least=16, at_most=LONGEST_SIDE)
    """[width, height] in pixels of the generator's images. null = half the target's (of target.crop where given)."""
    warmup_steps: int = key(100, at_least=0)
    """Generator steps on L_BNS + tau L_DAD^st before the student moves."""
    generator_steps: int = key(1, at_least=1)
    """Generator updates per student update."""
    lr: float = key(1e-2, above=0)
    """Learning rate of the student (SGD, Nesterov momentum 0.9, weight decay 1e-4, polynomial decay 0.9)."""
    generator_lr: float = key(1e-3, above=0)
    """Learning rate of the generator (Adam)."""
    discriminator_lr: float = key(1e-4, above=0)
    """Learning rate of the patch discriminator (Adam)."""
    clip_grad_norm: float | None = key(5.0, above=0)
    """Largest gradient norm of the student, and of the generator. null = no clipping. One batch that frozen BN
    statistics do not fit can have thirty times the usual norm."""
    bn_share: float | None = key(None, at_least=0, at_most=1)
    """Share (0 to 1) of the source's own BN statistics in the student's, the rest being the target's; 1 = the source's
    alone. null = chosen without labels."""
    target_bn: Literal["batch", "running"] = "running"
    """BN of the student on target frames: batch statistics (written), or frozen running statistics, which collapse
    without self-training."""
    synthetic_bn: Literal["source", "batch", "running"] = "source"
    """BN of the student on synthetic images: the source's running statistics, those of the batch, or its own running
    ones; none is written."""
    guard: bool = True
    """Watch the student on a few target frames at every log step; where it collapses or a term becomes NaN, go back to
    the last good weights with half the learning rates; the third time ends the run there. false = NaN is an error."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig(LabelledConfig):
    """Labelled source frames and how to train on them; only `train_source` reads this section."""

    val_root: str | None = None
    """Folder of the labelled validation frames. null = `root`."""
    val_split: str | None = None
    """Split of the labelled validation frames. null with a null `val_root` = no validation."""
    size: tuple[int, int] = key((128, 96), at_least=32, at_most=LONGEST_SIDE)
    """[width, height] in pixels of the training crops."""
    batch_size: int = key(8, at_least=2, at_most=LARGEST_BATCH)
    """Frames a step, over all processes."""
    lr: float = key(0.05, above=0)
    """Learning rate (SGD, Nesterov momentum 0.9, polynomial decay 0.9)."""
    weight_decay: float = key(5e-4, at_least=0)
    """Weight decay."""
    augment: bool = True
    """Enlarge frames by up to 1.5 before the random crop, and change their colors by up to 15 %; the paper does not.
    They are mirrored at random in any case."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    target: TargetConfig = TargetConfig()
    evaluate: EvaluateConfig | None = None
    method: MethodConfig = MethodConfig()
    source: SourceConfig | None = None
    name: str = field(default="custom", compare=False)
    """Stem of the configuration's file, for runs/<name>-<time>; not a key of the file."""

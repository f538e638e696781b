"""Everything a run can be told: one frozen dataclass a section, one documented field a key.

`--help` shows these docstrings, `config_loader` reads them from YAML and the command line,
`config_checks` holds the permitted ranges. Config objects stop at the builders: modules take plain arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long to run, where to write, how often to log."""

    output: str | None = None
    """Run folder, empty or absent. null = runs/<config>-<time> under the working directory."""
    seed: int = 0
    """Seed of every random number of the run."""
    steps: int | None = 600
    """Training steps (updates of the student); the generator's warm-up is not counted."""
    epochs: int | None = None
    """Passes over the training frames. When given, it overrides `steps`."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Autocast precision. null = what the launcher says; fp16 needs a GPU."""
    checkpoint_every: int = 100
    """Steps between checkpoints; the generator's warm-up steps count."""
    keep_last: int = 3
    """Number of checkpoints that are kept."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    log_with: Literal["tensorboard", "none"] = "tensorboard"
    """Tracker that is written beside metrics.jsonl."""
    gradient_accumulation: int = 1
    """Batches whose gradients are summed before an update."""
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
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
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
    num_classes: int | None = None
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
    exposure: Literal["none", "gamma"] = "none"
    """Per-image exposure correction: gamma brings every frame to one mean luminance."""
    check_input: bool = True
    """Refuse a source model that was never trained, or whose BatchNorm statistics contradict `normalization` on the
    target's frames. false = warn and go on."""
    activation_checkpointing: bool = False
    """Compute the inside of the student's blocks again in the backward pass instead of keeping it: less memory, about
    one more forward pass. The statistics and losses stay the same."""


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
    size: tuple[int, int] = (128, 96)
    """[width, height] in pixels of the frames that the model sees."""
    crop: tuple[int, int] | None = None
    """[width, height] in pixels of a random crop of each frame of `size` that a training step sees; the BN warm start
    and the evaluation see whole frames. null = whole frames."""
    batch_size: int = 8
    """Frames a step, over all processes."""
    num_workers: int = 0
    """Loader processes. 0 = load in the training process."""
    frames: int | None = None
    """Use only this many frames. null = all of a folder, the default number of scenes."""
    augment: bool = True
    """Flip frames horizontally at random."""
    max_corrupt_share: float = 0.05
    """Share (0 to 1) of undecodable images that are skipped with a warning; more is an error."""

    @property
    def seen(self) -> tuple[int, int]:
        """[width, height] of what a training step sees: the crop, or the whole frame."""
        return self.crop or self.size


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Labelled target frames that only `evaluate` opens, after adaptation."""

    dataset: Dataset = "folder"
    """folder = images in root/images and labels in root/labels; scenes = procedural street scenes; the others =
    published data sets in their official layout."""
    root: str | None = None
    """Folder with images/ and labels/, or of a published data set."""
    split: str | None = None
    """Subfolder (dataset folder), day, fog, night, rain, city, camera (scenes), or an official split: train, val, ...;
    a city of crosscity; night/train of acdc. null = all of gta5 and synthia."""
    frames: int | None = None
    """Use only this many frames. null = all of a folder, the default number of scenes."""
    subset: tuple[str, ...] | None = None
    """Names of the classes that the mean is taken over, or of class sets ([synthia16], [cityscapes13]).
    null = every class with a labelled pixel."""
    expected_source_miou: float | None = None
    """Published mIoU (percent) of the source model on these frames and this `subset`; a source model that is further
    than 3 points from it, in either direction, is reported with a warning. null = not known."""
    as_deployed: bool = False
    """Score also what the vehicle writes: labels at target.size, by nearest to the frame (as --as-deployed)."""
    window: tuple[int, int] | None = None
    """[width, height] in pixels, multiples of 32, of sliding windows over the frames of target.size, whose logits are
    averaged where they overlap: bounds the memory of large frames. null = whole frames."""
    window_overlap: float = 0.25
    """Share (0 to 1) of a window's sides that the next one covers again, at least."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The adaptation method; names and equations from Liu, Zhang, Wang, CVPR 2021."""

    preset: Literal["stable", "literal"] = "stable"
    """Fills every key of this section that nobody names: literal = the paper as printed (it diverges)."""
    alpha: float = 1.0
    """Weight of L_MAE (Eq. 11, 12, 16)."""
    beta: float = 0.5
    """Weight of L_DAD^ss (Eq. 11, 12, 16)."""
    tau: float = 0.5
    """Weight of L_DAD^st in the generator's loss (Eq. 11)."""
    gamma: float = 0.01
    """Weight of L_ADV in the student's loss (Eq. 16). 0 = no patch ranking."""
    bns_weight: float = 1.0
    """Weight of L_BNS in the generator's loss (Eq. 11)."""
    max_square_weight: float = 0.1
    """Weight of L_TAR, MaxSquare on target predictions (Eq. 2, 16)."""
    max_square_scale: float = 0.5
    """Factor inside L_TAR: 0.5 as in MaxSquare's own code, 1.0 as printed in Eq. 2."""
    max_square_image_weighted: bool = False
    """Weigh classes by their share of each image, as MaxSquare's image-wise weighting does."""
    pseudo_label_weight: float = 0.0
    """Weight of the cross-entropy on pseudo-labels of the target frames (self-training). 0 = none."""
    pseudo_label_scales: tuple[float, ...] = (1.0, 1.5)
    """Input sizes, as factors of target.size, that the pseudo-labels average over; the largest bounds the zoom."""
    pseudo_label_drop: float = 0.2
    """Share (0 to 1) of each class's pixels, the least confident, that get no pseudo-label."""
    patch_grid: int = 4
    """K: entropies are ranked on a grid of K x K patches (Eq. 13-14). 1 = no patch ranking."""
    temperature: float = 0.1
    """Divisor of the cosine similarities in the attention maps (Eq. 8-9)."""
    attention: Literal["cosine", "dot"] = "cosine"
    """Similarity in the attention maps: cosine / temperature, or the raw dot product of Eq. 8-9."""
    discrepancy: Literal["log", "linear"] = "log"
    """How L_MAE and L_DAD^ss enter the generator's loss: -log(1 + x), or -x as in Eq. 11."""
    bns_norm: Literal["mean_l2", "sum_squares"] = "mean_l2"
    """L_BNS: L2 norms averaged over layers, or squared norms summed as in Eq. 4."""
    student_init: Literal["source", "fresh"] = "source"
    """The student starts from the source weights, or fresh (then no warm start, no generator warm-up)."""
    synthetic_size: tuple[int, int] | None = None
    """[width, height] in pixels of the generator's images. null = half the target's (of target.crop where given)."""
    synthetic_sizes: tuple[tuple[int, int], ...] = ()
    """Further sizes [width, height]: every step draws one of these and `synthetic_size`, all equally likely."""
    synthetic_view: Literal["frame", "window"] = "frame"
    """What a synthetic image stands for: frame = a whole target frame, shrunk, as in the paper; window = a part of one
    at the target's own scale, drawn anew in every step, whose attention is compared with that part's alone."""
    warmup_steps: int = 100
    """Generator steps on L_BNS + tau L_DAD^st before the student moves."""
    generator_steps: int = 1
    """Generator updates per student update."""
    lr: float = 2.5e-4
    """Learning rate of the student (SGD, Nesterov, polynomial decay)."""
    momentum: float = 0.9
    """Nesterov momentum of the student."""
    weight_decay: float = 1e-4
    """Weight decay of the student."""
    poly_power: float = 0.9
    """Exponent of the learning rate's decay, (1 - step / steps) ** poly_power."""
    generator_width: int = 64
    """Channels of the generator's finest layers; half of it is enough for synthetic sides under 100 pixels."""
    generator_lr: float = 1e-3
    """Learning rate of the generator (Adam)."""
    generator_betas: tuple[float, float] = (0.5, 0.999)
    """Adam's betas for the generator."""
    discriminator_lr: float = 1e-4
    """Learning rate of the patch discriminator (Adam)."""
    discriminator_betas: tuple[float, float] = (0.9, 0.99)
    """Adam's betas for the patch discriminator."""
    clip_grad_norm: float | None = 1.0
    """Largest gradient norm of the generator. null = no clipping."""
    student_clip_grad_norm: float | None = None
    """Largest gradient norm of the student. null = no clipping. Needed where `target_bn` is running: nothing else there
    holds a batch that the statistics do not fit."""
    bn_warm_start_passes: int = 2
    """Passes over target frames that re-estimate the student's BN statistics first. 0 = none."""
    bn_source_share: float | None = 0.0
    """Share (0 to 1) of the source's own BN statistics in the student's after they are re-estimated. null = chosen
    without labels, by what augmented views of some target frames agree on."""
    bn_final_passes: int = 0
    """Passes over target frames that re-estimate the student's BN statistics again after the last step, with the same
    share of the source's. 0 = none: those that the descent leaves. Worth it where `target_bn` is running."""
    bn_momentum: float = 0.02
    """Momentum of the student's BN running statistics on target frames."""
    target_bn: Literal["batch", "running"] = "batch"
    """BN of the student on target frames: batch statistics (written), or frozen running statistics, which collapse
    without self-training."""
    synthetic_bn: Literal["batch", "running"] = "batch"
    """BN of the student on synthetic images: their batch statistics (not written), or the running ones."""
    guard: bool = True
    """Watch the student on a few target frames at every log step; where it collapses or a term becomes NaN, go back to
    the last good weights with half the learning rates; the third time ends the run there. false = NaN is an error."""
    discriminator_input: Literal["probabilities", "logits"] = "probabilities"
    """What the discriminator sees of a patch: softmax probabilities, or logits as printed in Eq. 15."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Labelled source frames and how to train on them; only `train_source` reads this section."""

    dataset: Dataset = "folder"
    """folder = images in root/images and labels in root/labels; scenes = procedural street scenes; the others =
    published data sets in their official layout."""
    root: str | None = None
    """Folder with images/ and labels/, or of a published data set."""
    split: str | None = None
    """Subfolder (dataset folder), day, fog, night, rain, city, camera (scenes), or an official split: train, val, ...;
    a city of crosscity; night/train of acdc. null = all of gta5 and synthia."""
    frames: int | None = None
    """Use only this many frames. null = all of a folder, the default number of scenes."""
    val_root: str | None = None
    """Folder of the labelled validation frames. null = `root`."""
    val_split: str | None = None
    """Split of the labelled validation frames. null with a null `val_root` = no validation."""
    size: tuple[int, int] = (128, 96)
    """[width, height] in pixels of the training crops."""
    batch_size: int = 8
    """Frames a step, over all processes."""
    num_workers: int = 0
    """Loader processes. 0 = load in the training process."""
    lr: float = 0.05
    """Learning rate (SGD, Nesterov, polynomial decay)."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 5e-4
    """Weight decay."""
    scale: tuple[float, float] = (1.0, 1.5)
    """Random enlargement [smallest, largest] before the random crop to `size`."""
    flip: bool = True
    """Flip frames horizontally at random."""
    jitter: float = 0.15
    """Largest relative change of brightness, contrast and saturation. 0 = none."""


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

"""Methods that adapt without source data, each on the engine's own models, draws, BatchNorm rules and evaluation.

A method is a function `(network, target) -> Iterator[network]`: it gets the source network and unlabelled frames
(`target.Target`, from which no way leads to source data or to a label), and yields the network after each step. Who
drives it takes snapshots, stops it, and scores what it yielded; labels are opened only then (`run`).

Why not a step function inside `training.loop.Trainer`: methods relabel the frames between rounds (SHOT, CBST,
LD), bring another optimizer (TENT) or none (UBNA), and have no generator or discriminator. Each of these would be one
more hook in the trainer, and a method would be scattered over them. As a generator it reads from top to bottom in one
file, and shares what must be shared for a fair comparison: `draw_loader`, `TargetFrames` and the seeds (the same frames
in the same order as the engine's trainer), `Update`, `batch_norm_statistics`, the BN warm start, `Preprocess`. The
engine's own rows run its trainer as it is.

Rules that hold for all:
- One source network a domain, one preprocessing (exposure included), one number of steps, one batch size.
- Methods that descend begin at the BN warm start and use the engine's BN rule on target frames (batch statistics,
  written with its momentum), so that a difference between two rows is one of methods and not of statistics.
- Each keeps its own paper's optimizer, learning rate and schedule, stretched over the steps of the table. Where a paper
  weighs its target term against cross-entropy on source data, the term stands alone here with weight 1: there is
  nothing to weigh it against, and the weight would only shrink the learning rate, a thousandfold for MinEnt.
- Nothing is tuned on the target domains.

The methods that train on labelled source data at the same time are apart, in `source_driven`: another type of function.
"""

from __future__ import annotations

from benchmarks.common.methods.adabn import adabn
from benchmarks.common.methods.cbst import cbst
from benchmarks.common.methods.engine import (
    sfda,
    sfda_batch,
    sfda_no_ipsm,
    sfda_paper_terms,
    sfda_statistics,
    transfer_only,
    transfer_only_fresh,
)
from benchmarks.common.methods.label_denoising import label_denoising
from benchmarks.common.methods.max_square import max_square, max_square_iw
from benchmarks.common.methods.min_entropy import min_entropy
from benchmarks.common.methods.shot import shot
from benchmarks.common.methods.source_only import source_only
from benchmarks.common.methods.target import Method
from benchmarks.common.methods.tent import tent
from benchmarks.common.methods.ubna import ubna

PEERS: dict[str, Method] = {
    "source_only": source_only,
    "adabn": adabn,
    "ubna": ubna,
    "tent": tent,
    "min_entropy": min_entropy,
    "max_square": max_square,
    "max_square_iw": max_square_iw,
    "shot": shot,
    "cbst": cbst,
    "label_denoising": label_denoising,
    "transfer_only": transfer_only,
    "transfer_only_fresh": transfer_only_fresh,
    "sfda_paper_terms": sfda_paper_terms,
    "sfda_statistics": sfda_statistics,
    "sfda_no_ipsm": sfda_no_ipsm,
    "sfda_batch": sfda_batch,
    "sfda": sfda,
}

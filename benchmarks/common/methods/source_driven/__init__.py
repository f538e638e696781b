"""Methods that adapt with the labelled source data at hand: what the paper compares source-free adaptation with.

A method is a function `(network, target, labelled) -> Iterator[network]`: that of a source-free method with labelled
source frames as one argument more. Once that argument is bound, it is driven as any other (`methods.run`). A
source-free method has no such argument and so cannot be given source data. The rows of these say that it is needed.

Rules, beside those of `benchmarks.common.methods` (same source network, frames, preprocessing, steps, batch):
- Each step has a batch of source frames beside the batch of target frames, drawn and augmented as `train_source` does,
  exposure corrected as on the target, and descends on cross-entropy with their labels.
- BatchNorm: a pass normalizes by the statistics of its own batch, which is of one domain. Target passes write the
  running statistics, which begin as the BN warm start, as in every other row; source passes leave them alone, since
  the network is scored on target frames. So rows differ by method and not by statistics. In the papers both domains
  write them (MinEnt, MaxSquare, AdaptSegNet) or they stay those of the source (CBST).
- Each term keeps the weight that its paper gives it against cross-entropy, and the learning rate. One learning rate
  for all layers; MinEnt, MaxSquare and AdaptSegNet have ten times as much for classifiers.
- Schedules are stretched over the steps of the table, hundreds to thousands of times fewer than the papers' own. So
  these rows show what the published settings do within that budget, which is little from a network that has learned
  its source already, and not how far the methods get.
- Settings are those of the repositories that each file names, read there.
"""

from __future__ import annotations

from benchmarks.common.methods.source_driven.adaptsegnet import adaptsegnet_multi, adaptsegnet_single
from benchmarks.common.methods.source_driven.cbst import source_cbst
from benchmarks.common.methods.source_driven.max_square import source_max_square, source_max_square_iw
from benchmarks.common.methods.source_driven.min_entropy import source_min_entropy
from benchmarks.common.methods.source_driven.source import SourceMethod

SOURCE_DRIVEN: dict[str, SourceMethod] = {
    "source_min_entropy": source_min_entropy,
    "source_max_square": source_max_square,
    "source_max_square_iw": source_max_square_iw,
    "adaptsegnet_single": adaptsegnet_single,
    "adaptsegnet_multi": adaptsegnet_multi,
    "source_cbst": source_cbst,
}

"""What generator, discriminator and student descend on: weights and forms of the paper's terms, and BN policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sfda_engine.losses.attention import AttentionSettings
from sfda_engine.models.norms import Statistics


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights as in Eq. 11, 12 and 16, all at least 0; a weight of 0 leaves its term out."""

    alpha: float = 0.0
    """L_MAE."""
    beta: float = 0.0
    """L_DAD^ss."""
    tau: float = 0.0
    """L_DAD^st, for the generator."""
    gamma: float = 0.0
    """L_ADV, for the student."""
    bns_weight: float = 1.0
    """L_BNS, for the generator."""
    max_square_weight: float = 0.0
    """L_TAR."""
    pseudo_label_weight: float = 0.0
    """Cross-entropy on pseudo-labels, which the paper does not have."""
    patch_grid: int = 4
    """K of Eq. 13; 1 = no patch ranking."""
    temperature: float | None = 0.1
    """Divisor of the cosine similarities of Eq. 8 and 9; None = raw dot products, as printed."""
    printed: bool = False
    """Whether Eq. 2, 4, 11 and 15 have their printed form.

    Differs from the paper where False: MaxSquare is halved as in its own code; norms of BN differences are averaged
    over layers, unsquared, or the wide, deep ones drown the rest; MAE and DAD enter the generator's loss as
    -log(1 + .), or it wins by exploding; the discriminator sees probabilities.
    """
    target_bn: Literal["batch", "running"] = "batch"
    synthetic_bn: Literal["source", "batch", "running"] = "source"
    fresh: bool = False
    """Whether the student starts without the source's weights, and so without BN statistics of its own."""

    @property
    def uses_transfer(self) -> bool:
        """Whether synthetic images are needed: alpha = beta = 0 skips generator and transfer."""
        return self.alpha > 0 or self.beta > 0

    @property
    def uses_ipsm(self) -> bool:
        """Whether patches are ranked and D is trained: K = 1 means no IPSM, as gamma = 0."""
        return self.gamma > 0 and self.patch_grid > 1

    @property
    def uses_target_loss(self) -> bool:
        """Whether a paper's term reads the student's target predictions; without one, *transfer only* is left."""
        return self.max_square_weight > 0 or self.uses_ipsm

    @property
    def uses_target_pass(self) -> bool:
        """Whether a step runs plain target frames through the student: for a term, or for the statistics it writes."""
        return self.uses_target_loss or self.target_bn == "batch" or (self.uses_transfer and self.tau > 0)

    @property
    def attention(self) -> AttentionSettings:
        cosine = self.temperature is not None
        return AttentionSettings(temperature=self.temperature if self.temperature is not None else 1.0, cosine=cosine)

    @property
    def target_statistics(self) -> Statistics:
        """BN of the student on target frames."""
        if self.target_bn == "running":
            return "running"
        return "batch" if self.fresh else "update"

    @property
    def unwritten_statistics(self) -> Statistics:
        """BN of the student on target frames in passes that leave its running statistics alone."""
        return "running" if self.target_bn == "running" else "batch"

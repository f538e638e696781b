"""The two heavy steps of source-free domain adaptation (Liu, Zhang, Wang, CVPR 2021), usable on their own.

Dual attention (Eq. 6-10): `attend`, `attention_kl`, `attention_l1`.
Patch entropy (Eq. 2, 13, 14): `patch_entropy`, `rank_patches`.
"""

from sfda_kernels.attention.api import attend, attention_kl, attention_l1, channel_attention, spatial_attention
from sfda_kernels.patches.api import PatchEntropy, patch_entropy, rank_patches

__all__ = [
    "PatchEntropy",
    "attend",
    "attention_kl",
    "attention_l1",
    "channel_attention",
    "patch_entropy",
    "rank_patches",
    "spatial_attention",
]

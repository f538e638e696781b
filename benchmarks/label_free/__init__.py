"""Which scores without labels follow mIoU: many runs, sound and collapsing, their snapshots scored both ways.

    python -m benchmarks.label_free                    # scenes, seed 0; a run that is in the CSV is not made again
    python -m benchmarks.label_free --report           # tables and plots from the CSV alone

A run drives a method of `benchmarks.common.methods` over a target domain. Its snapshots, the BN warm start and the
source model as shipped are scored by `sfda_engine.judge.scores` on a sample of the adaptation frames; then, after the
last step, labels of held-out frames are opened and the same weights get their mIoU.
"""

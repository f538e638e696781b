"""Does it work, on networks and frames that nobody here made? Each row is a run of `sfda adapt --model.weights W
--target.root FRAMES` with nothing else set, in a process of its own, scored by the labels that lie beside the frames.

The weights and frames are the reader's; nothing of them is kept here but the scores.
"""

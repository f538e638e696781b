"""The paper's tables and figures, and ours beside them, by one command each.

    python -m benchmarks.paper --table 1 --plan                             # what would run, and how long; nothing runs
    python -m benchmarks.paper --table 1 --data-root DATA --output DIR      # DATA holds gta5/ and cityscapes/
    python -m benchmarks.paper --table 3 --domain scenes --seed 0 --seed 1 --seed 2 --output DIR

In reading order: `numbers` (what the paper prints), `domains` (source and target of each column), `tables` (the runs
behind each table and figure), `options` (what the user chose), `frames` (how many there are), `sources` and `jobs` (the
configuration and the folder of a source model, and of a run), `run` (one run), `outcomes`, `page` and `charts` (CSV,
Markdown, PNG), `figures` (pictures), `cost` and `plan`; `__main__` is the command.

A run is known by what it would do: tables that need the same run share it, a run that is done is not made again, and
one that was stopped goes on. What the paper does not say is decided here:

- All methods of a column share source model, frames, size, batch, preprocessing and number of steps; each keeps the
  optimizer, learning rate and loss weights of its own paper (`benchmarks.common.methods`). *source only* sees the same
  preprocessing as the others, exposure correction included where the domain has it.
- AdaptSegNet is the multi-level one, for SegNet the single-level one, as its authors have it for ResNet and VGG;
  MaxSquare is the plain one, as in Eq. 2.
- *SFDA* and *SFDA (w/o IPSM)* run the shipped configuration of the domain. Tables 5 and 6 and Figure 8 vary it without
  self-training on pseudo-labels, which the paper does not have.
- *transfer only* and Table 4 distil into a fresh student by Eq. 12 alone, at the learning rate of its source recipe.
  L_DAD^st needs frames of a target; for Cityscapes in Table 4 they are Rio's, which Figure 8 pairs it with.
"""

"""Patch entropy, its ranking and MaxSquare (Eq. 2, 13, 14). In reading order:

reference       the equations in plain PyTorch, for any device and type
patch_entropy   the operator: chooses the code that runs
cpu             its formulas for the CPU, with a backward pass of their own
triton_columns  the GPU's kernels
launch          what launches them
api             the public functions
"""

"""Dual attention (Eq. 6 to 10). In reading order:

reference             the equations in plain PyTorch, for any device and type
gram_kl, attended_l1  the two operators: each chooses the code that runs
cpu_*                 their formulas for the CPU, with backward passes of their own
triton_*              the GPU's kernels
launch_*              what launches them, by the table of `launch_table`
api                   the public functions
"""

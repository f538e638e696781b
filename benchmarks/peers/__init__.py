"""What a user would pick today, and what needs source data, against SFDA: the methods of `benchmarks.common.methods`.

python -m benchmarks.peers --domain scenes:night --method tent --seed 0 --output DIR
python -m benchmarks.peers --all --output DIR          # every row that is missing; --plan shows them first
"""

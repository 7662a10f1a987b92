"""Pure data steps of the self-rewarding loop: rows in, rows out.

Everything a number in a report depends on is decided here: what counts as a judgement, which answers pair, which
prompts are kept, which evaluations train the judge. No module in this package talks to a cluster, a store or a
model; only :mod:`selfrewarding.data.jsonl` touches files. Neighbours: the stage programs and `srr data …` call these
functions.
"""

"""Speed of hybridcascade against a plain reference and against the machine's matmul rate.

`python -m benchmarks train_step --json FILE` and `python -m benchmarks encode --json FILE`. What is
compared with what, and how, is in `docs/performance.md`.
"""

"""A run's answers and models as standard benchmarks read them: AlpacaEval, MT-Bench, lm-evaluation-harness.

Purpose: pure translation from Evaluate's `answers.jsonl` to the tools' own files; the tools themselves judge and score.
Must not: import the tools (they live in environments of their own); judge; ask a server.
Neighbours: `cli.export` is the caller; `store.run_results` finds the stages.
"""

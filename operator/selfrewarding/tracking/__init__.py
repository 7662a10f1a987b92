"""Where a run's numbers go besides its report: MLflow, TensorBoard, Weights & Biases; and Prometheus for a running stage.

Purpose: `points` turns results into numbers, `send` hands them to the trackers that the spec names.
Must not: fail or hold up a run: a tracker's failure is a text in the report; compute a metric; send a text that a model wrote.
Neighbours: the Report stage calls `send`; the programs' `__main__` start `prometheus`.
"""

"""`torchrun -m srr_trainer`, or `python -m srr_trainer` for one process: see `program`."""

import os
import sys

from selfrewarding.contract.program import run_stage

# Nothing is asked of a hub while training, and nothing is told to one.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# OpenMP's threads wait for each other in a loop: where other programs want the cores too, a long one makes a step take
# ten times as long. Read when torch is loaded, so it is set before.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _run() -> int:
    from selfrewarding.tracking.prometheus import measured
    from srr_trainer.failures import quiet_after_others, translate
    from srr_trainer.program import main

    return run_stage(measured(quiet_after_others(main)), translate=translate)


if __name__ == "__main__":
    sys.exit(_run())

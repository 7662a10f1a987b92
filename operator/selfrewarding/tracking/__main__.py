"""One tracker in a process of its own: a Job comes in on standard input; exit code 1 and one line say what went wrong.

    python -m selfrewarding.tracking

Clients of trackers start threads and processes, wait at their end, and may end the program: here that harms nobody.
"""

import sys

from selfrewarding.tracking.job import Job, told


def main() -> int:
    """Send the job of standard input to the tracker that it has settings of."""
    job = Job.model_validate_json(sys.stdin.buffer.read())
    try:
        if job.mlflow is not None:
            from selfrewarding.tracking import mlflow_tracker

            mlflow_tracker.send(job, job.mlflow)
        if job.wandb is not None:
            from selfrewarding.tracking import wandb_tracker

            wandb_tracker.send(job, job.wandb)
    except BaseException as error:  # noqa: BLE001 - clients raise whatever they like, SystemExit too
        sys.stderr.write(f"\n{PROBLEM}{told(error)}\n")
        return 1
    return 0


PROBLEM = "SRR-TRACKING "

if __name__ == "__main__":
    sys.exit(main())

"""Weights & Biases: one run for this run, drawn over the metric `iteration`, through its own client.

Purpose: go on with the run of this UID, and log the iterations whose numbers it has not been sent. The service's own steps
only count up, and an iteration may be reported before it is whole (an alarm ends the run, a person lets it go on): so they
count what was sent, and the run's summary says what of each iteration that was. Who sends twice changes nothing.
Must not: send code, machine facts or console output; read a secret itself: the client takes WANDB_API_KEY.
Source: wandb.init, wandb.Settings, Run.define_metric.
"""

import json
import os
import tempfile
from typing import Any

from selfrewarding.api.tracking import WandbSpec
from selfrewarding.contract.keys import SHORT, digest
from selfrewarding.tracking.job import Job
from selfrewarding.tracking.points import by_iteration

SENT = "selfrewarding.sent"
"""In the run's summary: digests of the values that each iteration was sent with, as JSON."""
_SECONDS = 60.0


def send(job: Job, spec: WandbSpec) -> None:
    """Log the iterations that the service does not have yet. Raises whatever the client raises."""
    # Reports of the client's own errors go to nobody.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    with tempfile.TemporaryDirectory(prefix="srr-wandb-", ignore_cleanup_errors=True) as folder:
        run = wandb.init(
            project=spec.project,
            entity=spec.entity,
            id=job.run.uid,
            name=job.title,
            group=job.run.namespace,
            resume="allow",
            dir=_folder(folder),
            config={"run": job.title, "uid": job.run.uid, **job.settings},
            settings=_settings(wandb, spec),
        )
        run.define_metric("*", step_metric="iteration")
        sent = json.loads(run.summary.get(SENT) or "{}")
        for iteration, values in by_iteration(job.all_points()).items():
            told = digest(values)[:SHORT]
            if sent.get(str(iteration)) != told:
                run.log({"iteration": iteration, **values})
                sent[str(iteration)] = told
        run.summary[SENT] = json.dumps(sent)
        run.finish(exit_code=0)


def _folder(otherwise: str) -> str:
    return os.environ.get("WANDB_DIR", otherwise)


def _settings(wandb: Any, spec: WandbSpec) -> Any:
    address = {"base_url": spec.base_url} if spec.base_url is not None else {}
    return wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        finish_timeout=_SECONDS,
        finish_timeout_raises=True,
        init_timeout=_SECONDS,
        save_code=False,
        silent=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        **address,
    )

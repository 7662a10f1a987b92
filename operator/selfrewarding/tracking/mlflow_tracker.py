"""MLflow: one MLflow run for this run, one step for each iteration, through MLflow's own client.

Purpose: find the run by its UID, or make it; log the points that it lacks. Who sends twice changes nothing.
Must not: read a secret itself: the client takes MLFLOW_TRACKING_TOKEN, or …_USERNAME and …_PASSWORD from the environment.
Source: mlflow.tracking.MlflowClient.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from selfrewarding.api.tracking import MlflowSpec
from selfrewarding.tracking.job import Job
from selfrewarding.tracking.points import Point

UID = "selfrewarding.uid"
_AT_ONCE = 1000
"""Most metrics of one request to MLflow's log-batch."""


def send(job: Job, spec: MlflowSpec) -> None:
    """Log what the server does not have yet. Raises whatever the client raises."""
    # The client's own patience is some minutes; a report is not worth them.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=spec.uri)
    run_id = _run(client, job, spec.experiment or job.run.namespace)
    missing = [
        Metric(point.name, point.value, round(point.time * 1000), point.iteration)
        for point in _missing(client, run_id, job.all_points())
    ]
    for first in range(0, len(missing), _AT_ONCE):
        client.log_batch(run_id, metrics=missing[first : first + _AT_ONCE])
    client.update_run(run_id, status="FINISHED" if job.ended else "RUNNING")


def _run(client: Any, job: Job, experiment: str) -> str:
    found = client.get_experiment_by_name(experiment)
    identifier = found.experiment_id if found is not None else client.create_experiment(experiment)
    runs = client.search_runs([identifier], filter_string=f"tags.`{UID}` = '{job.run.uid}'", max_results=1)
    if runs:
        return str(runs[0].info.run_id)
    tags = {UID: job.run.uid, "selfrewarding.run": job.title}
    tags |= {f"selfrewarding.{name}": str(value) for name, value in job.settings.items()}
    return str(client.create_run(identifier, run_name=job.title, tags=tags).info.run_id)


def _missing(client: Any, run_id: str, points: Sequence[Point]) -> Iterator[Point]:
    """Points whose last logged value at their step is another one, or that have none."""
    known = client.get_run(run_id).data.metrics
    logged: dict[tuple[str, int], float] = {}
    for name in {point.name for point in points} & set(known):
        for one in sorted(client.get_metric_history(run_id, name), key=lambda one: one.timestamp):
            logged[name, one.step] = one.value
    return (point for point in points if logged.get((point.name, point.iteration)) != point.value)

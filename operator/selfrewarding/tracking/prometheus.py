"""What Prometheus reads of a running stage program, where SRR_METRICS_PORT names a port: one process of each pod answers.

Purpose: the numbers of the progress lines as gauges, on a port of the program's own.
Must not: fail or slow a stage: without the package, or with a port that is taken, the stage goes on without.
Neighbours: `contract.program` tells every progress line to whoever listens; the programs' `__main__` call `measured`.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from selfrewarding.contract import environment
from selfrewarding.contract.config import StageConfig
from selfrewarding.contract.program import Progress, Surroundings, listen_to_progress

Outcome = TypeVar("Outcome")


def measured(
    main: Callable[[StageConfig, Surroundings], Outcome],
) -> Callable[[StageConfig, Surroundings], Outcome]:
    """A stage's main function that serves its metrics while it runs."""

    def with_metrics(config: StageConfig, here: Surroundings) -> Outcome:
        try:
            _serve(config, here)
        except Exception as error:  # noqa: BLE001 - metrics never fail a stage
            sys.stderr.write(f"no metrics on {environment.METRICS_PORT}: {type(error).__name__}: {error}\n")
        return main(config, here)

    return with_metrics


def _serve(config: StageConfig, here: Surroundings) -> None:
    port = os.environ.get(environment.METRICS_PORT)
    if not port or int(os.environ.get("LOCAL_RANK", "0")):
        return
    from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, start_http_server

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    labels = {"stage": config.kind.value, "iteration": str(config.iteration)}

    def gauge(name: str, help_text: str) -> Gauge:
        return Gauge(f"srr_program_{name}", help_text, list(labels), registry=registry)

    done = gauge("progress_done", "Rows, steps or prompts done.").labels(**labels)
    total = gauge("progress_total", "Out of.").labels(**labels)
    rate = gauge("progress_per_second", "Rate of the last minute.").labels(**labels)
    tokens = gauge("tokens", "Tokens generated or trained so far.").labels(**labels)
    updated = gauge("progress_timestamp_seconds", "When there was last progress to tell.").labels(**labels)
    gauge("seconds", "Time since the program started.").labels(**labels).set_function(
        lambda: time.monotonic() - here.started
    )

    def note(progress: Progress) -> None:
        done.set(progress.done)
        total.set(progress.total)
        rate.set(progress.rate or 0.0)
        tokens.set(progress.tokens)
        updated.set_to_current_time()

    start_http_server(int(port), registry=registry)
    listen_to_progress(note)

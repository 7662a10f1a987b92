"""What Prometheus reads of the operator: its own work, its requests, how its runs fare, and how good their newest models are.

Only the last is labelled by a run's name, since a model's numbers are its run's own and have no meaning in sums: one series
for each metric of the newest model, while the operator looks after the run. All else has no more series with more runs. Must
not: write anything or decide. Neighbours: `loop` reports passes and ends, `measured` statuses and creations, `cluster` and
`watches` requests.
"""

from collections.abc import Callable, Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from selfrewarding.api import labels
from selfrewarding.api.conditions import ConditionType, get_condition
from selfrewarding.api.run import ModelStatus, RawObject, SelfRewardingRun, SelfRewardingRunStatus
from selfrewarding.cluster.kinds import WORKLOADS
from selfrewarding.cluster.protocol import ClusterError, RunKey

SERVING = "Serving"
"""Label `stage` of a serving pool's attempts."""
_ENDS = (
    (ConditionType.SUCCEEDED, "Succeeded"),
    (ConditionType.FAILED, "Failed"),
    (ConditionType.SUSPENDED, "Suspended"),
    (ConditionType.STALLED, "Stalled"),
)
_PHASES = ("Pending", "Running", *(phase for _, phase in _ENDS))
_QUICK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LONG = (10, 30, 60, 180, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600, 72 * 3600)
_HANDOVER = (1, 2, 5, 10, 20, 30, 60, 120, 180, 300, 600, 1200, 1800)


class Metrics:
    """All metrics of one process, in a registry of its own. Times are in seconds."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._phases: dict[RunKey, str] = {}
        self._begun: dict[RunKey, set[str]] = {}
        """Names of the children whose attempts are counted: one that is made again is the same attempt."""
        self._passes = Counter("srr_reconcile", "Passes by how they ended.", ["outcome"], registry=registry)
        self._pass_seconds = Histogram(
            "srr_reconcile_duration_seconds", "Time of a pass.", buckets=_QUICK, registry=registry
        )
        self._last_success = Gauge(
            "srr_reconcile_last_success_timestamp_seconds", "When a pass last succeeded.", registry=registry
        )
        self._runs = Gauge("srr_runs", "Runs by phase.", ["phase"], registry=registry)
        for phase in _PHASES:
            self._runs.labels(phase).set_function(self._count(phase))
        self._stage_seconds = Histogram(
            "srr_stage_duration_seconds",
            "Time of a finished stage's last attempt.",
            ["stage", "outcome"],
            buckets=_LONG,
            registry=registry,
        )
        self._attempts = Counter(
            "srr_stage_attempts",
            "Attempts that were begun, by what made them necessary (First, or the class of the failure before).",
            ["stage", "reason"],
            registry=registry,
        )
        self._handover = Histogram(
            "srr_handover_seconds",
            "Time from the end of a stage that used GPUs until the next one computes.",
            buckets=_HANDOVER,
            registry=registry,
        )
        self._gpu_seconds = Counter("srr_gpu_seconds", "GPU-seconds that runs have used.", registry=registry)
        self._requests = Counter(
            "srr_cluster_requests",
            "Requests to the API server; code 0: no answer.",
            ["verb", "kind", "code"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "srr_cluster_request_duration_seconds",
            "Time of a request to the API server (watches: until their first answer).",
            ["verb"],
            buckets=_QUICK,
            registry=registry,
        )
        self._models = _NewestModels()
        registry.register(self._models)
        self._leader = Gauge("srr_leader", "1 if this process holds the Lease.", registry=registry)

    def serve(self, port: int) -> Callable[[], None]:
        """Answer /metrics in a thread; returns what ends that. Raises OSError if the port is taken."""
        server: WSGIServer
        server, thread = start_http_server(port, registry=self.registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop

    def lead(self, leads: bool) -> None:
        """Whether this process holds the Lease."""
        self._leader.set(leads)

    def passed(self, seconds: float, error: Exception | None) -> None:
        """A pass ended, with this error or well."""
        self._passes.labels(_outcome(error)).inc()
        self._pass_seconds.observe(seconds)
        if error is None:
            self._last_success.set_to_current_time()

    def requested(self, verb: str, kind: str, code: int, seconds: float) -> None:
        """A request to the API server was answered; code 0 if it was not."""
        self._requests.labels(verb, kind, str(code)).inc()
        self._request_seconds.labels(verb).observe(seconds)

    def seen(self, run: SelfRewardingRun) -> None:
        """A run, as it was read."""
        self._phases[_key(run)] = phase_of(run.status)
        self._models.note(_key(run), run.status)

    def forget(self, key: RunKey) -> None:
        """A run is gone, or nobody looks after it any more."""
        self._phases.pop(key, None)
        self._begun.pop(key, None)
        self._models.forget(key)

    def created(self, run: SelfRewardingRun, manifest: RawObject) -> None:
        """A child was created, or was there already."""
        name, marks = manifest["metadata"]["name"], manifest["metadata"]["labels"]
        begun = self._begun.setdefault(_key(run), set())
        if manifest["kind"] not in WORKLOADS or name in begun:
            return
        begun.add(name)
        entry = run.status.attempts.get(marks.get(labels.HOLDER) or marks[labels.KEY])
        reason = (entry.failure if entry else None) or "First"
        self._attempts.labels(marks.get(labels.STAGE, SERVING), reason).inc()

    def written(self, run: SelfRewardingRun, after: SelfRewardingRunStatus) -> None:
        """A status was written over the one that the run had."""
        before = run.status
        self._phases[_key(run)] = phase_of(after)
        self._models.note(_key(run), after)
        for short, summary in after.results.items():
            if short not in before.results and summary.seconds is not None and short in before.attempts:
                self._stage_seconds.labels(summary.stage, "Succeeded").observe(summary.seconds)
        if after.gpu_seconds is not None:
            self._gpu_seconds.inc(max(0.0, after.gpu_seconds - (before.gpu_seconds or 0.0)))
        ended = before.handover_since is not None and after.handover_since is None
        if ended and after.handover_seconds is not None and _was_measured(before, after):
            self._handover.observe(after.handover_seconds)

    def _count(self, phase: str) -> Callable[[], float]:
        return lambda: float(sum(one == phase for one in list(self._phases.values())))


class _NewestModels(Collector):
    """The numbers of each run's newest model, as they stand in its status (`api.run.Metrics`)."""

    def __init__(self) -> None:
        self._newest: dict[RunKey, ModelStatus] = {}

    def note(self, key: RunKey, status: SelfRewardingRunStatus) -> None:
        """A run's status, as it is now."""
        if status.models:
            self._newest[key] = status.models[-1]
        else:  # an edit has left none
            self.forget(key)

    def forget(self, key: RunKey) -> None:
        """A run is gone."""
        self._newest.pop(key, None)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """A gauge for each metric that is known."""
        family = GaugeMetricFamily(
            "srr_model_metric",
            "A measurement of a run's newest model; shares are between 0 and 1.",
            labels=["namespace", "run", "model", "metric"],
        )
        for key, model in list(self._newest.items()):
            for name, value in model.metrics.model_dump(by_alias=True, exclude_none=True).items():
                family.add_metric([key.namespace, key.name, model.name, name], value)
        yield family


def phase_of(status: SelfRewardingRunStatus) -> str:
    """One word for where a run stands."""
    for kind, phase in _ENDS:
        condition = get_condition(status.conditions, kind)
        if condition is not None and condition.status == "True":
            return phase
    return "Running" if status.stage is not None else "Pending"


def _was_measured(before: SelfRewardingRunStatus, after: SelfRewardingRunStatus) -> bool:
    """Whether the hand-over that ended came to its end; one that nothing follows leaves no number. Two may take equally
    long: the second then stands with the stage that it led to."""
    noted = {unit for unit, entry in after.attempts.items() if entry.handover_seconds is not None}
    known = {unit for unit, entry in before.attempts.items() if entry.handover_seconds is not None}
    return after.handover_seconds != before.handover_seconds or not noted <= known


def _key(run: SelfRewardingRun) -> RunKey:
    return RunKey(run.metadata.namespace or "default", run.metadata.name)


def _outcome(error: Exception | None) -> str:
    if error is None:
        return "Success"
    return type(error).__name__ if isinstance(error, ClusterError) else "Error"

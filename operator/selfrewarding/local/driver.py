"""`srr local`: passes over one run until it is done, has failed, or is told to stop.

Purpose: the loop around `Reconciler` and `LocalCluster`, woken by what happens to pods.
Must not: decide what a run needs (the planner does) or start processes (the cluster does).
Neighbours: `display` shows the way, `outcome` says how it ended.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from selfrewarding.api.run import RawObject, SelfRewardingRun, SelfRewardingRunSpec
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.contract.stages import StageKind
from selfrewarding.controller.reconcile import Reconciler, effective_spec
from selfrewarding.local import run_results, snapshot
from selfrewarding.local.cluster import LocalCluster
from selfrewarding.local.devices import visible_gpus
from selfrewarding.local.display import Display
from selfrewarding.local.errors import LocalError
from selfrewarding.local.observing import progress
from selfrewarding.local.outcome import Ending, Outcome, ending_of
from selfrewarding.local.pod_environment import Machine, open_run_store
from selfrewarding.local.run_record import open_record
from selfrewarding.local.state import StateFolder
from selfrewarding.local.usage import UsageMeter
from selfrewarding.plan.actions import Event
from selfrewarding.plan.observed import Observed, Phase
from selfrewarding.plan.retries import FailureClass, forgiven
from selfrewarding.plan.view import View
from selfrewarding.report.index import write_index
from selfrewarding.store.errors import StoreError
from selfrewarding.store.protocol import ArtifactStore

SHORTEST_PAUSE = 0.1
"""Seconds between two passes: what happens within it is one event."""
LOOK_EVERY = 1.0
"""Seconds between two looks at logs and memory, and between two drawings."""
MEMORY_EVERY = 2
"""Looks between two measurements of memory."""
FAILED_PASSES = 8
"""After so many failed passes in a row (about two minutes) the run cannot be driven any further."""
STORE_FAILURES = 3
"""Failures of a real S3 in a row after which it is no hiccup; a folder has none."""
_MENDED_OUTSIDE = frozenset({FailureClass.STORE_UNAVAILABLE, FailureClass.BAD_DATA})
"""Failures whose cause lies neither in the run nor in this machine."""
STALLED_SECONDS = 60.0
"""A run that is stalled and has had no pod for so long does not come on by itself on one machine."""


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """What `srr local` was asked for."""

    raw: RawObject
    """The object as the file says it; it has been validated."""
    spec: SelfRewardingRunSpec
    """Its effective spec."""
    artifacts: Path
    user_env: Mapping[str, str]
    until: StageKind | None = None
    real_s3: bool = False

    @property
    def key(self) -> RunKey:
        """The run by namespace and name."""
        metadata = self.raw["metadata"]
        return RunKey(metadata.get("namespace") or "default", metadata["name"])

    @property
    def state(self) -> StateFolder:
        """The run's state folder."""
        return StateFolder.of(self.artifacts, self.key.namespace, self.key.name)

    @property
    def machine(self) -> Machine:
        """What pods get from this machine."""
        return Machine(self.user_env, None if self.real_s3 else self.artifacts.resolve())


def run_local(asked: LocalRun, display: Callable[[], Display]) -> Outcome:
    """Run to an end; see `outcome` for the ends. Raises LocalError for what cannot even start."""
    check_gpus(asked.spec, visible_gpus(asked.user_env))
    with asked.state.locked():
        return asyncio.run(_drive(asked, display))


def check_gpus(spec: SelfRewardingRunSpec, gpus: tuple[str, ...]) -> None:
    """Refuse a run that this machine can never have the GPUs for. Raises LocalError with each field and its remedy."""
    problems: list[str] = []

    def need(field: str, count: int, cheaper: str) -> None:
        if count > len(gpus):
            problems.append(
                f"{field} asks for {count} GPUs at once, this machine has {len(gpus)}: {cheaper}, or set "
                f"{field}.device: Cpu"
            )

    serving, training = spec.serving, spec.training
    if serving.device == "Cuda":
        need(
            "serving", serving.tensor_parallel_size * serving.replicas, "lower replicas or tensorParallelSize"
        )
    if training.device == "Cuda":
        need("training", training.gpus_per_node * training.nodes, "lower nodes or gpusPerNode")
    for field, pool in (
        ("serving.judge", serving.judge),
        ("serving.promptWriter", serving.prompt_writer),
        ("serving.referee", serving.referee),
    ):
        if pool is not None and pool.device == "Cuda":
            need(field, pool.tensor_parallel_size * pool.replicas, "lower replicas or tensorParallelSize")
    if problems:
        raise LocalError("\n".join(problems))


async def _drive(asked: LocalRun, open_display: Callable[[], Display]) -> Outcome:
    started = datetime.now(UTC)
    record = open_record(asked.state, asked.raw, asked.key.namespace, started)
    store = _store(asked)
    shown: list[Display] = []

    def on_event(event: Event) -> None:
        for one in shown:
            one.event(event)

    cluster = LocalCluster(asked.state, record, asked.machine, on_event=on_event)
    stop = _Stop(cluster)
    meter = UsageMeter(asked.state)
    with stop.on_signals():
        await cluster.start()
        shown.append(open_display())
        loop = _Loop(asked, cluster, store=store, display=shown[0], meter=meter, started=started, stop=stop)
        try:
            async with loop.looking():
                ending = await loop.until_the_end()
        finally:
            shown[0].close()
            shown.clear()
            await cluster.stop()
            with contextlib.suppress(OSError):
                meter.save()
    return await loop.outcome(ending)


def _store(asked: LocalRun) -> ArtifactStore:
    try:
        return open_run_store(asked.spec.artifacts.uri, asked.machine)
    except StoreError as error:
        raise LocalError(f"spec.artifacts.uri: {error}") from error


class _Stop:
    """Ctrl-C and SIGTERM: the first stops with grace, the second kills."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.number: int | None = None
        self._cluster = cluster

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the signals over while the run is driven."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        if self.number is not None:
            self._cluster.kill()
        self.number = self.number or number
        self._cluster.changed.set()


class _Loop:
    """The passes of one start."""

    def __init__(
        self,
        asked: LocalRun,
        cluster: LocalCluster,
        *,
        store: ArtifactStore,
        display: Display,
        meter: UsageMeter,
        started: datetime,
        stop: _Stop,
    ) -> None:
        self._asked = asked
        self._cluster = cluster
        self._store = store
        self._display = display
        self._meter = meter
        self._started = started
        self._stop = stop
        self._reconciler = Reconciler(cluster, lambda: datetime.now(UTC))
        self._models: list[str] = []
        self._stalled_since: datetime | None = None
        self._first_iteration: int | None = None

    async def until_the_end(self) -> Ending:
        """Pass after pass; each waits for something to happen, or for the time that the last one named."""
        cluster = self._cluster
        await self._try_at_once()
        while True:
            cluster.changed.clear()
            if self._stop.number is not None:
                return Ending("interrupted", signal=self._stop.number)
            after = await self._reconciler.reconcile(self._asked.key)
            failed = self._reconciler.failed_passes(self._asked.key)
            if failed is not None and failed.count >= FAILED_PASSES:
                return Ending("broken", message=f"{type(failed.error).__name__}: {failed.error}")
            run = await self._run()
            await self._keep_index(run)
            ending = self._ending(run, at_rest=after > 0)
            if ending is not None:
                return ending
            await self._draw()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(cluster.changed.wait(), max(after, SHORTEST_PAUSE))
            await asyncio.sleep(SHORTEST_PAUSE)

    async def _try_at_once(self) -> None:
        """What an earlier start has ended for is tried at once: whoever starts the command again has mended it."""
        run = await self._run()
        attempts = {
            unit: forgiven(entry) if entry.failure in _MENDED_OUTSIDE else entry
            for unit, entry in run.status.attempts.items()
        }
        if attempts != run.status.attempts:
            await self._cluster.patch_status(run, run.status.model_copy(update={"attempts": attempts}))

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Look at logs and memory in the background: new progress wakes the loop, and the display stays alive."""
        task = asyncio.create_task(self._look())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def outcome(self, ending: Ending) -> Outcome:
        """How it ended, with all that is to be told. Nothing of the run lives any more."""
        run = await self._run()
        spec = effective_spec(run)
        stages = run_results.run_stages(run, spec, datetime.now(UTC))
        await self._write_index(run)
        return Outcome(
            ending=ending,
            run=run,
            finished=run_results.finished_stages(self._store, run, stages),
            usage=self._meter.usage,
            state=self._asked.state,
            failed_log=self._cluster.failed_log,
            store=self._store,
            seconds=(datetime.now(UTC) - self._started).total_seconds(),
        )

    async def _run(self) -> SelfRewardingRun:
        run = await self._cluster.get_run(self._asked.key)
        if run is None:
            raise LocalError(
                f"{self._asked.state.run_file} is gone: somebody removed it while the run went on"
            )
        return run

    def _ending(self, run: SelfRewardingRun, *, at_rest: bool) -> Ending | None:
        # A pass that has only written facts has yet to start what follows from them: the report of a held model, for one.
        living = not at_rest or any(not pod.ended for pod in self._cluster.pods())
        now = datetime.now(UTC)
        if living or not _is_stalled(run):
            self._stalled_since = None
        else:
            self._stalled_since = self._stalled_since or now
        stalled = needs_a_hand(run, STORE_FAILURES if self._asked.real_s3 else 1) or (
            self._stalled_since is not None and (now - self._stalled_since).total_seconds() >= STALLED_SECONDS
        )
        if self._first_iteration is None:
            self._first_iteration = run.status.iteration or 0
        return ending_of(
            run, living=living, stalled=stalled, until=self._asked.until, from_iteration=self._first_iteration
        )

    async def _look(self) -> None:
        seen: dict[str, object] = {}
        count = 0
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for pod in self._cluster.pods():
                if pod.phase is Phase.RUNNING:
                    line = progress(Path(pod.log))
                    if line is not None and seen.get(pod.uid) != line:
                        seen[pod.uid] = line
                        self._cluster.changed.set()
            if count % MEMORY_EVERY == 0:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self._meter.sample, self._cluster.pods())
            count += 1
            await self._draw()

    async def _draw(self) -> None:
        run = await self._run()
        observed: Observed = await self._cluster.observe(run)
        self._display.show(
            snapshot.take(
                run,
                effective_spec(run),
                observed,
                self._cluster.pods(),
                now=datetime.now(UTC),
                started=self._started,
                peak_bytes=self._meter.usage.peak_bytes,
            )
        )

    async def _keep_index(self, run: SelfRewardingRun) -> None:
        """The index follows each new model and what its gate says."""
        now = [f"{model.uri} {model.digest} {model.gate}" for model in run.status.models]
        if now != self._models:
            await self._write_index(run)
            self._models = now

    async def _write_index(self, run: SelfRewardingRun) -> None:
        spec = effective_spec(run)
        stages = run_results.run_stages(run, spec, datetime.now(UTC))
        document = run_results.run_index(run, spec, stages, self._meter.usage.stages)
        with contextlib.suppress(StoreError):  # the run's own stages tell what is wrong with the store
            await asyncio.to_thread(write_index, self._store, document)


def needs_a_hand(run: SelfRewardingRun, failures: int) -> bool:
    """Whether the store has failed what the run is at so often in a row, or people's data is refused: an operator tries on
    until that is mended; here somebody sits before the machine and can mend it. A report is not what a run is at."""
    failed = {
        unit
        for unit, one in run.status.attempts.items()
        if one.failure in _MENDED_OUTSIDE
        and one.infrastructure >= (failures if one.failure == FailureClass.STORE_UNAVAILABLE else 1)
    }
    if not failed:
        return False
    view = View(
        run=run, spec=effective_spec(run), observed=Observed(), now=datetime.now(UTC), status=run.status
    )
    return not failed.isdisjoint({*(stage.short for stage in view.active), *view.wanted_holders})


def _is_stalled(run: SelfRewardingRun) -> bool:
    return any(one.type == "Stalled" and one.status == "True" for one in run.status.conditions)

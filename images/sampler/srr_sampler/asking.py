"""The frame of the stages that ask a server: deadline, SIGTERM, workers, progress, and the result at the end.

Purpose: what GeneratePrompts, Rollout, BuildEvaluations, Evaluate and Compare have in common around their own work.
Must not: know rows or prompts.
Neighbours: each stage's `main` calls `run_asking`; `contract.program.run_stage` turns what is raised into an exit code.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from selfrewarding.contract import environment
from selfrewarding.contract.artifacts import attempt_prefix, stage_prefix
from selfrewarding.contract.config import ServedModel, StageConfig
from selfrewarding.contract.program import BadConfiguration, Retry, Surroundings, report_progress
from selfrewarding.contract.result import FileRef, StageResult
from selfrewarding.contract.server_key import server_key
from selfrewarding.data.errors import DataError
from selfrewarding.store.digests import digest_bytes
from selfrewarding.store.errors import StoreError
from selfrewarding.store.failures import stage_failure
from selfrewarding.store.locate import open_store
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.references import refer
from selfrewarding.store.results import commit_result, find_result
from srr_sampler.chat_endpoint import ChatEndpoint
from srr_sampler.client import CompletionClient

Role = Literal["policy", "judge", "writer", "referee"]

_REPORT_EVERY = 1.0
_RATE_WINDOW = 60.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage's work is given."""

    config: StageConfig
    here: Surroundings
    store: ArtifactStore
    clients: list[CompletionClient | ChatEndpoint] = field(default_factory=list)
    """Made so far: they know why a stage waits."""

    @property
    def prefix(self) -> str:
        """The stage's folder in the store."""
        return stage_prefix(self.config.kind, self.config.key)

    @property
    def attempt(self) -> str:
        """The folder that this pod writes under."""
        return attempt_prefix(self.config.kind, self.config.key, self.here.pod_uid)

    def served(self, role: Role) -> tuple[Role, ServedModel]:
        """The server that plays a role: its own, or the policy's where none is named. Raises BadConfiguration."""
        for name in (role, "policy"):
            served = self.config.servers.get(name)
            if served is not None:
                return name, served
        raise BadConfiguration(f"{self.config.kind} needs a {role} server and the plan names none")

    def client(self, role: Role) -> CompletionClient:
        """A client for a role that `served` returned. Raises BadConfiguration."""
        variable = environment.SERVER_URL[role]
        urls = os.environ.get(variable, "")
        if not urls.strip(" ,"):
            raise BadConfiguration(
                f"no address for the {role} server: the environment variable {variable} is not set"
            )
        served = self.config.servers[role]
        client = CompletionClient(
            role,
            served,
            urls,
            pods=self.config.execution.shards,
            key=server_key(os.environ, run_uid=self.config.run.uid, served_name=served.name),
        )
        self.clients.append(client)
        return client

    def commit(
        self,
        *,
        files: dict[str, bytes],
        counts: dict[str, int],
        metrics: dict[str, float],
        report: dict[str, object],
    ) -> StageResult:
        """Write the files, then `result.json`; returns the result that is in the store now."""
        refs = {name: self._write(name, content) for name, content in files.items()}
        result = StageResult(
            contract=self.config.contract,
            kind=self.config.kind,
            iteration=self.config.iteration,
            key=self.config.key,
            parents={role: ref.digest for role, ref in self.config.parents.items()},
            files=refs,
            counts=counts,
            metrics=metrics,
            report=report,
            seconds=round(time.monotonic() - self.here.started, 1),
            pod=self.here.pod_uid,
        )
        return commit_result(self.store, result)

    def _write(self, name: str, content: bytes) -> FileRef:
        self.store.write(f"{self.attempt}/{name}", content)
        digest = digest_bytes(content)
        return FileRef(path=f"attempts/{self.here.pod_uid}/{name}", size=digest.size, sha256=digest.sha256)


def run_asking(
    config: StageConfig, here: Surroundings, work: Callable[[Stage], Coroutine[Any, Any, StageResult | None]]
) -> StageResult | None:
    """Run a stage's work unless its result is there already.

    Raises:
        Retry: the stage's deadline passed, or the pod was told to stop; finished rows are kept.
        StageFailure: whatever the work raises; errors of store and data are translated.
    """
    stage = Stage(config, here, open_store(config.store))
    try:
        refer(stage.store, config.run, stage.prefix)
        found = find_result(stage.store, config.kind, config.key)
        return found if found is not None else asyncio.run(_until_deadline(stage, work))
    except (StoreError, DataError) as error:
        failure = stage_failure(error)
        raise (failure if failure is not None else error) from error


async def _until_deadline(
    stage: Stage, work: Callable[[Stage], Coroutine[Any, Any, StageResult | None]]
) -> StageResult | None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work(stage))
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    with contextlib.suppress(RuntimeError):  # in a test's thread: only the main thread may set it
        loop.add_signal_handler(signal.SIGTERM, stop)
    left = stage.config.execution.deadline_seconds - (time.monotonic() - stage.here.started)
    try:
        async with asyncio.timeout(max(0.0, left)):
            return await task
    except TimeoutError as error:
        problems = (
            "; ".join(client.problem for client in stage.clients if client.problem) or "it was under way"
        )
        raise Retry(
            f"not done after {stage.config.execution.deadline_seconds} s (limits.stageDeadlineSeconds), finished rows "
            f"are kept: {problems}"
        ) from error
    except asyncio.CancelledError:
        if not stopped:
            raise
        raise Retry("told to stop (SIGTERM); finished rows are kept") from None
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def run_workers(jobs: Iterable[Callable[[], Awaitable[None]]], width: int) -> None:
    """Run all jobs, `width` at a time, in order of starting; the first failure stops the others and is raised."""
    waiting = iter(jobs)

    async def worker() -> None:
        for job in waiting:
            await job()

    workers = [asyncio.ensure_future(worker()) for _ in range(max(1, width))]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


class Meter:
    """Counts what is done and prints a progress line at most once a second.

    Args:
        total: rows of this pod.
        done: of them, those that earlier attempts finished.
        tokens: generated by earlier attempts.
    """

    def __init__(self, *, total: int, done: int = 0, tokens: int = 0, unit: str = "rows") -> None:
        self.total = total
        self.done = done
        self.tokens = tokens
        self.new_tokens = 0
        """Generated by this attempt."""
        self.started = time.monotonic()
        self._unit = unit
        self._points: deque[tuple[float, int]] = deque([(self.started, done)])
        self._reported = float("-inf")
        self.report()

    def expect(self, *, total: int = 0, done: int = 0, tokens: int = 0) -> None:
        """Take on further work, with what earlier attempts did of it."""
        self.total += total
        self.done += done
        self.tokens += tokens
        self._points = deque([(time.monotonic(), self.done)])
        self.report()

    def add(self, *, done: int = 0, tokens: int = 0) -> None:
        """Note progress."""
        self.done += done
        self.tokens += tokens
        self.new_tokens += tokens
        if time.monotonic() - self._reported >= _REPORT_EVERY:
            self.report()

    def report(self) -> None:
        """Print a progress line now; the rate is that of the last minute."""
        now = time.monotonic()
        self._points.append((now, self.done))
        while len(self._points) > 2 and now - self._points[0][0] > _RATE_WINDOW:
            self._points.popleft()
        (then, before), self._reported = self._points[0], now
        rate = (self.done - before) / (now - then) if now > then else 0.0
        report_progress(
            done=self.done, total=self.total, rate=round(rate, 3) or None, unit=self._unit, tokens=self.tokens
        )

    def tokens_per_second(self) -> float | None:
        """Of this attempt; None if it generated nothing."""
        elapsed = time.monotonic() - self.started
        return self.new_tokens / elapsed if self.new_tokens and elapsed > 0 else None


def prefix_cache_report(before: dict[str, float], after: dict[str, float]) -> dict[str, object]:
    """The servers' prefix cache hit rate between two readings of their counters; empty if they do not say."""
    queries = after.get("vllm:prefix_cache_queries_total", 0.0) - before.get(
        "vllm:prefix_cache_queries_total", 0.0
    )
    hits = after.get("vllm:prefix_cache_hits_total", 0.0) - before.get("vllm:prefix_cache_hits_total", 0.0)
    return {"prefixCacheHitRate": round(hits / queries, 4)} if queries > 0 and hits >= 0 else {}

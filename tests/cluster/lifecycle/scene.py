"""The stage on which runs live here: the player in place of kubelets, a proxy that counts, one real operator.

All tests of a file are scenarios (`faults.scenarios`) that play at the same time before one operator, each in namespaces
of its own, all of them under Pod Security's `restricted`: what they cost is mostly waiting. In the end every status that was
ever written in a scenario's namespaces must have been true.

Must not: judge what happens. Neighbours: `truth` and `executions` judge; `faults.player` plays.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.faults.api_client import NAMESPACES, PODS, RUNS, Api, Kind, Raw
from tests.cluster.faults.census import Census
from tests.cluster.faults.operator_process import OperatorProcess, operating
from tests.cluster.faults.player import Player, playing
from tests.cluster.faults.proxy import Call, Proxy, proxying
from tests.cluster.faults.runs import (
    NAME,
    condition,
    create_run,
    describe,
    fresh,
    install_crds,
    is_finished,
    run_in,
)
from tests.cluster.faults.scenarios import LONGEST, Outcomes
from tests.cluster.lifecycle.truth import untruths

from selfrewarding.api import labels

SERVICE_ACCOUNTS = Kind("api/v1", "serviceaccounts")
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
_PATIENCE = 120.0
"""Seconds within which anything here happens, on a machine that does other things too."""


class TookTooLong(Exception):
    """Something did not come to pass; the text says how the unfinished runs stand."""


@dataclass
class Scene:
    """All that a test acts and looks with."""

    player: Player
    proxy: Proxy
    operator: OperatorProcess
    """Of all scenarios."""
    kubeconfig: Path
    """Straight to the API server."""
    folder: Path
    """The scenario's own."""
    namespaces: list[str] = field(default_factory=list)
    """Those that the scenario made, in order."""
    _generations: dict[tuple[str, str], int] = field(default_factory=dict)
    """Of the runs' last edits: a watch may be behind them."""

    @property
    def api(self) -> Api:
        """Straight to the API server."""
        return self.player.api

    @property
    def census(self) -> Census:
        """All that ever happened to runs, children and pods."""
        return self.player.census

    # ------------------------------------------------------------------ what users do

    async def namespace(self, name: str) -> str:
        """A new namespace under `restricted`, ready for pods."""
        made = fresh(name)
        await self.api.create(NAMESPACES, None, {"metadata": {"name": made, "labels": RESTRICTED}})
        self.namespaces.append(made)
        end = time.monotonic() + _PATIENCE
        while await self.api.get(SERVICE_ACCOUNTS, made, "default") is None:
            assert time.monotonic() < end, f"namespace {made} got no ServiceAccount"
            await asyncio.sleep(0.02)
        return made

    async def run(
        self,
        namespace: str,
        changes: Mapping[str, Any] | None = None,
        *,
        store: str | None = None,
        name: str = NAME,
    ) -> None:
        """`kubectl create` of a run in such a namespace; runs with the same `store` share results."""
        await create_run(self.api, namespace, changes, store=store, name=name)

    async def edit(self, namespace: str, spec: Mapping[str, Any], *, name: str = NAME) -> int:
        """`kubectl patch` of a run's spec; its generation then."""
        changed = await self.api.patch(RUNS, namespace, name, {"spec": dict(spec)})
        self._generations[namespace, name] = int(changed["metadata"]["generation"])
        return self._generations[namespace, name]

    async def annotate(self, namespace: str, **annotations: str) -> None:
        """`kubectl annotate` with annotations of our group."""
        named = {f"{labels.GROUP}/{name}": value for name, value in annotations.items()}
        await self.api.patch(RUNS, namespace, NAME, {"metadata": {"annotations": named}})

    # ------------------------------------------------------------------ what the player does

    @contextmanager
    def holding(self, namespace: str, *stages: str) -> Iterator[None]:
        """Let pods of these stages run on and on, for as long as the block lasts."""
        self.player.hold(namespace, lambda pod: stage_of(pod) in stages)
        try:
            yield
        finally:
            self.player.release(namespace)

    # ------------------------------------------------------------------ what is to be seen

    def look(self, namespace: str, name: str = NAME) -> Raw | None:
        """The run as the watch showed it last."""
        return run_in(self.player, namespace, name)

    def status(self, namespace: str, name: str = NAME) -> Raw:
        """Its status; empty while there is none."""
        return dict((self.look(namespace, name) or {}).get("status") or {})

    def says(self, namespace: str, kind: str, value: str, reason: str | None = None) -> bool:
        """Whether a condition stands so in a status that was computed from the run's newest generation."""
        if not self.is_seen(namespace):
            return False
        found = condition(self.look(namespace), kind)
        return found[0] == value and reason in (None, found[1])

    def is_seen(self, namespace: str, name: str = NAME) -> bool:
        """Whether status is of the run as it was last edited."""
        observed = self.status(namespace, name).get("observedGeneration", 0)
        return bool(observed >= self._generations.get((namespace, name), 1))

    def message(self, namespace: str, kind: str) -> str:
        """The message of a condition; empty if it is not there."""
        conditions = self.status(namespace).get("conditions", [])
        return next((str(one["message"]) for one in conditions if one["type"] == kind), "")

    def objects(self, kind: Kind, namespace: str) -> list[Raw]:
        """Children or pods that are there now."""
        found = self.census.present[kind.plural].values()
        return [one for one in found if one["metadata"]["namespace"] == namespace]

    def pods(self, namespace: str, stage: str | None = None, *, phase: str | None = None) -> list[Raw]:
        """Pods that are there now: of a stage, in a phase."""
        return [
            pod
            for pod in self.objects(PODS, namespace)
            if stage in (None, stage_of(pod)) and phase in (None, pod.get("status", {}).get("phase"))
        ]

    def servers(self, namespace: str) -> list[Raw]:
        """Pods of serving pools that are there now."""
        return [pod for pod in self.objects(PODS, namespace) if labels.HOLDER in pod["metadata"]["labels"]]

    async def until(self, what: str, true: Callable[[], object], seconds: float = _PATIENCE) -> None:
        """Wait until `true()` is. Raises TookTooLong."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                raise TookTooLong(f"{what}: not within {seconds:g} s\n{describe(self.player)}")
            await asyncio.sleep(0.02)

    async def until_running(self, namespace: str, stage: str) -> None:
        """Wait until a pod of a stage runs and status tells of that stage."""
        there = lambda: (  # noqa: E731
            self.pods(namespace, stage, phase="Running") and self.status(namespace).get("stage") == stage
        )
        await self.until(f"{stage} in {namespace}", there)

    async def until_succeeded(self, namespace: str, seconds: float = _PATIENCE, name: str = NAME) -> Raw:
        """Wait until the run as it is written now has ended well; the run then. Raises TookTooLong."""

        ended = lambda: self.is_seen(namespace, name) and is_finished(self.look(namespace, name))  # noqa: E731
        await self.until(f"the end of {namespace}/{name}", ended, seconds)
        run = self.look(namespace, name)
        assert run is not None
        assert condition(run, "Succeeded")[0] == "True", run["status"]["conditions"]
        return run

    def calls(self, namespace: str, since: float = 0.0) -> list[Call]:
        """What the operator wrote and listed in a namespace."""
        calls = (call for call in self.proxy.calls if call.namespace == namespace and call.at >= since)
        return [call for call in calls if call.is_write or call.verb == "list"]

    async def until_quiet(self, namespace: str, seconds: float = 2.0) -> None:
        """Wait until the operator has written and listed nothing in a namespace for so long."""
        quiet = lambda: all(  # noqa: E731
            call.answered is not None and time.monotonic() - call.answered >= seconds
            for call in self.calls(namespace)
        )
        await self.until(f"quiet in {namespace}", quiet)


def stage_of(thing: Raw) -> str | None:
    """The stage that a child or pod belongs to; None for those of serving pools."""
    return thing["metadata"].get("labels", {}).get(labels.STAGE)


Scenario = Callable[[Scene], Awaitable[None]]


async def play(scenarios: Sequence[Scenario], kubeconfig: Path, repository: Path, folder: Path) -> Outcomes:
    """Play all at the same time, to the end of the last one. Raises nothing of a scenario's."""
    seconds: dict[Any, float] = {}

    async def one(played: Scenario, player: Player, proxy: Proxy, operator: OperatorProcess) -> None:
        began, own = time.monotonic(), folder / played.__name__
        own.mkdir()
        scene = Scene(player, proxy, operator, kubeconfig, own)
        try:
            async with asyncio.timeout(LONGEST):
                await played(scene)
            for namespace in scene.namespaces:
                assert not untruths(player.census, namespace)
        except BaseException as error:
            for namespace in scene.namespaces:
                error.add_note("\n".join(player.census.history(namespace)[-80:]))
            error.add_note(operator.tail(40))
            raise
        finally:
            seconds[played] = time.monotonic() - began

    async with playing(kubeconfig) as player, proxying(kubeconfig) as proxy:
        await install_crds(player.api, repository)
        async with operating(proxy.kubeconfig(folder), folder) as operator:
            them = (one(played, player, proxy, operator) for played in scenarios)
            errors = await asyncio.gather(*them, return_exceptions=True)
        versions = sum(change.kind == RUNS.plural for change in player.census.changes)
        print(
            f"{len(scenarios)} scenarios in {max(seconds.values()):.0f} s, {versions} versions of runs, each one judged"
        )
    return Outcomes(dict(zip(scenarios, errors, strict=True)), seconds)

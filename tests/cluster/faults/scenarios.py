"""Scenarios that mostly wait, played at the same time: each is a test of its own, with its own operator and namespace.

`@scenario` makes a test of it. The first such test of a module starts all that pytest has collected of it
(the fixture `outcomes`, in `conftest`); each then passes or fails by what became of its own scenario.

Must not: be used where a scenario measures the operator's own time, or changes what all of an API server share.
Neighbours: `test_survival_rules`; `scene` gives a scenario its player, proxy and operator.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.faults.operator_process import OperatorProcess, operating
from tests.cluster.faults.player import Player, playing
from tests.cluster.faults.proxy import Proxy, proxying
from tests.cluster.faults.runs import install_crds

LONGEST = 240.0
"""Seconds that a scenario may take beside all others."""


@dataclass(frozen=True)
class Place:
    """Where a scenario plays."""

    player: Player
    """Of all scenarios."""
    kubeconfig: Path
    """Straight to the API server."""
    folder: Path
    """The scenario's own."""


@dataclass(frozen=True)
class Scene:
    """An API server with a player, and one operator behind a proxy."""

    player: Player
    proxy: Proxy
    operator: OperatorProcess


@asynccontextmanager
async def scene(place: Place, *namespaces: str) -> AsyncIterator[Scene]:
    """A scene for as long as the block lasts; its operator looks after these namespaces alone.

    An error within tells the end of the operator's log.
    """
    async with proxying(place.kubeconfig) as proxy:
        settings = {"NAMESPACES": ",".join(namespaces)}
        async with operating(proxy.kubeconfig(place.folder), place.folder, **settings) as operator:
            try:
                yield Scene(place.player, proxy, operator)
            except BaseException as error:
                error.add_note(operator.tail(80))
                raise


Scenario = Callable[[Place], Awaitable[None]]


class Outcomes:
    """What became of the scenarios."""

    def __init__(self, errors: dict[Scenario, BaseException | None], seconds: dict[Scenario, float]) -> None:
        self._errors = errors
        self._seconds = seconds

    def tell(self, played: Scenario) -> None:
        """Print how long a scenario took; raise what it raised."""
        print(f"{self._seconds[played]:.1f} s, beside {len(self._errors) - 1} other scenarios")
        if (error := self._errors[played]) is not None:
            raise error


def scenario(played: Scenario) -> Callable[[Outcomes], None]:
    """A test that tells what became of a scenario."""

    def test(outcomes: Outcomes) -> None:
        outcomes.tell(played)

    test.__name__ = test.__qualname__ = played.__name__
    test.__doc__, test.__module__ = played.__doc__, played.__module__
    test.scenario = played  # type: ignore[attr-defined]
    return test


def scenario_of(test: Any) -> Scenario | None:
    """The scenario that a test tells of, if it is one of these."""
    return getattr(test, "scenario", None)


async def play(scenarios: Iterable[Scenario], kubeconfig: Path, repository: Path, folder: Path) -> Outcomes:
    """Play all, to the end of the last one. Raises nothing of a scenario's."""
    chosen, seconds = list(scenarios), dict[Scenario, float]()

    async def one(played: Scenario, player: Player) -> None:
        began = time.monotonic()
        own = folder / played.__name__
        own.mkdir()
        try:
            async with asyncio.timeout(LONGEST):
                await played(Place(player, kubeconfig, own))
        finally:
            seconds[played] = time.monotonic() - began

    async with playing(kubeconfig) as player:
        await install_crds(player.api, repository)
        errors = await asyncio.gather(*(one(played, player) for played in chosen), return_exceptions=True)
    return Outcomes(dict(zip(chosen, errors, strict=True)), seconds)

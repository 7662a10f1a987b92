"""The operator on a node, all selected cases played side by side, and a table of what the runs said."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.cluster.bad_input.cases import CASES
from tests.cluster.bad_input.limited_store import LimitedStore
from tests.cluster.bad_input.place import MODEL, Place
from tests.cluster.bad_input.playing import Outcome, play
from tests.cluster.bad_input.witness import Witness
from tests.cluster.end_to_end.installation import Installed, install
from tests.cluster.testbed.handle import Cluster
from tests.support.tiny_model import make_model

AT_ONCE = 4
"""Cases that play at the same time: each starts pods, and the machine may have two cores."""
_TABLE: pytest.StashKey[list[tuple[str, Outcome]]] = pytest.StashKey()


@pytest.fixture(scope="session")
def operated(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A cluster with our operator in it, and a model that is a whole folder of a few kilobytes."""
    model = make_model(tmp_path_factory.mktemp("model") / MODEL)
    return install(cluster, model, ("operator", "sampler"))


@pytest.fixture(scope="session")
def played_cases(operated: Installed, request: pytest.FixtureRequest) -> Iterator[dict[str, Outcome]]:
    """What became of every case that this session wants to know of."""
    wanted = {item.callspec.params["case"].name for item in request.session.items
              if isinstance(item, pytest.Function) and "played_cases" in item.fixturenames}  # fmt: skip
    chosen = [case for case in CASES if case.name in wanted]
    token = secrets.token_hex(2)
    places = [Place(operated, f"{case.name}-{token}") for case in chosen]
    witness = Witness(operated.team)
    try:
        with LimitedStore(operated), ThreadPoolExecutor(AT_ONCE) as pool:
            played = list(pool.map(lambda pair: play(*pair, witness), zip(chosen, places, strict=True)))
    finally:
        witness.close()
    request.config.stash[_TABLE] = [(case.name, one) for case, one in zip(chosen, played, strict=True)]
    yield {case.name: one for case, one in zip(chosen, played, strict=True)}
    for place in places:
        place.forget_store()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(_TABLE, [])
    if not rows:
        return
    terminalreporter.section("bad input: what runs said")
    terminalreporter.write_line(
        f"{'case':<22}{'reason':<20}{'told after':>12}{'of that knowable':>18}{'mended, went on after':>24}"
    )
    for name, outcome in rows:
        times = (outcome.since_start, outcome.seconds, outcome.resumed)
        started, knowable, resumed = (f"{one:.1f} s" if one is not None else "—" for one in times)
        reason = outcome.told_by("Ready").get("reason", "—")
        terminalreporter.write_line(f"{name:<22}{reason:<20}{started:>12}{knowable:>18}{resumed:>24}")
        terminalreporter.write_line(f"    waitingFor: {outcome.waiting_for or '—'}")
        terminalreporter.write_line(f"    message:    {outcome.message or '—'}")

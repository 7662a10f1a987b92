"""One case from its first mistake to its mending: what the run said, when, what it cost, and whether it went on.

Must not: know any case. Neighbours: `cases` is the table, `witness` saw what happened, `test_bad_input` judges.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from tests.cluster.bad_input.place import Place
from tests.cluster.bad_input.witness import Object, Witness
from tests.cluster.end_to_end.watching import condition

LIMIT = 30.0
"""Seconds within which a run must tell what can be known."""
PATIENCE = 60.0
"""Seconds after which a case that has not been told is given up."""
LONGEST_PAUSE = 120.0
"""Seconds until a mended run has gone on: a Job's controller and a kubelet make longer and longer pauses between tries."""


def is_there(run: Object) -> bool:
    """The run has been created: what is wrong can be found out from now on."""
    return bool(run)


def is_at(stage: str) -> Callable[[Object], bool]:
    """The run has come to a stage, or starts it."""
    return lambda run: (run.get("status") or {}).get("stage") == stage


def is_prepared(run: Object) -> bool:
    """Prepare has succeeded: the store, the model and the data can be used, and Resolve is next."""
    results = (run.get("status") or {}).get("results") or {}
    return any(one.get("stage") == "Prepare" for one in results.values())


@dataclass(frozen=True, kw_only=True)
class Case:
    """A mistake, what the run must say about it, and how it is mended."""

    name: str
    spoil: Callable[[Place], Mapping[str, Any]]
    """Makes the mistake; returns the changes to the spec of a run that would succeed."""
    ready: str = "False"
    """Status of the condition Ready."""
    reason: str
    """Reason of Ready and of the condition below."""
    condition: str = "Stalled"
    """The condition that tells it besides Ready."""
    says: tuple[str, ...]
    """What the message must tell (regular expressions): what was found, and what to do."""
    waits_for: str = ""
    """What `waitingFor` must tell."""
    mend: Callable[[Place], None]
    """Removes the cause, and does nothing else."""
    knowable: Callable[[Object], bool] = is_there
    """From which version of the run on it can be known …"""
    by_program: bool = False
    """… unless only a program can find it out: then from when that runs."""
    went_on: Callable[[Object], bool] = is_prepared
    """Whether the run has come further than the mistake let it."""
    tidy: Callable[[Place], None] = lambda place: None
    """Takes back what the mending left outside of the namespace and the store."""
    asks_for_gpus: bool = False
    """Whether the mistake is about GPUs: then pods may ask for them, and must not be given any."""


@dataclass
class Outcome:
    """What became of a case."""

    run: Object = field(default_factory=dict)
    """The run as it told what is wrong, or as it stood when nobody waited any longer."""
    told: bool = False
    since_start: float | None = None
    """Seconds from the run's creation until it was told."""
    seconds: float | None = None
    """The same from when it was knowable."""
    resumed: float | None = None
    """Seconds from the mending until the run went on."""
    gpu_pods: dict[str, bool] = field(default_factory=dict)
    """Pods that asked for GPUs before the mending, and whether one was given to a node."""
    explained: str = ""
    """What a person would look at, if the case did not go as it should."""
    error: BaseException | None = None

    def told_by(self, kind: str) -> dict[str, Any]:
        """A condition as it stood then."""
        return condition(self.run, kind)

    @property
    def message(self) -> str:
        """What Ready says."""
        return str(self.told_by("Ready").get("message", ""))

    @property
    def waiting_for(self) -> str:
        """What the column says."""
        return str((self.run.get("status") or {}).get("waitingFor", ""))


def play(case: Case, place: Place, witness: Witness) -> Outcome:
    """Make the mistake, wait for the condition, mend it, wait for the run to go on; then everything is deleted."""
    outcome = Outcome()
    try:
        place.make()
        place.start(place.run(case.spoil(place)))
        _wait_for_the_condition(case, place, witness, outcome)
        outcome.gpu_pods = witness.gpu_pods(place.name)
        if outcome.told:
            mended = monotonic()
            case.mend(place)
            went_on = witness.first(place.name, case.went_on, LONGEST_PAUSE, after=mended)
            outcome.resumed = None if went_on is None else went_on - mended
        if outcome.resumed is None:
            outcome.explained = place.explain()
    except Exception as error:  # noqa: BLE001 - told by this case's test, and not by all others'
        outcome.error = error
    finally:
        case.tidy(place)
        place.close()
    return outcome


def _wait_for_the_condition(case: Case, place: Place, witness: Witness, outcome: Outcome) -> None:
    created = witness.first(place.name, is_there, PATIENCE)
    told = witness.first(place.name, lambda run: _tells(run, case), PATIENCE)
    by_program = witness.first_program(place.name, 0)
    knowable = by_program if case.by_program else witness.first(place.name, case.knowable, 0)
    if created is not None and knowable is not None and told is not None:
        outcome.told = True
        outcome.since_start, outcome.seconds = told - created, told - knowable
    outcome.run = witness.last(place.name)


def _tells(run: Object, case: Case) -> bool:
    """Whether both conditions say it. The texts are the test's to judge, but for `waitingFor`, which may follow."""
    ready, other = condition(run, "Ready"), condition(run, case.condition)
    status = run.get("status") or {}
    return (
        (ready.get("status"), ready.get("reason")) == (case.ready, case.reason)
        and other.get("status") == "True"
        and re.search(case.waits_for, str(status.get("waitingFor", ""))) is not None
    )

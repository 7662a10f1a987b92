"""Bad input on a real node: every mistake ends in a condition with its reason, what was found and what to do, within 30 s
of being knowable; no GPU is used for it; and once its cause is gone, the run goes on by itself.

All cases play side by side, each in a namespace of its own (`conftest`); the table of what runs said is printed at the end.
"""

import re

import pytest
from tests.cluster.bad_input.cases import CASES
from tests.cluster.bad_input.playing import LIMIT, Case, Outcome


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_is_told_in_time_costs_no_gpu_and_is_forgotten_once_it_is_mended(
    case: Case, played_cases: dict[str, Outcome]
) -> None:
    outcome = played_cases[case.name]
    if outcome.error is not None:
        raise outcome.error
    told = outcome.told_by("Ready")
    assert outcome.told, f"{case.reason} was never told: {told}\n{outcome.explained}"
    for text in case.says:
        assert re.search(text, outcome.message), outcome.message
    assert outcome.told_by(case.condition)["observedGeneration"] == outcome.run["metadata"]["generation"]
    assert outcome.seconds is not None
    assert outcome.seconds <= LIMIT, outcome.message
    if case.asks_for_gpus:
        assert outcome.gpu_pods, "the pod that waits has not been seen"
        assert not any(outcome.gpu_pods.values()), "a GPU was given to a pod"
    else:
        assert outcome.gpu_pods == {}, "a pod asked for GPUs"
    assert outcome.resumed is not None, f"mended, and it did not go on\n{outcome.explained}"

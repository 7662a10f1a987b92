"""Rules over several fields: what the API server refuses by CEL, `srr validate` refuses as well, and the other way round.

The table is that of the API server's own test (tests/cluster/crd_cases/rules.yaml).
"""

import pytest
from pydantic import ValidationError
from tests.cluster.crd_cases.table import Case, cases

from selfrewarding.api.presets import effective


@pytest.mark.parametrize("case", [pytest.param(one, id=one.case) for one in cases("rules")])
def test_the_types_take_what_the_api_server_takes(case: Case) -> None:
    if case.refused is None:
        effective(case.manifest["spec"])
        return
    with pytest.raises(ValidationError):
        effective(case.manifest["spec"])


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(one, id=one.case)
        for one in cases("rules")
        if one.refused and "gate" in one.change["spec"]
    ],
)
def test_what_is_said_of_gates_is_the_same(case: Case) -> None:
    """Here the very rule is named, there all metrics that it may be."""
    assert case.refused is not None
    with pytest.raises(ValidationError) as error:
        effective(case.manifest["spec"])
    said = case.refused.removeprefix("a rule of gate.rules is over one of winRate, ")
    assert said in str(error.value)

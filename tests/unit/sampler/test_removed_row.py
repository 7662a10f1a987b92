"""A row is taken out of the seed data: Prepare reads it again, and just what depends on the row gets another key."""

from typing import Any

import pytest
from tests.support.builders import make_spec, prepared
from tests.support.prepare_bench import INSTRUCTION_ROWS, RANKED_ROWS, Bench, ranked

from selfrewarding.contract.result import StageResult
from selfrewarding.plan.graph import build_graph

HELD_OUT_ROWS = [ranked(number, prompt=f"Held out {number} of {number * 17}?") for number in range(4)]


def keys(result: StageResult) -> dict[str, str]:
    graph = build_graph(
        make_spec({"iterations": 2}), run_uid="u", contract=1, prepare=prepared(data=result.data)
    )
    return {f"{stage.kind}{stage.iteration}": stage.key for stage in graph.stages if stage.kind != "Prepare"}


def run(bench: Bench, rows: dict[str, list[Any]]) -> StageResult:
    return bench.run(
        bench.seeds(
            instructions={"uri": bench.put("i.jsonl", rows["instructions"]), "format": "PromptResponse"},
            ranked={"uri": bench.put("r.jsonl", rows["ranked"]), "format": "Ranked"},
            heldOut={"source": {"uri": bench.put("h.jsonl", rows["heldOut"]), "format": "Ranked"}},
        )
    )


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        (
            "heldOut",  # new prompts keep away from these rows
            {"Evaluate1", "GeneratePrompts2", "Rollout2", "BuildPreferences2", "PreferenceOptimize2", "Evaluate2"},
        ),
        (
            "ranked",
            {
                "BuildEvaluations1", "SupervisedFineTune1", "Evaluate1", "GeneratePrompts2", "Rollout2",
                "BuildPreferences2", "PreferenceOptimize2", "Evaluate2",
            },
        ),
        ("instructions", None),
    ],
)  # fmt: skip
def test_a_removed_row_computes_again_just_what_depends_on_it(
    bench: Bench, removed: str, expected: set[str] | None
) -> None:
    rows = {"instructions": INSTRUCTION_ROWS, "ranked": RANKED_ROWS, "heldOut": HELD_OUT_ROWS}
    old = keys(run(bench, rows))
    # The same run would find its result under the same key: this is another run's Prepare of the same files.
    (bench.root / "store").rename(bench.root / "store-before")
    new = keys(run(bench, rows | {removed: rows[removed][1:]}))
    assert old.keys() == new.keys()
    assert {name for name in old if old[name] != new[name]} == (old.keys() if expected is None else expected)

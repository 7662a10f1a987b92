"""What came from a seed row: prompts, answers and pairs by iteration, trained models, what removing it would re-run."""

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.support.builders import make_spec, prepared
from tests.support.lineage_run import RUN, SEEDS, SHOTS, FinishedRun

from selfrewarding.contract.artifacts import PAIRS, PROMPTS
from selfrewarding.lineage.trace import READERS, UnknownRow, trace_row
from selfrewarding.plan.graph import build_graph
from selfrewarding.store.results import read_jsonl
from selfrewarding.store.run_results import RunResults, results_of_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Nobody changes it."""
    return FinishedRun(tmp_path_factory.mktemp("run"), prompts=SEEDS)


def names(stages: list[object]) -> list[str]:
    return [f"{one.kind}{one.iteration}" for one in stages]  # type: ignore[attr-defined]


def test_an_instruction_is_traced_through_prompts_answers_and_pairs(
    run: FinishedRun, results: RunResults
) -> None:
    key = run.instructions[3].key
    trace = trace_row(run.store, results, key)
    assert (trace.set, trace.id, trace.key) == ("instructions", "line-4", key)
    for offspring in trace.offspring:
        stage = f"{offspring.iteration}"
        shown = [
            row["key"]
            for row in read_jsonl(run.store, run.results[f"prompts{stage}"], PROMPTS)
            if key in row["shots"]
        ]
        assert [prompt["key"] for prompt in offspring.prompts] == shown
        assert len(shown) == SHOTS
        assert offspring.answers == 4 * SHOTS
        assert offspring.judgements == 8 * SHOTS
        pairs = [
            row["key"]
            for row in read_jsonl(run.store, run.results[f"preferences{stage}"], PAIRS)
            if row["id"] in shown
        ]
        assert [pair for prompt in offspring.prompts for pair in prompt["pairs"]] == pairs
        assert offspring.pairs == len(pairs) == SHOTS
        assert offspring.indirect > 0, "examples of later prompts were such prompts"
        assert len(shown) + offspring.indirect <= SEEDS
    assert [one.iteration for one in trace.offspring] == [2, 3]
    assert [one.trained for one in trace.offspring] == ["M2", "M3"]
    assert trace.trained == ["Baseline", "M1", "M2", "M3"]
    assert names(list(trace.read_by)) == [
        "TrainBaseline1",
        "SupervisedFineTune1",
        "GeneratePrompts2",
        "GeneratePrompts3",
    ]
    json.dumps(trace.as_json())


def test_a_ranked_row_leads_to_eft_examples(run: FinishedRun, results: RunResults) -> None:
    trace = trace_row(run.store, results, "ranked-1")
    assert trace.set == "ranked"
    assert len(trace.examples) == 1
    assert trace.trained == ["M1"]
    assert names(list(trace.read_by)) == ["BuildEvaluations1", "GeneratePrompts2", "GeneratePrompts3"]
    assert names(list(trace.recomputed))[:2] == ["BuildEvaluations1", "SupervisedFineTune1"]
    assert "TrainBaseline1" not in names(list(trace.recomputed))
    without = trace_row(run.store, results, "ranked-2")
    assert without.examples == [], "its judgements disagreed with people"
    assert without.trained == []


def test_stages_that_another_prepare_fed_are_traced_by_the_sets_they_read(
    run: FinishedRun, results: RunResults, tmp_path: Path
) -> None:
    """Those that are shared with another run, and those from before an edit of the spec."""
    shared = FinishedRun(tmp_path, prompts=SEEDS)
    shared.take_over()
    for row in ("line-4", "ranked-1", "held-out-0"):
        expected = trace_row(run.store, results, row)
        assert expected.recomputed
        current = [result.key for result in shared.results.values()]
        for known in (None, current):
            found = trace_row(shared.store, results_of_run(shared.store, RUN, current=known), row)
            assert names(list(found.read_by)) == names(list(expected.read_by))
            assert names(list(found.recomputed)) == names(list(expected.recomputed))
            assert found.trained == expected.trained


def test_stages_of_an_older_set_do_not_read_a_row_of_the_new_one(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path, prompts=1, iterations=1)
    old = run.results["prepare"]
    run.commit(
        "edited", old.kind, 0, {name: [run.store.read(f"stages/Prepare/{old.key}/{ref.path}")]
                                for name, ref in old.files.items()},
        data=old.data | {"instructions": "0" * 12}, counts=old.counts, report=old.report,
    )  # fmt: skip
    current = [one.key for name, one in run.results.items() if name != "prepare"]
    results = results_of_run(run.store, RUN, current=current)
    assert trace_row(run.store, results, "line-1").read_by == []
    assert names(list(trace_row(run.store, results, "ranked-1").read_by)) == ["BuildEvaluations1"]


def test_a_held_out_row_is_measured_with_and_new_prompts_keep_away_from_it(
    run: FinishedRun, results: RunResults
) -> None:
    trace = trace_row(run.store, results, run.held_out[0].key[:12])
    assert trace.set == "heldOut"
    assert trace.trained == []
    assert names(list(trace.read_by)) == [
        "Evaluate1", "GeneratePrompts2", "Evaluate2", "GeneratePrompts3", "Evaluate3",
    ]  # fmt: skip
    assert set(names(list(trace.recomputed))) == {
        "Evaluate1", *(f"{kind}{number}" for number in (2, 3) for kind in
        ("GeneratePrompts", "Rollout", "BuildPreferences", "PreferenceOptimize", "Evaluate")),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["instructions", "ranked", "heldOut"])
def test_what_would_be_computed_again_is_what_the_planner_computes_again(
    run: FinishedRun, results: RunResults, name: str
) -> None:
    spec = make_spec({"iterations": 3})
    data = dict(prepared().data)
    one = build_graph(spec, run_uid="u", contract=1, prepare=prepared())
    other = build_graph(spec, run_uid="u", contract=1, prepare=prepared(data=data | {name: "0" * 12}))
    planned = [
        f"{before.kind}{before.iteration}"
        for before, after in zip(one.stages, other.stages, strict=True)
        if before.key != after.key
    ]
    row = {"instructions": "line-1", "ranked": "ranked-0", "heldOut": "held-out-0"}[name]
    traced = trace_row(run.store, results, row)
    assert sorted(names(list(traced.recomputed))) == sorted(planned)


@pytest.mark.parametrize("name", sorted(READERS))
def test_the_readers_of_a_set_are_those_whose_keys_the_planner_makes_of_it(name: str) -> None:
    own = {"seedData": {"evaluations": {"uri": "s3://data/eft", "format": "Evaluations"}}}
    prompts = {"evaluation": {"prompts": [{"name": "chat", "uri": "s3://data/chat.jsonl"}]}}
    spec = make_spec({"iterations": 2, **(own if name == "evaluations" else {}), **prompts})
    data = prepared().data | {"evaluations": "1" * 12, "evaluationPrompts": "2" * 12}
    one = build_graph(spec, run_uid="u", contract=1, prepare=prepared(data=data))
    other = build_graph(spec, run_uid="u", contract=1, prepare=prepared(data=data | {name: "0" * 12}))
    changed = {b.key for b, a in zip(one.stages, other.stages, strict=True) if b.key != a.key}
    first = {stage.kind for stage in one.stages if stage.key in changed} - {
        stage.kind
        for stage in one.stages
        if stage.key in changed and any(parent.key in changed for parent in stage.parents.values())
    }
    assert first <= READERS[name]
    assert first, "nobody reads it"


def test_rows_that_are_not_there_or_not_one(run: FinishedRun, results: RunResults, tmp_path: Path) -> None:
    with pytest.raises(
        UnknownRow, match=r"no seed row of lab/demo has this key or id \(12 instructions, 3 ranked"
    ):
        trace_row(run.store, results, "line-99")
    with pytest.raises(UnknownRow, match="no finished Prepare"):
        trace_row(run.store, results_of_run(run.store, RUN.model_copy(update={"uid": "x"})), "line-1")
    digit = Counter(row.key[0] for row in run.instructions).most_common(1)[0][0]
    with pytest.raises(UnknownRow, match=r"seed rows are meant: .* \(instructions\).*: give the key of one"):
        trace_row(run.store, results, digit)
    with pytest.raises(UnknownRow, match="no seed row was given"):
        trace_row(run.store, results, "")

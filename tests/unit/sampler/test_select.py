"""Candidates of a training answer, and one of them is chosen; with a scripted server."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.comparisons import answered, shown
from tests.support.prepare_bench import Bench
from tests.support.sampler_stages import Workplace
from tests.support.scripted_server import Asked, ScriptedServer
from tests.support.stages import summary_size, surroundings

from selfrewarding.api.algorithm import DpoSpec, EarlyStoppingSpec
from selfrewarding.api.evaluation import (
    AnswersSpec,
    ComparisonJudgeSpec,
    EvaluationSpec,
    HeadToHeadSpec,
    PromptSetSpec,
)
from selfrewarding.contract.artifacts import ANSWERS, COMPARISONS
from selfrewarding.contract.config import AnswerParameters, SelectParameters, StageConfig
from selfrewarding.contract.program import BadData
from selfrewarding.contract.result import MAX_SUMMARY_BYTES
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.models import chosen
from selfrewarding.store.results import read_file
from srr_sampler import answer, prepare, select

FOLDERS = ["candidates/1", "candidates/2", "candidates/3", "model"]


def configure(
    place: Workplace, tokenizer: Path, *, texts: dict[int, str] | None = None, **spec: Any
) -> StageConfig:
    candidates = {
        f"candidate-{number}": answered(
            place, f"c{number}", text=(texts or {}).get(number), kind=StageKind.ANSWER
        )
        for number in range(1, len(FOLDERS) + 1)
    }
    return place.config(
        SelectParameters(head_to_head=HeadToHeadSpec(**spec), bootstrap=100, folders=FOLDERS),
        prepare=place.prepare(tokenizer=tokenizer),
        trained=place.parent(StageKind.PREFERENCE_OPTIMIZE, "dpo", {}),
        **candidates,
    )


def best_is(name: str) -> Any:
    """A judge to whom candidates get better until `name`, and worse after it."""

    def worth(one: str) -> int:
        return -abs(int(one[1:]) - int(name[1:]))

    def reply(asked: Asked, seed: int) -> tuple[str, str]:
        first, second = shown(asked)
        return f"Reasons.\nPreference: {'A' if worth(first) > worth(second) else 'B'}", "stop"

    return reply


@pytest.mark.parametrize(("best", "steps"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_the_walk_ends_at_the_first_candidate_that_is_no_better(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, best: int, steps: int
) -> None:
    server.reply = best_is(f"c{best}")
    config = configure(place, tokenizer_folder)
    result = place.run(select.main, config)
    assert result.metrics["selected"] == best
    assert [f"winRateOfCandidate{number}" in result.metrics for number in (2, 3, 4)] == [
        number <= steps + 1 for number in (2, 3, 4)
    ]
    found = chosen(result)
    assert found is not None
    assert (found.kind, found.key) == (StageKind.PREFERENCE_OPTIMIZE, config.parents["trained"].key)
    assert found.folder == FOLDERS[best - 1]
    assert result.report["chosen"] == f"candidate {best} of 4"
    assert len(server.requests) == steps * 6 * 2, "both orders, and nothing of what comes after"
    pairs = {tuple(sorted(shown(one))) for one in server.requests}
    assert pairs == {(f"c{number}", f"c{number + 1}") for number in range(1, steps + 1)}
    document = json.loads(read_file(place.store, result, "metrics.json"))
    assert [one["candidate"] for one in document["steps"]] == list(range(2, steps + 2))
    rows = place.rows(result, COMPARISONS)
    assert len(rows) == len({row["key"] for row in rows}) == steps * 6
    assert summary_size(result) <= MAX_SUMMARY_BYTES


def test_the_same_answers_are_a_tie_and_the_earlier_candidate_is_taken(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = best_is("c4")
    result = place.run(select.main, configure(place, tokenizer_folder, texts={1: "c0 same", 2: "c0 same"}))
    assert (result.metrics["selected"], result.metrics["winRateOfCandidate2"]) == (1, 0.5)
    assert not server.requests, "nobody is asked about equal texts"


def test_a_question_that_two_steps_have_is_asked_once(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    """Candidate 3 says what candidate 1 said: to be compared with candidate 2, as candidate 1 was."""
    texts = {1: "c1 again", 2: "c2 other", 3: "c1 again"}
    server.reply = best_is("c2")
    result = place.run(select.main, configure(place, tokenizer_folder, texts=texts))
    assert result.metrics["selected"] == 2
    assert len(server.requests) == len({one.prompt for one in server.requests}) == 6 * 2


def test_verdicts_of_a_killed_attempt_are_not_paid_for_again(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply = best_is("c4")
    config = configure(place, tokenizer_folder)

    def killed(*args: Any, **others: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(select, "_committed", killed)
        with pytest.raises(KeyboardInterrupt):
            place.run(select.main, config, "pod-1")
    asked = len(server.requests)
    assert asked == 3 * 6 * 2
    result = place.run(select.main, config, "pod-2")
    assert len(server.requests) == asked
    assert result.metrics["selected"] == 4
    assert result.counts["verdicts"] == 36


def test_without_a_verdict_nothing_is_chosen(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = lambda asked, seed: ("I like both.", "stop")
    with pytest.raises(BadData, match=r"candidate 2 with candidate 1 none has a verdict.*format Structured"):
        place.run(select.main, configure(place, tokenizer_folder))


def test_a_budget_that_is_used_up_is_named(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = best_is("c4")
    judge = ComparisonJudgeSpec(token_budget=1)
    with pytest.raises(BadData, match=r"tokenBudget of 1 is used up"):
        place.run(select.main, configure(place, tokenizer_folder, judge=judge))


def test_a_candidate_answers_what_it_is_compared_on_and_no_more(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    rows = [
        {"key": f"k{number}", "set": name, "id": f"{name}-{number}", "turns": [f"{name} {number}?"]}
        for name in ("bench", "other")
        for number in range(5)
    ]
    evaluation = EvaluationSpec(
        prompts=[PromptSetSpec(name="bench", uri="file:///prompts.jsonl")],
        answers=AnswersSpec(max_tokens=50),
        head_to_head=HeadToHeadSpec(set="bench", prompts=3),
    )
    config = place.config(
        AnswerParameters(folder="candidates/1", evaluation=evaluation),
        prepare=place.prepare(tokenizer=tokenizer_folder, evaluation_prompts=rows),
        model=place.parent(StageKind.PREFERENCE_OPTIMIZE, "dpo", {}),
    )
    result = place.run(answer.main, config)
    found = place.rows(result, ANSWERS)
    assert [(row["set"], row["key"]) for row in found] == [("bench", "k0"), ("bench", "k1"), ("bench", "k2")]
    assert len(server.requests) == 3
    assert (result.counts["prompts"], result.counts["answered"]) == (3, 3)
    assert result.report["candidate"] == "candidates/1"
    assert summary_size(result) <= MAX_SUMMARY_BYTES


def test_a_set_without_prompts_is_named(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    config = place.config(
        AnswerParameters(folder="model", evaluation=EvaluationSpec(head_to_head=HeadToHeadSpec())),
        prepare=place.prepare(tokenizer=tokenizer_folder),
        model=place.parent(StageKind.PREFERENCE_OPTIMIZE, "dpo", {}),
    )
    with pytest.raises(BadData, match="the set held-out has no prompts"):
        place.run(answer.main, config)
    assert not server.requests


@pytest.mark.parametrize("held_out", [False, True])
def test_prepare_refuses_early_stopping_without_prompts_to_compare_on(bench: Bench, held_out: bool) -> None:
    evaluation = {"prompt": "What is 2 + 2?", "response": "It is 4.", "judgement": "Right.\nScore: 5"}
    own = {"uri": bench.put("e.jsonl", [evaluation]), "format": "Evaluations"}
    seeds = bench.seeds() if held_out else bench.seeds(ranked=None, evaluations=own)
    config = bench.config(seeds)
    dpo = DpoSpec(early_stopping=EarlyStoppingSpec(candidates=2))
    asked = config.model_copy(update={"parameters": config.parameters.model_copy(update={"dpo": dpo})})
    if held_out:
        assert prepare.main(asked, surroundings(bench.root / "scratch")).counts["heldOut"]
        return
    with pytest.raises(BadData, match="none is held out: give more ranked prompts"):
        prepare.main(asked, surroundings(bench.root / "scratch"))

"""BuildEvaluations and Evaluate: human-ranked answers, judged."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.sampler_stages import Workplace
from tests.support.scripted_server import Asked, ScriptedServer, default_reply, number_of
from tests.support.stages import summary_size

from selfrewarding.api.algorithm import EvaluationsSpec, JudgeSpec, ScoresSpec
from selfrewarding.api.evaluation import EvaluationSpec
from selfrewarding.contract.config import BuildEvaluationsParameters, EvaluateParameters, StageConfig
from selfrewarding.contract.program import BadData
from selfrewarding.contract.result import MAX_SUMMARY_BYTES
from selfrewarding.data.intervals import intervals_of
from selfrewarding.store.results import read_file
from srr_sampler import build_evaluations, evaluate


def ranked(
    name: str, count: int, texts: tuple[str, ...] = ("best", "middle", "worst")
) -> list[dict[str, Any]]:
    return [
        {
            "key": f"{name}{number}",
            "prompt": [{"role": "user", "content": f"Question {name}{number}?"}],
            "responses": [{"text": f"{text} {number}", "rank": rank} for rank, text in enumerate(texts)],
        }
        for number in range(count)
    ]


def by_quality(scores: dict[str, int]) -> Any:
    """A judge that gives each word its score, and is a little noisy in its text."""

    def reply(asked: Asked, seed: int) -> tuple[str, str]:
        if asked.kind != "judgement":
            return default_reply(asked, seed)
        answer = asked.prompt.rpartition("<answer>\n")[2].partition(" ")[0]
        return f"Because of {number_of(seed, below=1000)}.\nScore: {scores[answer]}", "stop"

    return reply


def building(
    place: Workplace, tokenizer: Path, *, judge: JudgeSpec | None = None, prompts: int = 10, **spec: Any
) -> StageConfig:
    return place.config(
        BuildEvaluationsParameters(evaluations=EvaluationsSpec(**spec), judge=judge or JudgeSpec(retries=0)),
        prepare=place.prepare(tokenizer=tokenizer, ranked=ranked("r", prompts), held_out=ranked("h", 4)),
    )


def evaluating(
    place: Workplace, tokenizer: Path, *, judge: JudgeSpec | None = None, prompts: int = 10
) -> StageConfig:
    return place.config(
        EvaluateParameters(
            judge=judge or JudgeSpec(retries=0), evaluation=EvaluationSpec(samples=2, bootstrap=100)
        ),
        prepare=place.prepare(tokenizer=tokenizer, ranked=ranked("r", 3), held_out=ranked("h", prompts)),
    )


def test_judgements_that_agree_with_people_become_examples(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = by_quality({"best": 5, "middle": 3, "worst": 1})
    result = place.run(build_evaluations.main, building(place, tokenizer_folder))
    counts = result.counts
    assert (counts["prompts"], counts["kept"], counts["discordant"], counts["allTied"]) == (10, 10, 0, 0)
    assert (counts["examples"], counts["thinned"]) == (30, 0)
    assert counts["judgements"] == counts["valid"] == 10 * 3 * 3
    examples = place.rows(result, "evaluations.jsonl")
    for row in examples:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["messages"][0]["content"].startswith("You are grading")
        assert row["messages"][1]["content"].splitlines()[-1].startswith("Score: ")
    judged = place.rows(result, "judgements.jsonl")
    assert [answer["rank"] for answer in judged[0]["responses"]] == [0, 1, 2]
    assert [len(answer["judgements"]) for answer in judged[0]["responses"]] == [3, 3, 3]
    asked = {asked.prompt.partition("Question ")[2][:2] for asked in server.requests}
    assert all(name.startswith("r") for name in asked), "rule 1: held-out prompts are no examples"


def test_the_most_common_score_is_thinned_out(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = by_quality({"best": 5, "middle": 4, "worst": 4})
    result = place.run(build_evaluations.main, building(place, tokenizer_folder, most_common_share=0.5))
    assert (result.counts["examples"], result.counts["thinned"]) == (20, 10)


def test_the_runs_own_rules_of_agreement_and_target_hold(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = by_quality({"best": 5, "middle": 4, "worst": 4})
    config = building(place, tokenizer_folder, most_common_share=1, target="All")
    result = place.run(build_evaluations.main, config)
    assert result.counts["examples"] == 10 * 3 * 3
    strict = building(place, tokenizer_folder, agreement="AllConcordant")
    with pytest.raises(BadData, match="10 disagrees"):
        place.run(build_evaluations.main, strict.model_copy(update={"key": "f" * 64}), "strict")


def test_an_order_against_peoples_gives_no_examples_and_says_what_to_try(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = by_quality({"best": 1, "middle": 3, "worst": 5})
    with pytest.raises(
        BadData,
        match=r"0 EFT examples.*minExamples asks for 1: of 10 ranked prompts 10 disagrees; 90 of 90.*ranked",
    ):
        place.run(build_evaluations.main, building(place, tokenizer_folder))


def test_a_malformed_baseline_is_told_to_use_structured_judging(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = lambda asked, seed: ("no score", "stop")
    with pytest.raises(BadData, match=r"0 of 90 judgements are valid; .* set judge\.format to Structured"):
        place.run(build_evaluations.main, building(place, tokenizer_folder))


@pytest.mark.parametrize("scoring", ["Sampled", "Expected"])
def test_structured_judgements_become_examples_with_a_score_line(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, scoring: Any
) -> None:
    judge = JudgeSpec(format="Structured", scoring=scoring)
    # Scores are drawn: one prompt in six agrees with people.
    result = place.run(build_evaluations.main, building(place, tokenizer_folder, judge=judge, prompts=40))
    examples = place.rows(result, "evaluations.jsonl")
    assert examples
    for row in examples:
        last = row["messages"][1]["content"].splitlines()[-1]
        assert last in {f"Score: {score}" for score in range(6)}
    assert result.metrics["validRate"] == 1


def test_a_perfect_judge_is_measured_as_perfect(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = by_quality({"best": 5, "middle": 3, "worst": 1})
    result = place.run(evaluate.main, evaluating(place, tokenizer_folder))
    assert result.metrics == {
        "pairwiseAccuracy": 1.0,
        "pairwiseAccuracyLow": 1.0,
        "pairwiseAccuracyHigh": 1.0,
        "fiveBest": 1.0,
        "exactMatch": 1.0,
        "spearman": pytest.approx(1.0),
        "kendallTau": pytest.approx(1.0),
        "validRate": 1.0,
    }
    assert result.counts["prompts"] == 10
    assert result.counts["pairs"] == 30
    assert result.counts["judgements"] == 10 * 3 * 2
    whole = json.loads(read_file(place.store, result, "metrics.json"))
    assert whole["pairwise_accuracy"] == 100
    assert whole["intervals"]["pairwise_accuracy"] == [100, 100]
    assert len(place.rows(result, "judgements.jsonl")) == 10


def test_rule_01_the_held_out_prompts_are_all_measured_and_no_others(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = by_quality({"best": 1, "middle": 2, "worst": 2})
    result = place.run(evaluate.main, evaluating(place, tokenizer_folder))
    assert result.metrics["pairwiseAccuracy"] == pytest.approx((0 + 0 + 0.5) / 3)
    assert json.loads(read_file(place.store, result, "metrics.json"))["counts"]["pairs_tied"] == 10
    assert result.counts["prompts"] == 10, "no agreement filter"
    assert all("Question h" in asked.prompt for asked in server.requests)


def test_an_undefined_metric_is_left_out_of_the_summary_and_explained_in_the_report(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = by_quality({"best": 3, "middle": 3, "worst": 3})
    result = place.run(evaluate.main, evaluating(place, tokenizer_folder))
    assert "fiveBest" not in result.metrics
    assert "spearman" not in result.metrics
    assert result.metrics["pairwiseAccuracy"] == 0.5
    undefined = result.report["undefined"]
    assert isinstance(undefined, dict)
    assert undefined["five_best"] == "no answer has the highest score"


def test_no_held_out_prompts_give_a_result_without_metrics(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    result = place.run(evaluate.main, evaluating(place, tokenizer_folder, prompts=0))
    assert result.metrics == {}
    assert result.counts["prompts"] == 0
    assert server.requests == []


def test_no_judge_is_needed_where_nothing_is_held_out(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    # Scores that the tokenizer splits: such a judge could not even be made.
    judge = JudgeSpec(format="Structured", scoring="Expected", scores=ScoresSpec(maximum=100))
    config = evaluating(place, tokenizer_folder, judge=judge, prompts=0).model_copy(update={"servers": {}})
    result = place.run(evaluate.main, config)
    assert (result.counts["judgements"], result.metrics) == (0, {})


def test_an_answer_with_too_few_valid_judgements_is_unjudged(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    def half(asked: Asked, seed: int) -> tuple[str, str]:
        return ("Score: 4", "stop") if seed % 2 else ("no score", "stop")

    server.reply = half
    judge = JudgeSpec(samples=2, min_valid=2, retries=0)
    result = place.run(evaluate.main, evaluating(place, tokenizer_folder, judge=judge))
    assert result.counts["unjudged"] == 30
    assert result.metrics == {"validRate": 0.5}


def test_judgements_resume_from_what_is_in_the_store(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    config = evaluating(place, tokenizer_folder)
    first = place.run(evaluate.main, config)
    place.uncommit(config)
    server.requests.clear()
    second = place.run(evaluate.main, config, "second")
    assert server.requests == []
    assert (second.counts, second.metrics) == (first.counts, first.metrics)
    assert {name: ref.sha256 for name, ref in second.files.items()} == {
        name: ref.sha256 for name, ref in first.files.items()
    }


@pytest.mark.parametrize(
    ("change", "asks"),
    [
        ({"min_valid": 2}, False),
        ({"min_valid_rate": 0.9}, False),
        ({"temperature": 0.2}, True),
        ({"language": "Chinese"}, True),
        ({"retries": 1}, True),
    ],
)
def test_held_out_rows_are_judged_again_only_if_they_are_judged_otherwise(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, change: dict[str, Any], asks: bool
) -> None:
    judge = JudgeSpec(samples=2, retries=0)
    first = place.run(evaluate.main, evaluating(place, tokenizer_folder, judge=judge))
    server.requests.clear()
    config = evaluating(place, tokenizer_folder, judge=judge.model_copy(update=change))
    second = place.run(evaluate.main, config.model_copy(update={"key": "e" * 64}), "second")
    assert bool(server.requests) == asks
    assert (second.report["log"] != first.report["log"]) == asks
    if not asks:
        assert second.files["judgements.jsonl"].sha256 == first.files["judgements.jsonl"].sha256


def test_a_longer_server_judges_again_only_where_the_other_left_too_little_room(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    """As when comparisons, or a set of longer conversations, are added to the spec."""
    rows = ranked("h", 4)
    rows[1]["responses"][2]["text"] = "worst " * 60
    rows[3]["prompt"][0]["content"] = "Question h3? " * 60
    judge = JudgeSpec(retries=0, max_tokens=64)

    def served_with(length: int, *, seed: int) -> StageConfig:
        place.max_model_len, place.seed = length, seed
        return place.config(
            EvaluateParameters(judge=judge, evaluation=EvaluationSpec(samples=2, bootstrap=100)),
            name=f"served-{length}-{seed}",
            prepare=place.prepare(tokenizer=tokenizer_folder, held_out=rows),
        )

    place.run(evaluate.main, served_with(8192, seed=1), "measure")
    long = [len(one.body["prompt"]) for one in server.requests if "worst worst" in one.prompt]
    assert len(long) == 1
    tight = long[0] + 40
    first = place.run(evaluate.main, served_with(tight, seed=2), "tight")
    assert first.counts["tooLong"] == 3 * 2, "the prompt that alone is longer than the server takes"
    server.requests.clear()
    second = place.run(evaluate.main, served_with(8192, seed=2), "wide")
    assert second.report["log"] == first.report["log"]
    assert len(server.requests) == 6
    assert all("h1?" in one.prompt or "h3?" in one.prompt for one in server.requests)
    assert "tooLong" not in second.counts
    kept, judged = place.rows(first, "judgements.jsonl"), place.rows(second, "judgements.jsonl")
    assert [row["key"] for row in judged] == [row["key"] for row in rows]
    assert [one == other for one, other in zip(kept, judged, strict=True)] == [True, False, True, False]
    place.uncommit(served_with(tight, seed=2))
    server.requests.clear()
    again = place.run(evaluate.main, served_with(tight, seed=2), "tight-again")
    assert server.requests == []
    assert again.files["judgements.jsonl"].sha256 == first.files["judgements.jsonl"].sha256


def test_one_more_held_out_prompt_is_judged_alone(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    place.run(evaluate.main, evaluating(place, tokenizer_folder, prompts=4))
    server.requests.clear()
    config = evaluating(place, tokenizer_folder, prompts=5)
    result = place.run(evaluate.main, config.model_copy(update={"key": "e" * 64}), "second")
    assert result.counts["judgements"] == 5 * 3 * 2
    assert len(server.requests) == 3
    assert all("Question h4?" in asked.prompt for asked in server.requests)


def test_another_rule_of_agreement_judges_nothing_again(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = by_quality({"best": 5, "middle": 4, "worst": 4})
    first = place.run(build_evaluations.main, building(place, tokenizer_folder, most_common_share=1))
    server.requests.clear()
    config = building(place, tokenizer_folder, most_common_share=1, target="All")
    second = place.run(build_evaluations.main, config.model_copy(update={"key": "e" * 64}), "second")
    assert server.requests == []
    assert second.counts["examples"] > first.counts["examples"]


@pytest.mark.parametrize("stage", ["BuildEvaluations", "Evaluate"])
def test_the_summary_fits_the_termination_message(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, stage: str
) -> None:
    server.reply = by_quality({"best": 5, "middle": 3, "worst": 1})
    if stage == "Evaluate":
        result = place.run(evaluate.main, evaluating(place, tokenizer_folder))
    else:
        result = place.run(build_evaluations.main, building(place, tokenizer_folder))
    names = [*result.counts, "missing", "malformed", "outOfRange", "truncated"]
    size = summary_size(
        result,
        counts=dict.fromkeys(names, 1_234_567 if stage == "BuildEvaluations" else 123_456)
        | {"outputTokens": 987_654_321, "promptTokens": 9_876_543_210},
        metrics=dict.fromkeys(result.metrics, 0.123456789),
        seconds=604_800.0,
    )
    assert size <= MAX_SUMMARY_BYTES


def test_metrics_are_told_by_category_where_held_out_rows_have_one(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = by_quality({"best": 5, "middle": 3, "worst": 1})
    rows = ranked("h", 6)
    for number, row in enumerate(rows):
        if number:
            row["category"] = "Neighbor" if number % 2 else "Natural"
    config = place.config(
        EvaluateParameters(judge=JudgeSpec(retries=0), evaluation=EvaluationSpec(samples=1, bootstrap=100)),
        prepare=place.prepare(tokenizer=tokenizer_folder, held_out=rows),
    )
    result = place.run(evaluate.main, config)
    measured = json.loads(read_file(place.store, result, "metrics.json"))
    assert measured["counts"]["prompts"] == 6
    assert {name: one["counts"]["prompts"] for name, one in measured["by_category"].items()} == {
        "Natural": 2,
        "Neighbor": 3,
    }
    assert measured["by_category"]["Natural"]["intervals"]["spearman"] == [pytest.approx(1), pytest.approx(1)]
    judged = place.rows(result, "judgements.jsonl")
    assert [row.get("category") for row in judged] == [row.get("category") for row in rows]


def test_evidence_names_the_prompts_where_the_judge_goes_wrong(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    rows = ranked("h", 8)
    wrong, silent = rows[2]["prompt"][0]["content"], rows[5]["prompt"][0]["content"]

    def reply(asked: Asked, seed: int) -> tuple[str, str]:
        if silent in asked.prompt:
            return "No idea.", "stop"
        scores = (
            {"best": 1, "middle": 3, "worst": 5}
            if wrong in asked.prompt
            else {"best": 5, "middle": 3, "worst": 1}
        )
        text, finish = by_quality(scores)(asked, seed)
        return str(text), str(finish)

    server.reply = reply
    config = place.config(
        EvaluateParameters(judge=JudgeSpec(retries=0), evaluation=EvaluationSpec(samples=1, bootstrap=100)),
        prepare=place.prepare(tokenizer=tokenizer_folder, held_out=rows),
    )
    result = place.run(evaluate.main, config)
    evidence = json.loads(read_file(place.store, result, "evidence.json"))
    assert evidence["spearman"][0] == {"key": rows[2]["key"], "value": -1.0}
    assert evidence["validRate"] == [{"key": rows[5]["key"], "value": 0.0}]
    low, high = intervals_of(result)["validRate"]
    assert low < result.metrics["validRate"] < high == 1
    assert json.loads(read_file(place.store, result, "metrics.json"))["intervals"]["valid_rate"] == [
        pytest.approx(100 * low), 100,
    ]  # fmt: skip

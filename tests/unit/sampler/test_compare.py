"""Compare: both orders of every pair of answers, and what the numbers say of a scripted judge."""

import json
from pathlib import Path

import pytest
from tests.support.comparisons import (
    NEW,
    OLD,
    answered,
    compared,
    configure,
    metrics_of,
    prefers,
    rows_of,
    says,
    shown,
)
from tests.support.sampler_stages import Workplace, rows_bytes
from tests.support.scripted_server import Asked, ScriptedServer
from tests.support.stages import summary_size

from selfrewarding.api.evaluation import ComparisonJudgeSpec, HeadToHeadSpec
from selfrewarding.contract import environment
from selfrewarding.contract.artifacts import ANSWERS
from selfrewarding.contract.config import StageRef
from selfrewarding.contract.program import BadConfiguration, BadData
from selfrewarding.contract.result import MAX_SUMMARY_BYTES
from selfrewarding.contract.stages import StageKind
from selfrewarding.data.intervals import intervals_of
from selfrewarding.store.results import read_file


def test_both_orders_are_asked_and_a_consistent_judge_decides(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = prefers(NEW)
    result = compared(place, configure(place, tokenizer_folder))
    assert result.metrics == {"winRate": 1, "positionBias": 0}, "M1 as such is not asked for"
    assert result.counts["comparisons"] == result.counts["judged"] == 6
    assert result.counts["verdicts"] == 12
    orders = sorted((one.prompt.partition("Question ")[2][:1], *shown(one)) for one in server.requests)
    assert orders == sorted((str(n), *pair) for n in range(6) for pair in ((NEW, OLD), (OLD, NEW)))
    row = rows_of(place, result)[0]
    assert row["preference"] == 2
    assert [one["verdict"] for one in row["verdicts"]] == ["A", "B"]
    assert (row["key"], row["prompt"]) == ("previous/p0", ["Question 0.0?"])
    assert row["answer"][0].startswith(NEW)
    assert row["other"][0].startswith(OLD)
    measured = metrics_of(place, result)["opponents"]["previous"]
    assert (measured["win_rate"], measured["intervals"]["win_rate"]) == (100, [100, 100])
    assert {name: one["intervals"]["win_rate"] for name, one in measured["by_category"].items()} == {
        "even": [100, 100], "odd": [100, 100],
    }  # fmt: skip
    assert measured["model"] == "M1"


def test_a_judge_that_always_says_the_first_place_is_seen_and_decides_nothing(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = says("The first one.\nPreference: A")
    result = compared(place, configure(place, tokenizer_folder))
    assert result.metrics["positionBias"] == 1
    assert intervals_of(result)["positionBias"] == (1, 1)
    assert metrics_of(place, result)["intervals"]["position_bias"] == [100, 100]
    assert result.metrics["winRate"] == 0.5
    evidence = json.loads(read_file(place.store, result, "evidence.json"))
    keys = {row["key"] for row in rows_of(place, result)}
    assert len(evidence["positionBias"]) == 5
    assert {one["key"] for one in evidence["positionBias"]} <= keys
    assert {one["value"] for one in evidence["positionBias"]} == {1.0}
    assert len(evidence["winRate"]) == 5


def test_lost_comparisons_are_the_evidence_of_a_low_win_rate(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    def reply(asked: Asked, seed: int) -> tuple[str, str]:
        return prefers(OLD if "Question 3" in asked.prompt else NEW)(asked, seed)

    server.reply = reply
    result = compared(place, configure(place, tokenizer_folder))
    evidence = json.loads(read_file(place.store, result, "evidence.json"))
    assert evidence["winRate"][0] == {"key": "previous/p3", "value": 1.0}
    assert evidence["positionBias"] == []


def test_a_judge_that_rewards_length_is_put_right_by_length_control(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    """The newest model is longer in most prompts, and longer wins nine of ten times."""

    def reply(asked: Asked, seed: int) -> tuple[str, str]:
        number = int(asked.prompt.partition("Question ")[2].partition(".")[0])
        longer_wins = number not in {0, 40, 1, 11, 21, 31, 41, 51}  # a tenth of either kind of prompt
        first, second = (
            len(asked.prompt.partition(f"<answer_{label}>\n")[2].partition("\n</answer")[0]) for label in "ab"
        )
        return f"Preference: {'A' if (first > second) == longer_wins else 'B'}", "stop"

    server.reply = reply

    def rows(name: str) -> StageRef:
        return place.parent(
            StageKind.EVALUATE,
            name,
            {
                ANSWERS: rows_bytes(
                    {
                        "key": f"p{n:03d}", "set": "held-out", "id": str(n), "turns": [f"Question {n}.?"],
                        "answers": [{"text": f"{name} " + "x" * (200 if (n % 4 == 0) == (name == OLD) else 100),
                                     "finishReason": "stop", "seed": 1, "tokens": {"prompt": 1, "output": 1}}],
                    }
                    for n in range(80)
                )
            },
        )  # fmt: skip

    result = compared(place, configure(place, tokenizer_folder, answers=rows(NEW), previous=rows(OLD)))
    assert result.metrics["winRate"] == pytest.approx((54 + 2) / 80)
    assert result.metrics["winRateLengthControlled"] == pytest.approx(0.5)


def test_every_opponent_has_numbers_and_the_summary_those_of_previous_and_baseline(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    def reply(asked: Asked, seed: int) -> tuple[str, str]:
        loser = next((name for name in shown(asked) if name in {"base", "first"}), NEW)
        winner = next(name for name in shown(asked) if name != loser)
        return prefers(winner)(asked, seed)

    server.reply = reply
    config = configure(
        place,
        tokenizer_folder,
        answers=answered(place, NEW),
        previous=answered(place, OLD),
        initial=answered(place, "first"),
        baseline=answered(place, "base"),
    )
    result = compared(place, config)
    assert result.metrics["winRate"] == 0
    assert (result.metrics["winRateInitial"], result.metrics["winRateBaseline"]) == (1, 1)
    assert intervals_of(result)["winRateInitial"] == (1, 1)
    measured = metrics_of(place, result)["opponents"]
    assert {role: one["win_rate"] for role, one in measured.items()} == {
        "previous": 0, "initial": 100, "baseline": 100,
    }  # fmt: skip
    assert measured["baseline"]["model"] == "Baseline"
    assert result.counts["comparisons"] == 18
    keys = [row["key"].rpartition("/")[2] for row in rows_of(place, result)]
    assert keys == sorted(keys), "prompt by prompt, so that a budget ends evenly"


def test_m1_as_the_previous_model_is_asked_about_once_and_both_numbers_are_told(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = prefers(NEW)
    first = answered(place, OLD)
    config = configure(place, tokenizer_folder, answers=answered(place, NEW), previous=first, initial=first)
    result = compared(place, config)
    assert len(server.requests) == 12
    assert (result.counts["comparisons"], len(rows_of(place, result))) == (6, 6)
    assert (result.metrics["winRate"], result.metrics["winRateInitial"]) == (1, 1)
    assert intervals_of(result)["winRateInitial"] == intervals_of(result)["winRate"] == (1, 1)
    assert set(metrics_of(place, result)["opponents"]) == {"previous"}, "no comparison is shown twice"


def test_the_first_model_has_only_the_baseline_to_beat(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = prefers(NEW)
    config = configure(
        place, tokenizer_folder, answers=answered(place, NEW), baseline=answered(place, "base")
    )
    result = compared(place, config)
    assert set(result.metrics) == {"winRateBaseline", "positionBias"}
    assert json.loads(read_file(place.store, result, "evidence.json"))["winRate"] == []


def test_only_so_many_prompts_are_compared_as_the_spec_says(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    result = compared(place, configure(place, tokenizer_folder, spec=HeadToHeadSpec(prompts=2)))
    assert [row["key"] for row in rows_of(place, result)] == ["previous/p0", "previous/p1"]


def test_all_turns_of_a_conversation_are_compared_at_once(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = prefers(NEW)
    config = configure(
        place,
        tokenizer_folder,
        answers=answered(place, NEW, turns=2),
        previous=answered(place, OLD, turns=2),
    )
    server.reply = says("Preference: Tie")
    result = compared(place, config)
    assert len(server.requests) == 12
    assert "Turn 2:\nQuestion 0.1?" in server.requests[0].prompt
    assert result.metrics["winRate"] == 0.5
    assert result.metrics["positionBias"] == 0


def test_a_referee_of_its_own_is_asked_and_called_fixed(
    place: Workplace,
    server: ScriptedServer,
    tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.reply = prefers(NEW)
    monkeypatch.setenv(environment.SERVER_URL["referee"], server.url)
    monkeypatch.delenv(environment.SERVER_URL["policy"])
    judge = ComparisonJudgeSpec(model_uri=tokenizer_folder.as_uri())
    config = configure(
        place, tokenizer_folder, spec=HeadToHeadSpec(judge=judge), servers=("policy", "referee")
    )
    result = compared(place, config)
    assert result.metrics["winRate"] == 1
    assert result.report["judge"]["fixed"] is True  # type: ignore[index]


def test_the_model_itself_is_no_fixed_judge(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    result = compared(place, configure(place, tokenizer_folder))
    assert metrics_of(place, result)["judge"]["fixed"] is False


def test_the_prompt_speaks_the_language_of_the_spec(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = says("이유.\nPreference: Tie")
    spec = HeadToHeadSpec(judge=ComparisonJudgeSpec(language="Korean"))
    result = compared(place, configure(place, tokenizer_folder, spec=spec))
    assert all("비교합니다" in asked.prompt for asked in server.requests)
    assert result.metrics == {"winRate": 0.5, "positionBias": 0.0}


def test_an_opponent_that_answered_other_prompts_is_refused(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    config = configure(
        place, tokenizer_folder, answers=answered(place, NEW), previous=answered(place, OLD, prompts=3)
    )
    with pytest.raises(BadData, match="the previous model has no answer to the prompt id-3"):
        compared(place, config)


def test_no_opponent_is_a_bad_configuration(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    with pytest.raises(BadConfiguration, match="no opponent"):
        compared(place, configure(place, tokenizer_folder, answers=answered(place, NEW)))


def test_no_prompt_gives_a_result_without_metrics(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    config = configure(
        place,
        tokenizer_folder,
        answers=answered(place, NEW, prompts=0),
        previous=answered(place, OLD, prompts=0),
    )
    result = compared(place, config)
    assert (result.metrics, result.counts["comparisons"]) == ({}, 0)


def test_the_summary_fits_the_termination_message(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    result = compared(place, configure(place, tokenizer_folder))
    names = ["winRate", "winRateInitial", "winRateBaseline", "winRateLengthControlled", "positionBias"]
    size = summary_size(
        result,
        counts=dict.fromkeys([*result.counts, "overBudget", "unanswered"], 1_234_567)
        | {"promptTokens": 9_876_543_210, "outputTokens": 987_654_321},
        metrics=dict.fromkeys(names, 0.123456789),
        seconds=604_800.0,
    )
    assert size <= MAX_SUMMARY_BYTES

"""Loops whose judge has gone wrong, each stopped by the alarm meant for it within one iteration.

The real stage programs ask a scripted server, and the planner decides on what they measured. Models are not trained: the
collapse is in the script.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.loop_with_programs import Loop, at_policy
from tests.support.scripted_server import Asked, ScriptedServer, default_reply, number_of
from tests.support.tiny_model import make_model
from tests.support.tiny_tokenizer import END, control_id, save_tokenizer

from selfrewarding.contract.artifacts import COMPARISONS, PAIRS, ROLLOUT
from selfrewarding.contract.program import BadData
from selfrewarding.contract.stages import StageKind

Judge = Callable[[Asked, str, int], str]
"""A judgement or comparison, the text of the answer that is judged, the seed → what the judge writes."""


def answer_of(asked: Asked) -> str:
    """The answer that a judgement is about."""
    return asked.prompt.rpartition("<answer>\n")[2].partition("\n</answer>")[0]


def replies(judge: Judge) -> Callable[[Asked, int], tuple[str, str]]:
    """Answers of many lengths that all end, and this judge."""

    def reply(asked: Asked, seed: int) -> tuple[str, str]:
        if asked.kind in ("judgement", "comparison"):
            return judge(asked, answer_of(asked), seed), "stop"
        if asked.kind == "answer":
            words = 2 + number_of("length", asked.prompt, seed, below=60)
            return " ".join(f"w{number_of(asked.prompt, seed, n, below=9999)}" for n in range(words)), "stop"
        return default_reply(asked, seed)

    return reply


def fair(asked: Asked, answer: str, seed: int) -> str:
    """A judge that rewards what is in an answer, whatever its length, and sees no places."""
    if asked.kind == "comparison":
        shown = [
            asked.prompt.rpartition(f"<{name}>")[2].partition(f"</{name}>")[0].strip()
            for name in ("answer_a", "answer_b")
        ]
        first, second = (number_of(text, below=10**6) for text in shown)
        return f"I weighed both.\nPreference: {'A' if first > second else 'B'}"
    good = 2 if answer.startswith("A good answer") else 0
    return f"Because of {seed}.\nScore: {good + number_of(answer, below=4)}"


def rewards_length(asked: Asked, answer: str, seed: int) -> str:
    """The longer, the better."""
    return (
        fair(asked, answer, seed)
        if asked.kind == "comparison"
        else f"So long!\nScore: {min(5, len(answer) // 55)}"
    )


def always_five(asked: Asked, answer: str, seed: int) -> str:
    """Every answer is perfect."""
    return fair(asked, answer, seed) if asked.kind == "comparison" else f"Perfect ({seed}).\nScore: 5"


def prefers_the_first(asked: Asked, answer: str, seed: int) -> str:
    """Fair in its scores, but the answer shown first always wins."""
    return "The first.\nPreference: A" if asked.kind == "comparison" else fair(asked, answer, seed)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the tokenizer that the scripted server reads."""
    folder = make_model(tmp_path_factory.mktemp("models") / "tiny", eos_token_id=control_id(END))
    for file in folder.glob("*token*"):
        file.unlink()
    return save_tokenizer(folder)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with ScriptedServer("policy") as scripted:
        at_policy(scripted, monkeypatch)
        yield scripted


@pytest.fixture
def loop(tmp_path: Path, model: Path, server: ScriptedServer) -> Callable[..., Loop]:
    def run(judge: Judge, /, **blocks: Any) -> Loop:
        server.reply = replies(judge)
        made = Loop(tmp_path, model, server, **blocks)
        made.finish_everything()
        return made

    return run


COMPARED = {"evaluation": {"samples": 1, "bootstrap": 100, "headToHead": {"prompts": 12}}}


def ended_by(loop: Loop) -> list[tuple[str, int]]:
    """The alarms that stopped a run."""
    return [(alarm.name, alarm.iteration) for alarm in loop.status.alarms if alarm.action == "Stop"]


def test_a_fair_judge_goes_through(loop: Callable[..., Loop]) -> None:
    ran = loop(fair, **COMPARED)
    assert ran.condition("Succeeded") == ("True", "AllIterationsDone")
    assert ran.status.alarms == [], "not even a warning"
    assert [model.name for model in ran.status.models] == ["Baseline", "M1", "M2"]
    measured = ran.status.models[-1].metrics
    assert (measured.score_piling or 1) < 0.5
    assert abs(measured.score_length_correlation or 1) < 0.5
    assert (measured.position_bias or 0) < 0.6
    assert (measured.prompt_diversity or 0) > 0.5


def test_a_judge_that_rewards_length_is_stopped_before_training(loop: Callable[..., Loop]) -> None:
    ran = loop(rewards_length)
    assert ran.condition("Succeeded") == ("True", "StoppedByAlarm")
    assert ended_by(ran) == [("scoreLengthCorrelation", 2)]
    assert not ran.started(StageKind.PREFERENCE_OPTIMIZE, 2)
    assert [model.name for model in ran.status.models] == ["Baseline", "M1"]
    rows = ran.evidence(StageKind.BUILD_PREFERENCES, 2)
    assert len(rows["scoreLengthCorrelation"]) == 5
    assert {row["key"] for row in rows["scoreLengthCorrelation"]} <= {
        row["key"] for row in ran.rows(StageKind.ROLLOUT, 2, ROLLOUT)
    }
    assert {row["key"] for row in rows["lengthRatio"]} <= {
        row["key"] for row in ran.rows(StageKind.BUILD_PREFERENCES, 2, PAIRS)
    }


def test_a_judge_that_always_says_five_is_stopped_before_pairs_are_looked_for(
    loop: Callable[..., Loop],
) -> None:
    ran = loop(always_five)
    assert ran.condition("Succeeded") == ("True", "StoppedByAlarm")
    assert ended_by(ran) == [("scorePiling", 2)]
    (alarm,) = [alarm for alarm in ran.status.alarms if alarm.action == "Stop"]
    assert alarm.value == 1.0
    assert not ran.started(StageKind.BUILD_PREFERENCES, 2)
    assert len(ran.evidence(StageKind.ROLLOUT, 2)["scorePiling"]) == 5


def test_a_judge_that_prefers_a_place_is_stopped_before_the_first_rollout(loop: Callable[..., Loop]) -> None:
    ran = loop(prefers_the_first, **COMPARED)
    assert ran.condition("Succeeded") == ("True", "StoppedByAlarm")
    assert ended_by(ran) == [("positionBias", 1)]
    assert ran.status.alarms[0].value == 1.0
    assert not ran.started(StageKind.GENERATE_PROMPTS, 2)
    compared = {row["key"] for row in ran.rows(StageKind.COMPARE, 1, COMPARISONS)}
    assert {row["key"] for row in ran.evidence(StageKind.COMPARE, 1)["positionBias"]} <= compared


WARN = {"scorePiling": {"action": "Warn"}, "scoreLengthCorrelation": {"action": "Warn"}}


def test_with_alarms_that_only_warn_the_loop_trains_on_length(loop: Callable[..., Loop]) -> None:
    """What stops the loop above is its alarm and nothing else."""
    ran = loop(rewards_length, alarms=WARN)
    assert ran.condition("Succeeded") == ("True", "AllIterationsDone")
    assert ran.started(StageKind.PREFERENCE_OPTIMIZE, 2)
    assert ("scoreLengthCorrelation", 2) in [(one.name, one.iteration) for one in ran.status.alarms]
    assert (ran.status.models[-1].metrics.length_ratio or 0) > 2, "what it would have learned"


def test_with_alarms_that_only_warn_equal_scores_leave_no_pair(loop: Callable[..., Loop]) -> None:
    with pytest.raises(BadData, match="0 pairs"):
        loop(always_five, alarms=WARN)


def test_a_judge_that_is_no_better_than_a_coin_never_gets_to_its_first_rollout(
    loop: Callable[..., Loop],
) -> None:
    ran = loop(
        always_five,
        judge={"samples": 2, "retries": 0, "calibration": {"minPairwiseAccuracy": 0.6, "minPairs": 5}},
    )
    assert ran.condition("Failed") == ("True", "JudgeNotCalibrated")
    assert not ran.started(StageKind.GENERATE_PROMPTS, 2)
    message = next(one.message for one in ran.status.conditions if one.type == "Failed")
    assert "pairwise accuracy is 0.5 (95 % interval 0.5 to 0.5, 12 pairs)" in message

"""BuildPreferences: pairs from judged answers, every prompt counted."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from tests.support.stages import finished, reference, stage_config, summary_size, surroundings

from selfrewarding.api.algorithm import PreferencesSpec
from selfrewarding.contract.artifacts import EVIDENCE, PAIRS, POSITIVES, ROLLOUT, stage_prefix
from selfrewarding.contract.config import BuildPreferencesParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, BadData, ParentMissing
from selfrewarding.contract.result import MAX_SUMMARY_BYTES, StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.store import open_store
from selfrewarding.store.results import read_jsonl
from srr_sampler import build_preferences

Answer = tuple[str, str, list[float | None]]
"""Text, finish reason, scores."""


def rollout_row(key: str, answers: list[Answer]) -> dict[str, Any]:
    """A row as Rollout writes it."""
    return {
        "key": key,
        "prompt": [{"role": "user", "content": f"Question {key}?"}],
        "responses": [
            {
                "text": text,
                "finishReason": finish,
                "seed": 1,
                "tokens": {"prompt": 3, "output": 5},
                "judgements": [
                    {
                        "sample": sample,
                        "round": 0,
                        "text": "It is fine.",
                        "score": score,
                        "reason": None if score is not None else "missing",
                        "finishReason": "stop",
                        "seed": 2,
                        "tokens": {"prompt": 3, "output": 5},
                    }
                    for sample, score in enumerate(scores)
                ],
            }
            for text, finish, scores in answers
        ],
    }


def run(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    *,
    scoring: str = "Sampled",
    **preferences: Any,
) -> StageResult:
    return build_preferences.main(
        config_for(tmp_path, rows, scoring=scoring, **preferences), surroundings(tmp_path / "scratch")
    )


def config_for(
    tmp_path: Path, rows: list[dict[str, Any]], *, scoring: str = "Sampled", **preferences: Any
) -> StageConfig:
    store = (tmp_path / "store").as_uri()
    parent = finished(store, StageKind.ROLLOUT, tmp_path / "rollout", key="rollout", rows={ROLLOUT: rows})
    parameters = BuildPreferencesParameters.model_validate(
        {
            "preferences": PreferencesSpec.model_validate(preferences),
            "scoring": scoring,
            "maximum_score": 5,
            "min_valid": 1,
        }
    )
    return stage_config(
        StageKind.BUILD_PREFERENCES, parameters, store, key="pairs", parents={"rollout": reference(parent)}
    )


def rows_of(tmp_path: Path, result: StageResult, name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(open_store((tmp_path / "store").as_uri()), result, name))


OUTCOMES = [
    rollout_row("pair", [("a long good answer", "stop", [5, 4, 5]), ("bad", "stop", [1, 2, None])]),
    rollout_row("tie", [("one", "stop", [1, 2, 2]), ("two", "stop", [2, 2, 1])]),
    rollout_row("same text", [("same", "stop", [5]), ("same", "stop", [1])]),
    rollout_row("cut", [("whole", "stop", [4]), ("cut off", "length", [1])]),
    rollout_row("unjudged", [("one", "stop", [None, None]), ("two", "stop", [3, 3])]),
]


def test_every_prompt_is_counted_once_by_what_became_of_it(tmp_path: Path) -> None:
    result = run(tmp_path, OUTCOMES)
    counts = dict(result.counts)
    assert counts.pop("prompts") == len(OUTCOMES)
    assert counts.pop("pairs") == 1
    assert counts == {
        "promptsWithPairs": 1,
        "ties": 1,
        "identical": 1,
        "truncatedOnly": 1,
        "tooFewValid": 1,
    }
    assert sum(counts.values()) == len(OUTCOMES)


def test_a_pair_is_in_trls_format_with_its_provenance(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, run(tmp_path, OUTCOMES), PAIRS)
    assert row["prompt"] == [{"role": "user", "content": "Question pair?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "a long good answer"}]
    assert row["rejected"] == [{"role": "assistant", "content": "bad"}]
    assert row["provenance"]["means"] == ["14/3", "3/2"]
    assert row["id"] == "pair"
    assert len(row["key"]) == 64


def test_an_answer_that_nobody_judged_is_never_rejected(tmp_path: Path) -> None:
    rows = [
        *OUTCOMES,
        rollout_row("x", [("judged", "stop", [5]), ("not judged", "stop", [None]), ("b", "stop", [2])]),
    ]
    written = rows_of(tmp_path, run(tmp_path, rows), PAIRS)
    assert "not judged" not in json.dumps(written)


def test_rule_05_expected_scores_pair_only_from_a_quarter_apart(tmp_path: Path) -> None:
    rows = [
        rollout_row("near", [("one", "stop", [3.2]), ("two", "stop", [3.0])]),
        rollout_row("far", [("one", "stop", [3.25]), ("two", "stop", [3.0])]),
    ]
    result = run(tmp_path, rows, scoring="Expected")
    assert [row["id"] for row in rows_of(tmp_path, result, PAIRS)] == ["far"]
    assert result.counts["belowMargin"] == 1
    assert result.report["settings"]["minMargin"] == 0.25  # type: ignore[index]


def test_rule_05_sampled_means_are_exact(tmp_path: Path) -> None:
    """(1 + 2 + 2) / 3 and 5 / 3 are one number, which sums of floats need not know."""
    rows = [*OUTCOMES[:1], rollout_row("thirds", [("x", "stop", [1, 2, 2]), ("y", "stop", [2, 1, 2])])]
    assert run(tmp_path, rows).counts["ties"] == 1


def test_positive_examples_are_chat_messages_that_end_in_the_answer(tmp_path: Path) -> None:
    rows = [rollout_row("p", [("perfect", "stop", [5, 5]), ("good", "stop", [4, 5])]), *OUTCOMES[1:2]]
    result = run(tmp_path, rows, rule="PositiveOnly")
    (row,) = rows_of(tmp_path, result, POSITIVES)
    assert row["messages"] == [
        {"role": "user", "content": "Question p?"},
        {"role": "assistant", "content": "perfect"},
    ]
    assert len(row["key"]) == 64
    assert result.counts == {"prompts": 2, "positives": 1, "promptsWithPositives": 1, "noPositive": 1}
    assert PAIRS not in result.files
    assert "pairYield" not in result.metrics


def test_metrics_say_what_would_spoil_training_unseen(tmp_path: Path) -> None:
    result = run(tmp_path, OUTCOMES)
    assert result.metrics["pairYield"] == pytest.approx(1 / 5)
    assert result.metrics["tieRate"] == pytest.approx(1 / 5)
    assert result.metrics["lengthRatio"] == len("a long good answer") / len("bad")
    assert result.metrics["scoreGap"] == pytest.approx(14 / 3 - 3 / 2)
    scored = [
        (statistics.fmean(s for s in scores if s is not None), len(text))
        for row in OUTCOMES
        for text, scores in (
            (answer["text"], [judgement["score"] for judgement in answer["judgements"]])
            for answer in row["responses"]
        )
        if any(score is not None for score in scores)
    ]
    expected = statistics.correlation([score for score, _ in scored], [float(length) for _, length in scored])
    assert result.metrics["scoreLengthCorrelation"] == pytest.approx(expected)
    histogram = result.report["scoreHistogram"]
    assert isinstance(histogram, dict)
    assert sum(histogram.values()) == len(scored)
    assert list(histogram) == sorted(histogram, key=float)


def test_evidence_names_rows_that_are_there(tmp_path: Path) -> None:
    result = run(tmp_path, OUTCOMES)
    content = open_store((tmp_path / "store").as_uri()).read(
        f"{stage_prefix(result.kind, result.key)}/{result.files[EVIDENCE].path}"
    )
    evidence = json.loads(content)
    (pair,) = rows_of(tmp_path, result, PAIRS)
    assert [row["key"] for row in evidence["scoreGap"]] == [pair["key"]]
    assert evidence["lengthRatio"] == [{"key": pair["key"], "value": 6.0}]
    assert evidence["tieRate"] == [{"key": "tie", "value": 2.0}]
    assert {row["key"] for row in evidence["pairYield"]} == {"tie", "same text", "cut", "unjudged"}
    assert {row["key"] for rows in evidence.values() for row in rows} <= {
        pair["key"],
        *(row["key"] for row in OUTCOMES),
    }
    assert set(evidence) <= set(result.metrics)


def test_too_few_pairs_say_why_and_what_helps(tmp_path: Path) -> None:
    with pytest.raises(BadData) as caught:
        run(tmp_path, OUTCOMES, minPairs=2)
    text = str(caught.value)
    assert "1 pairs from 5 prompts, preferences.minPairs asks for 2" in text
    assert "ties 1" in text
    assert "judge.samples" in text
    assert "lower preferences.minPairs" in text


def test_no_prompts_at_all_is_told_too(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="there were none"):
        run(tmp_path, [])


def test_length_control_with_another_rule_is_refused_with_the_fields_place(tmp_path: Path) -> None:
    with pytest.raises(
        BadConfiguration, match=r"spec\.preferences: length_control works with the rule BestWorst"
    ):
        run(tmp_path, OUTCOMES, rule="AllAboveMargin", lengthControl=0.5)


def test_a_finished_stage_is_not_computed_again(tmp_path: Path) -> None:
    config = config_for(tmp_path, OUTCOMES)
    first = build_preferences.main(config, surroundings(tmp_path / "scratch"))
    second = build_preferences.main(config, surroundings(tmp_path / "scratch", pod="pod-2"))
    assert second == first
    assert second.pod == "pod-1"


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", OUTCOMES), run(tmp_path / "b", OUTCOMES)
    assert first.files[PAIRS].sha256 == second.files[PAIRS].sha256


def test_a_rollout_that_was_written_again_is_computed_again(tmp_path: Path) -> None:
    config = config_for(tmp_path, OUTCOMES)
    ref = config.parents["rollout"].model_copy(update={"digest": "0" * 16})
    with pytest.raises(ParentMissing):
        build_preferences.main(
            config.model_copy(update={"parents": {"rollout": ref}}), surroundings(tmp_path / "scratch")
        )


@pytest.mark.parametrize("positive", [False, True])
def test_the_summary_of_the_largest_run_fits_a_termination_message(tmp_path: Path, positive: bool) -> None:
    """All outcomes that one rule can have, in a run of millions of prompts."""
    result = run(tmp_path, OUTCOMES)
    others = (
        {"promptsWithPairs", "ties", "belowMargin", "identical"}
        if positive
        else {"promptsWithPositives", "noPositive"}
    )
    names = [name for name in build_preferences._OUTCOMES.values() if name not in others]
    size = summary_size(
        result,
        counts=dict.fromkeys(["prompts", "positives" if positive else "pairs", *names], 1234567),
        metrics=dict.fromkeys(result.metrics, -1234.56),
        seconds=12345.6,
        iteration=20,
    )
    assert size <= MAX_SUMMARY_BYTES

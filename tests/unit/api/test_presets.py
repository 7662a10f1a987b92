"""Presets: the paper's numbers, and what the spec says goes before them."""

from typing import Any

import pytest
from pydantic import ValidationError

from selfrewarding.api.presets import PRESETS, effective, latest

SMALLEST: dict[str, Any] = {
    "model": {"uri": "s3://models/m"},
    "artifacts": {"uri": "s3://runs/r"},
    "seedData": {"instructions": {"uri": "s3://data/oasst.jsonl.gz", "format": "OpenAssistant"}},
}


def test_the_paper_preset_has_every_number_that_the_paper_states() -> None:
    spec = effective(SMALLEST | {"preset": "paper-2401.10020"})
    assert spec.iterations == 3
    sft, dpo = spec.sft, spec.dpo
    assert (sft.learning_rate, sft.min_learning_rate, sft.batch_size, sft.dropout) == (
        5.5e-6,
        1.1e-6,
        16,
        0.1,
    )
    assert (dpo.learning_rate, dpo.min_learning_rate, dpo.batch_size, dpo.dropout) == (1e-6, 1e-7, 16, 0.1)
    assert (dpo.beta, dpo.loss, dpo.reference) == (0.1, ["sigmoid"], "Previous")
    prompts = spec.prompt_generation
    assert (prompts.seed_shots, prompts.generated_shots) == (6, 2)
    assert (prompts.temperature, prompts.top_p) == (0.6, 0.9)
    filters = prompts.filters
    assert (filters.max_rouge_l, filters.min_words, filters.max_words, filters.keywords) == (
        0.7,
        4,
        150,
        None,
    )
    responses, judge = spec.responses, spec.judge
    assert (responses.samples, responses.temperature, responses.top_p) == (4, 0.7, 0.9)
    assert (judge.samples, judge.temperature, judge.top_p) == (3, 0.7, 0.9)
    assert (judge.format, judge.scoring) == ("Free", "Sampled")
    assert (judge.scores.minimum, judge.scores.maximum, judge.scores.decimals) == (0, 5, False)
    assert (spec.preferences.rule, spec.preferences.truncated) == ("BestWorst", "Exclude")
    assert spec.seed_data.held_out.share == pytest.approx(541 / 2171, abs=0.001)


def test_what_the_spec_says_goes_before_the_preset_and_its_neighbours_stay() -> None:
    spec = effective(SMALLEST | {"preset": "paper-2401.10020", "dpo": {"beta": 0.3}})
    assert spec.dpo.beta == 0.3
    assert spec.dpo.learning_rate == 1e-6


def test_a_pinned_version_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = {**PRESETS, "small": {**PRESETS["small"], 2: {"iterations": 9}}}
    monkeypatch.setattr("selfrewarding.api.presets.PRESETS", newer)
    assert latest("small") == "small/2"
    assert effective(SMALLEST | {"preset": "small"}).iterations == 9
    assert effective(SMALLEST | {"preset": "small"}, "small/1").iterations == 3


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_makes_a_valid_spec(name: str) -> None:
    assert effective(SMALLEST | {"preset": name}).preset == name


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValidationError, match="preset"):
        effective(SMALLEST | {"preset": "papr"})

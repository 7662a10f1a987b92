"""A copy of a prompt that measures is never a new prompt, also where ROUGE-L is turned off or sees nothing."""

import pytest

from selfrewarding.api.algorithm import PromptFiltersSpec, PromptGenerationSpec
from selfrewarding.data.prompt_filter import PromptFilter
from srr_sampler.harvest import Harvest, Shot

HELD_OUT = "Explain why the sky is blue to a child."


@pytest.mark.parametrize(
    "text",
    [HELD_OUT, "  Explain why the sky is\nblue to a child. ", "EXPLAIN why the sky is blue to a CHILD."],
)
def test_a_copy_is_dropped_at_any_threshold(text: str) -> None:
    verdict = PromptFilter([HELD_OUT], threshold=1.0).offer("new", text)
    assert (verdict.accepted, verdict.reason) == (False, "similar")


def test_at_the_highest_threshold_copies_alone_are_dropped() -> None:
    prompts = PromptFilter([HELD_OUT], threshold=1.0)
    assert prompts.offer("near", "Explain why the sky is blue to a small child.").accepted
    assert not prompts.offer("again", "explain why the sky is blue to a small child.").accepted


def test_copies_within_one_block_and_restored_ones_are_seen() -> None:
    prompts = PromptFilter([], threshold=1.0)
    prompts.restore([("old", HELD_OUT)])
    found = prompts.offer_all(
        [("a", HELD_OUT), ("b", "Name three large rivers."), ("c", "name three large rivers.")]
    )
    assert [one.accepted for one in found] == [False, True, False]


def test_a_copy_without_a_word_is_dropped() -> None:
    """ROUGE-L compares words: of signs alone there is none, and the F1 with itself is 0."""
    verdict = PromptFilter(["☀ + ☂ = ?"], "Korean").offer("new", "☀ + ☂ = ?")
    assert (verdict.accepted, verdict.max_rouge_l) == (False, 0.0)


def test_no_prompt_of_a_round_is_a_held_out_one() -> None:
    spec = PromptGenerationSpec(count=2, filters=PromptFiltersSpec(max_rouge_l=1))
    harvest = Harvest(spec, [Shot("k", "Describe your favourite season of the year.")], [HELD_OUT], "request")
    harvest.add(
        {
            "text": f"1. {HELD_OUT}\n2. Write a short poem about the sea.\n",
            "finishReason": "stop",
            "firstNumber": 1,
            "tokens": {"promptTokens": 1, "outputTokens": 1},
            "shots": ["k"],
            "seed": 1,
        }
    )
    assert [row["prompt"][0]["content"] for row in harvest.accepted] == ["Write a short poem about the sea."]
    assert [row["reason"] for row in harvest.dropped] == ["similar"]

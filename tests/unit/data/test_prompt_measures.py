"""How new prompts differ from each other and from the seeds."""

import pytest

from selfrewarding.data.evidence import evidence_bytes, highest, lowest
from selfrewarding.data.prompt_measures import distinct_n, measure_prompts

SEEDS = ["Name three rivers in Europe.", "Write a short poem about the sea."]


def test_distinct_n_by_hand() -> None:
    # a b, b c | a b, b d: three different bigrams of four
    assert distinct_n(["a b c", "a b d"], "English") == pytest.approx(3 / 4)
    assert distinct_n(["a b c", "a b d"], "English", n=1) == pytest.approx(4 / 6)


def test_n_grams_do_not_cross_prompts() -> None:
    assert distinct_n(["a", "b"], "English") is None


def test_a_writer_that_writes_one_prompt_again_and_again_is_seen() -> None:
    varied = [f"Explain topic{n} to reader{n} with example{n}." for n in range(40)]
    narrow = ["Explain the water cycle to a child."] * 40
    assert (distinct_n(varied, "English") or 0) > 0.9
    assert (distinct_n(narrow, "English") or 1) < 0.05


def test_korean_words_count() -> None:
    texts = ["강의 이름을 세 개 말해 주세요", "산의 이름을 세 개 말해 주세요"]
    # 이름을 세, 세 개, 개 말해, 말해 주세요 twice; 강의 이름을, 산의 이름을 once: 6 of 10
    assert distinct_n(texts, "Korean") == pytest.approx(6 / 10)
    assert distinct_n(texts, "English") is None, "rouge-score's tokens are a-z and 0-9 only"


def test_similarity_is_the_mean_of_the_nearest_seeds() -> None:
    measured = measure_prompts(["Name three rivers in Asia.", "Sing."], SEEDS, "English")
    assert measured.similarities == pytest.approx((4 / 5, 0.0))
    assert measured.similarity == pytest.approx(2 / 5)


def test_a_seed_written_down_again_has_similarity_one() -> None:
    assert measure_prompts(SEEDS, SEEDS, "English").similarity == pytest.approx(1)


def test_many_prompts_in_blocks_are_measured_one_by_one() -> None:
    prompts = [f"word{n} rivers" for n in range(600)]
    one_by_one = [measure_prompts([text], SEEDS, "English").similarities[0] for text in prompts]
    assert measure_prompts(prompts, SEEDS, "English").similarities == pytest.approx(one_by_one)


def test_what_is_not_defined_is_none() -> None:
    assert measure_prompts([], SEEDS, "English").similarity is None
    assert measure_prompts(["a b"], [], "English").similarity is None
    assert measure_prompts([], [], "English").diversity is None


def test_commonness_is_the_share_that_others_have_too() -> None:
    assert measure_prompts(["a b c", "a b d"], [], "English").commonness == pytest.approx((1 / 2, 1 / 2))
    assert measure_prompts(["a b a b"], [], "English").commonness == (0.0,), (
        "its own repetition is not another's"
    )


def test_evidence_names_the_five_rows_that_show_it_best_in_one_order() -> None:
    values = [(f"k{n}", float(n % 4)) for n in range(12)]
    assert [row["key"] for row in highest(values)] == ["k11", "k3", "k7", "k10", "k2"]
    assert [row["key"] for row in lowest(reversed(values))] == ["k0", "k4", "k8", "k1", "k5"]
    assert evidence_bytes({"b": [], "a": highest([("x", 1 / 3)])}) == (
        b'{\n "a": [\n  {\n   "key": "x",\n   "value": 0.333333\n  }\n ]\n}\n'
    )

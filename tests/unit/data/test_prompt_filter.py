"""The filters for new prompts: Self-Instruct's rules, the languages, and ROUGE-L equal to the rouge-score package."""

import functools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrewarding.api.data import Language
from selfrewarding.data.prompt_filter import PromptFilter, Verdict
from selfrewarding.data.rouge import (
    RougeIndex,
    english_tokens,
    f1_matrix,
    rouge_l_f1,
    unicode_tokens,
)


@functools.cache
def reference() -> Any:
    """The rouge-score package's own scorer; imported where it is asked, since it brings nltk along."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def verdict(text: str, language: Language = "English", **options: object) -> Verdict:
    return PromptFilter([], language, **options).offer("x", text)  # type: ignore[arg-type]


ENGLISH = {
    "four words": ("Name a long river.", None),
    "three words": ("Name a river.", "too_short"),
    "150 words": ("word " * 150, None),
    "151 words": ("word " * 151, "too_long"),
    "no words": ("", "too_short"),
    "only spaces": ("    ", "too_short"),
    "an image": ("Describe what this image shows.", "keyword"),
    "capitals in a keyword": ("Describe what this IMAGE shows.", "keyword"),
    "a keyword with a comma": ("Take the file, and sort it.", "keyword"),
    "a keyword of two words": ("Please go to the shop now.", "keyword"),
    "a keyword within a word": ("Describe how imagery and profiles work.", None),
    "a program": ("Write a program that sorts numbers.", "write_a_program"),
    "a program in the middle": ("Please do write a program now.", None),
    "a quotation mark first": ('"Carpe diem": who said it?', "punctuation_first"),
    "a dash first": ("- name a long river", "punctuation_first"),
    "a typographic quotation mark first": ("“Carpe diem”: who said it?", "punctuation_first"),
    "a letter that is not ASCII first": ("Écrivez un poème sur la mer.", "not_ascii_first"),
    "a Korean prompt": ("한국의 수도가 어디인지 한 문장으로 말해 주세요.", "not_ascii_first"),
    "other letters later": ("Explain what a café is.", None),
}


@pytest.mark.parametrize(("text", "reason"), ENGLISH.values(), ids=ENGLISH)
def test_english_rules_are_those_of_self_instruct(text: str, reason: str | None) -> None:
    result = verdict(text)
    assert (result.reason, result.accepted) == (reason, reason is None)
    assert (result.max_rouge_l is None) == (reason is not None)


KOREAN = {
    "two eojeol": ("고양이를 소개하세요.", None),
    "one eojeol": ("안녕하세요.", "too_short"),
    "a picture": ("이 사진을 설명해 주세요.", "keyword"),
    "a map with a particle": ("지도에서 서울을 찾으세요.", "keyword"),
    "draw": ("고양이를 그려 주세요.", "keyword"),
    "an English keyword": ("이 image 무엇인지 말하세요.", "keyword"),
    "a leader is no map": ("좋은 지도자의 조건을 말하세요.", None),
    "a shadow is no picture": ("그림자가 생기는 까닭을 설명하세요.", None),
    "a pilot is no file": ("파일럿이 하는 일을 설명하세요.", None),
    "a program": ("숫자를 정렬하는 프로그램을 작성하세요.", "write_a_program"),
    "a quotation mark first": ("「안녕」을 영어로 옮기세요.", "punctuation_first"),
    "a Hangul letter first": ("한국의 수도가 어디인지 말해 주세요.", None),
}


@pytest.mark.parametrize(("text", "reason"), KOREAN.values(), ids=KOREAN)
def test_rule_12_korean_prompts_are_judged_by_korean_rules(text: str, reason: str | None) -> None:
    assert verdict(text, "Korean").reason == reason


ANY = {
    "Chinese without spaces": ("请用一句话介绍北京。", None),
    "Japanese": ("東京を紹介してください。", None),
    "Arabic": ("اكتب جملة عن البحر", None),
    "Cyrillic": ("Назовите реку.", None),
    "one token": ("Hi", "too_short"),
    "a Korean keyword": ("이 사진을 설명해 주세요.", "keyword"),
    "an English keyword": ("Draw a cat for me", "keyword"),
}


@pytest.mark.parametrize(("text", "reason"), ANY.values(), ids=ANY)
def test_rule_12_any_language_is_judged_without_english_rules(text: str, reason: str | None) -> None:
    assert verdict(text, "Any").reason == reason


def test_own_limits_and_keywords_replace_the_languages() -> None:
    assert verdict("Name a river.", min_words=3).accepted
    assert verdict("Name a river.", min_words=1, max_words=2).reason == "too_long"
    assert verdict("Describe what this image shows.", keywords=["poem"]).accepted
    assert verdict("Write me a short poem.", keywords=["poem"]).reason == "keyword"
    assert verdict("请用一句话介绍图片。", "Any", keywords=["图片"]).reason == "keyword"
    assert verdict("Describe what this image shows.", keywords=[]).accepted


def test_rule_12_korean_near_duplicates_are_seen() -> None:
    """rouge-score keeps only a-z and 0-9, so all Korean texts are empty to it and nothing is ever similar."""
    seed = "한국의 수도가 어디인지 한 문장으로 설명해 주세요."
    again = "한국의 수도가 어디인지 두 문장으로 설명해 주세요."
    assert reference().score(seed, again)["rougeL"].fmeasure == 0
    result = PromptFilter([seed], "Korean").offer("x", again)
    assert (result.accepted, result.reason, result.nearest) == (False, "similar", "seed-0")
    assert result.max_rouge_l == pytest.approx(6 / 7)


def test_decomposed_hangul_is_the_same_text() -> None:
    import unicodedata

    seed = "한국의 수도를 말하세요"
    assert unicode_tokens(unicodedata.normalize("NFD", seed)) == unicode_tokens(seed)


def test_an_accepted_prompt_blocks_later_ones_and_a_dropped_one_does_not() -> None:
    prompts = PromptFilter(["Name the longest river of Europe."])
    results = list(
        prompts.offer_all(
            [
                (1, "Name the longest river of Asia."),
                (2, "Name the highest mountain of Africa today."),
                (3, "Name the highest mountain of Africa now."),
                (4, "Tell me about the river"),
            ]
        )
    )
    assert [result.accepted for result in results] == [False, True, False, True]
    assert [result.nearest for result in results] == ["seed-0", "seed-0", 2, "seed-0"]


def random_texts(source: random.Random, count: int) -> list[str]:
    """Texts that are often alike: words of a small vocabulary, and copies with one word changed."""
    words = [f"w{n}" for n in range(40)] + ["Ü", "x-y", "don't", "3.5"]
    texts: list[str] = []
    for _ in range(count):
        if texts and source.random() < 0.6:
            text = source.choice(texts).split()
            text[source.randrange(len(text))] = source.choice(words)
        else:
            text = source.choices(words, k=source.randint(4, 90))
        texts.append("a " + " ".join(text))
    return texts


def reference_filter(seeds: list[str], texts: list[str], threshold: float) -> list[tuple[bool, float]]:
    """The loop over rouge-score that Self-Instruct has."""
    pool = list(seeds)
    results = []
    for text in texts:
        highest = max((reference().score(text, other)["rougeL"].fmeasure for other in pool), default=0.0)
        if highest <= threshold:
            pool.append(text)
        results.append((highest <= threshold, highest))
    return results


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_every_verdict_and_score_is_rouge_scores_own(threshold: float) -> None:
    source = random.Random(11)
    seeds, texts = random_texts(source, 15), random_texts(source, 60)
    prompts = PromptFilter(seeds, "English", threshold=threshold, keywords=[], max_words=1000)
    verdicts = list(prompts.offer_all(enumerate(texts)))
    assert [(item.accepted, item.max_rouge_l) for item in verdicts] == reference_filter(
        seeds, texts, threshold
    )


def test_a_prompt_exactly_at_the_threshold_is_accepted() -> None:
    prompts = PromptFilter(["alpha beta gamma delta"], threshold=0.5)
    assert prompts.offer(1, "alpha beta one two") == Verdict(1, True, None, 0.5, "seed-0")
    assert prompts.offer(2, "alpha beta gamma three").reason == "similar"


def test_f1_is_bitwise_that_of_rouge_score_at_every_length() -> None:
    from rouge_score import scoring

    """35 common tokens of 60 and 40 are 0.7000000000000001 to rouge-score: exact fractions would accept there."""
    assert rouge_l_f1(35, 60, 40) > 0.7
    for length in range(1, 50):
        for other in range(1, 50):
            for common in range(min(length, other) + 1):
                expected = scoring.fmeasure(common / length, common / other)
                assert rouge_l_f1(common, length, other) == expected


def test_the_vectors_compute_what_the_formula_says() -> None:
    index = RougeIndex("English")
    base = [f"t{n}" for n in range(60)]
    texts = [
        " ".join(base[:n] + [f"z{m}" for m in range(m)]) for n in range(1, 60, 7) for m in range(0, 40, 7)
    ]
    encoded = [index.encode(text) for text in texts]
    matrix = f1_matrix(encoded)
    for row, text in enumerate(texts):
        for column, other in enumerate(texts):
            assert matrix[row, column] == reference().score(text, other)["rougeL"].fmeasure


@given(st.text(max_size=60))
def test_english_tokens_are_those_of_rouge_score(text: str) -> None:
    from rouge_score import tokenize

    assert english_tokens(text) == tokenize.tokenize(text, None)


@given(st.text(max_size=60))
def test_unicode_tokens_hold_every_letter(text: str) -> None:
    tokens = unicode_tokens(text)
    assert all(tokens)
    assert unicode_tokens(" ".join(tokens)) == tokens


LINES = st.lists(st.text(st.sampled_from("abcd é"), min_size=8, max_size=40), min_size=1, max_size=12)


@settings(max_examples=50)
@given(LINES, LINES, st.integers(0, 12))
def test_one_by_one_in_blocks_or_resumed_gives_the_same(seeds: list[str], texts: list[str], cut: int) -> None:
    def fresh() -> PromptFilter:
        return PromptFilter(seeds, "Any", min_words=1)

    candidates = list(enumerate(texts))
    together = list(fresh().offer_all(candidates))
    single = fresh()
    assert [single.offer(number, text) for number, text in candidates] == together
    resumed = fresh()
    resumed.restore(
        (number, texts[number]) for number in range(len(texts[:cut])) if together[number].accepted
    )
    assert list(resumed.offer_all(candidates[cut:])) == together[cut:]


def test_blocks_do_not_hide_prompts_from_each_other() -> None:
    text = "Name the longest river of the continent"
    verdicts = list(PromptFilter([]).offer_all((n, text) for n in range(600)))
    assert [n for n, result in enumerate(verdicts) if result.accepted] == [0]


def test_more_distinct_tokens_than_code_points_are_told_apart() -> None:
    index = RougeIndex("English")
    index._vocabulary.update({f"only{n}": n for n in range(0x110000)})
    first, second = index.encode("alpha beta gamma only7"), index.encode("alpha delta gamma only7")
    index.add(first)
    assert index.nearest([second])[0].f1 == 0.75
    index.add(index.encode("only7"))
    assert index.nearest([index.encode("only7")])[0].index == 1

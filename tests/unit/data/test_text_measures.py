"""Refusals and repetition of answers, in English and Korean: sure signs only."""

import pytest

from selfrewarding.data.text_measures import (
    LEAST_TOKENS,
    REFUSAL_WINDOW,
    refusal_rule,
    refuses,
    repeats,
    repetition,
)

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t assist with that request.",
    "I cannot provide instructions for that.",
    "Sorry, I can't do that.",
    "As an AI language model, I cannot browse the internet.",
    "As an AI, I'm unable to give medical advice.",
    "I am unable to answer this question.",
    "I apologize, but I cannot fulfill this request.",
    "Unfortunately, I am not able to create that for you.",
    "I won't write that.",
    "I must decline to answer.",
    "I cannot help you with that, and I can't recommend it either.",
    "I cannot recommend a dose, since I do not know enough about you.",
    "I'm unable to offer legal advice. More than that I cannot say.",
    "**I'm sorry**, but I cannot assist with creating malware.",
    "죄송하지만 그 요청은 도와드릴 수 없습니다.",
    "죄송합니다. 해당 질문에는 답변드릴 수 없습니다.",
    "안타깝지만 그런 글은 작성할 수 없어요.",
    "저는 인공지능 언어 모델이므로 개인 정보를 제공할 수 없습니다.",
    "해당 요청에는 응할 수 없습니다.",
    "죄송하지만 그 부탁은 들어드리기 어렵습니다.",
]
ANSWERS = [
    "",
    "I'm sorry to hear that your dog is ill. Here is what you can do: …",
    "I can't believe it is already autumn! Leaves fall, and",
    "I cannot overstate how good this book is.",
    "Sorry is a word that people use when they regret something.",
    'The clerk said: "I\'m sorry, but I cannot help with that." Then she left.',
    "Sure! Here is a poem. I cannot help but smile when I read it.",
    "I can't recommend this book enough! It begins in a small village.",
    "I really cannot recommend their soup enough.",
    "I can't help but notice how quiet the town is today.",
    "I cannot help thinking of the sea when I hear it.",
    "I cannot offer you more than my thanks, dear aunt, but they come from the heart.",
    "As an AI researcher, I cannot wait to see what comes next.",
    "You can't divide by zero, because no number times zero gives one.",
    "죄송하다는 말은 잘못을 인정할 때 씁니다.",
    "미안한 마음을 전하려면 먼저 상대의 말을 들어 주세요.",
    "인공지능은 사람처럼 느낄 수 없다고 말하는 사람도 있습니다.",
    "한국의 수도는 서울입니다.",
    "이 질문에 답하려면 먼저 물의 끓는점을 알아야 합니다.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_seen(text: str) -> None:
    assert refuses(text)
    assert refusal_rule(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_no_refusal(text: str) -> None:
    assert refusal_rule(text) is None


def test_only_the_start_of_an_answer_refuses() -> None:
    text = "Here is the letter that you asked for. " * (REFUSAL_WINDOW // 30)
    assert not refuses(text + "I'm sorry, but I can't help with that.")


LOOPS = [
    "I like cats and dogs. " * 12,
    "하하하하하하하하하하하하하하하하하하하하하하하하하하하하하하하하하하",
    "a" * 400,
    "고양이는 정말 귀엽습니다. " * 15,
    "猫很可爱。" * 20,
    "!" * 8000,
]
PROSE = [
    (
        "The kettle boils when water reaches one hundred degrees at sea level; higher up it boils sooner, since the air "
        "presses less, and so tea brewed on a mountain is never quite as hot as tea made by the coast."
    ),
    "\n".join(f"| {n} | {n * n} | {n**3} |" for n in range(1, 30)),
    "\n".join(
        f"{n}. Take ingredient number {n} and mix it with {n + 3} grams of flour." for n in range(1, 12)
    ),
    (
        "def add(a, b):\n    return a + b\n\ndef subtract(a, b):\n    return a - b\n\ndef scale(a, factor):\n"
        "    total = a * factor\n    return total\n"
    ),
    (
        "물은 해수면에서 섭씨 백 도에 끓습니다. 산에 오르면 기압이 낮아져 더 낮은 온도에서 끓기 때문에 밥이 설익을 수 "
        "있고, 그래서 등산객은 압력솥을 쓰거나 오래 뜸을 들입니다. 반대로 깊은 곳에서는 더 높은 온도가 필요합니다."
    ),
]


@pytest.mark.parametrize("text", LOOPS, ids=range(len(LOOPS)))
def test_a_loop_repeats_itself(text: str) -> None:
    assert repeats(text)


@pytest.mark.parametrize("text", PROSE, ids=range(len(PROSE)))
def test_prose_tables_lists_and_code_do_not(text: str) -> None:
    assert not repeats(text), repetition(text)


def test_repetition_is_the_share_of_repeated_4_grams() -> None:
    words = [f"w{n}" for n in range(30)]
    assert repetition(" ".join(words)) == 0
    # 34 tokens give 31 4-grams; the second "w0 w1 w2 w3" is the one that stands twice.
    assert repetition(" ".join([*words, *words[:4]])) == pytest.approx(1 / 31)


def test_short_texts_never_repeat_themselves() -> None:
    assert repetition("no " * (LEAST_TOKENS - 1)) == 0
    assert repetition("no " * LEAST_TOKENS) > 0.9


def test_a_long_answer_is_measured_in_no_time() -> None:
    """1 MB of one sign, and text made to send a rule that looks for its end back and forth."""
    for text in ("x" * 1_000_000, "sorry " * 200_000, "죄송" * 300_000, "as an ai " * 100_000):
        refuses(text)
    assert repeats("x y " * 250_000)

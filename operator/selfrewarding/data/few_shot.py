"""Few-shot prompts that make a model write new prompts, and reading the prompts out of what it wrote.

Structure of Self-Instruct (arXiv 2212.10560; arXiv 2401.10020 section 2.3): a numbered list of tasks, six from the seed
data and two that were generated before, which the model continues. The wording is this project's own. Which of the new
prompts are kept is decided in :mod:`selfrewarding.data.prompt_filter`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from selfrewarding.api.data import Language
from selfrewarding.data.judgements import CUT_FINISH_REASONS

Style = Literal["continuation", "request"]

_HEADS: dict[Language, str] = {
    "English": "A collection of tasks that people ask an assistant to do. Every task stands on its own and differs "
    "from the others in topic and kind.",
    "Korean": "사람들이 어시스턴트에게 부탁하는 여러 가지 과제의 목록입니다. "
    "각 과제는 그 자체로 완전하며, 주제와 종류가 서로 다릅니다.",
}
_REQUESTS: dict[Language, str] = {
    "English": "Continue the list with {wanted} new tasks, numbered from {first} to {last}. Write only the tasks, "
    "never their answers.",
    "Korean": "{first}번부터 {last}번까지 번호를 붙여 새로운 과제 {wanted}개로 목록을 이어 쓰십시오. "
    "과제만 쓰고 답은 쓰지 마십시오.",
}


@dataclass(frozen=True, slots=True)
class FewShotPrompt:
    """A prompt that asks for more prompts.

    Attributes:
        text: what the model is given.
        first_number: the number of the first new item.
    """

    text: str
    first_number: int


def choose_shots(
    seed_prompts: Sequence[str],
    generated_prompts: Sequence[str],
    *,
    seeds: int = 6,
    generated: int = 2,
    seed: int,
) -> list[str]:
    """Pick the examples of one few-shot prompt, in random order; equal arguments give equal examples.

    While fewer than `generated` prompts have been made, further seed prompts take their places; with too few seed
    prompts the list is shorter. The result depends on the order of the inputs, so give them in a stable one.
    """
    # Only random() is promised to give the same numbers in all versions of Python; sample() and shuffle() are not.
    source = random.Random(seed)  # noqa: S311 - reproducible choice, not secrecy
    from_generated = _draw(source, len(generated_prompts), generated)
    from_seeds = _draw(source, len(seed_prompts), seeds + generated - len(from_generated))
    chosen = [seed_prompts[index] for index in from_seeds] + [
        generated_prompts[index] for index in from_generated
    ]
    return [chosen[index] for index in _draw(source, len(chosen), len(chosen))]


def _draw(source: random.Random, size: int, count: int) -> list[int]:
    """Distinct positions below `size` in random order (Fisher-Yates, without building the whole list)."""
    moved: dict[int, int] = {}
    drawn = []
    for taken in range(min(size, count)):
        pick = taken + int(source.random() * (size - taken))
        drawn.append(moved.get(pick, pick))
        moved[pick] = moved.get(taken, taken)
    return drawn


def few_shot_prompt(
    shots: Sequence[str],
    *,
    language: Language = "English",
    style: Style = "continuation",
    wanted: int = 8,
) -> FewShotPrompt:
    """The numbered list of examples that the model is to continue.

    Args:
        shots: the examples.
        language: of the heading; Any is English.
        style: `continuation` ends in the next number, for a plain completion; `request` asks for `wanted` more, for a
            chat turn.
        wanted: how many new prompts a `request` asks for.
    """
    key: Language = "English" if language == "Any" else language
    first = len(shots) + 1
    items = "\n".join(f"{number}. {_one_item(shot)}" for number, shot in enumerate(shots, 1))
    if style == "continuation":
        return FewShotPrompt(f"{_HEADS[key]}\n\n{items}\n{first}.", first)
    request = _REQUESTS[key].format(wanted=wanted, first=first, last=first + wanted - 1)
    return FewShotPrompt(f"{_HEADS[key]}\n\n{items}\n\n{request}", first)


def _one_item(shot: str) -> str:
    """An example without line breaks: a list or a blank line in it would teach the model to end items early."""
    return " ".join(shot.split())


_NUMBERED = re.compile(r"(?:[*_#> ]*)(\d{1,4}) ?[.)](?:[*_]*)(?:\s+|$)(.*)")
_SEPARATOR = re.compile(r"\s*(?:[-=*_~#]\s*){3,}|\s*#{1,6}\s+.*")
_ANSWERS = re.compile(
    r"[ *_#>]*(?:(?:sample |model |example )?(?:answers?|responses?|outputs?|solutions?|results?|assistant)"
    r"|답변?|정답|해답|응답|결과|출력)\b[ *_]*(?:\d+[ *_]*)?(?::|$)",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"(\*\*|__|[\"“'*`])(.+?)(\*\*|__|[\"”'*`])", re.DOTALL)
_LABEL = re.compile(r"(?:task|instruction|prompt|question|과제|지시|질문)(?: ?\d+)? ?: *", re.IGNORECASE)
_LARGEST_GAP = 2


def parse_continuation(
    text: str,
    *,
    first_number: int,
    style: Style = "continuation",
    finish_reason: str | None = None,
    max_items: int | None = None,
) -> list[str]:
    """The new prompts in a model's continuation of the list.

    An item begins at a line with the next number (one or two may be skipped) and goes on over unnumbered lines and
    lists of its own. Models often write a few tasks, then a separator, then start to answer (arXiv 2401.10020,
    appendix A.5). So reading stops at a separator line, at "Answer:" and the like, and where the numbering starts
    again after a blank line or at the first new number. Text after a blank line belongs to an item only if the item
    announces it with a colon. If the generation was cut by length, only the last item is dropped (and not even that one
    if the reading had stopped before it).

    Args:
        text: what the model wrote after the prompt.
        first_number: :attr:`FewShotPrompt.first_number`.
        style: of the prompt; a `continuation` begins inside the first item, whose number the prompt has given.
        finish_reason: why the generation ended.
        max_items: stop after so many.
    """
    items: list[list[str]] = []
    expected = first_number
    if style == "continuation":
        items.append([])
        expected += 1
    after_blank = False
    item_ended = False
    stopped = False
    for line in text.splitlines():
        numbered = _NUMBERED.fullmatch(line)
        number = int(numbered[1]) if numbered else None
        if numbered and number is not None and expected <= number <= expected + _LARGEST_GAP:
            items.append([numbered[2]])
            expected = number + 1
            item_ended = False
        elif numbered and style == "continuation" and number == first_number and not any(map(any, items)):
            items[0] = [numbered[2]]  # the model repeats the number that the prompt ends in
        elif _begins_answers(line) or number == first_number or (after_blank and number == 1):
            stopped = any(map(any, items))
            if stopped:
                break
        elif not line.strip():
            item_ended = item_ended or bool(items and any(items[-1]) and not _announces_more(items[-1]))
            if items and not item_ended:
                items[-1].append("")
        elif items and not item_ended:
            items[-1].append(line)
        after_blank = not line.strip()
    complete = items[:-1] if finish_reason in CUT_FINISH_REASONS and not stopped else items
    prompts = [cleaned for item in complete if (cleaned := _clean("\n".join(item)))]
    return prompts if max_items is None else prompts[:max_items]


def _begins_answers(line: str) -> bool:
    return _SEPARATOR.fullmatch(line) is not None or _ANSWERS.match(line) is not None


def _announces_more(lines: Sequence[str]) -> bool:
    return "\n".join(lines).rstrip().endswith((":", "："))


def _clean(item: str) -> str:
    text = "\n".join(line.rstrip() for line in item.strip().splitlines())
    wrapped = _WRAPPED.fullmatch(text)
    if wrapped and wrapped[1] not in wrapped[2] and (wrapped[1], wrapped[3]) in _QUOTES:
        text = wrapped[2].strip()
    return _LABEL.sub("", text, count=1).strip() if _LABEL.match(text) else text


_QUOTES = {("**", "**"), ("__", "__"), ('"', '"'), ("“", "”"), ("'", "'"), ("*", "*"), ("`", "`")}

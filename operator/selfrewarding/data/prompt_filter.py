"""Which newly written prompts are kept: the filters of Self-Instruct (arXiv 2212.10560), aware of the language.

English uses the original's constants. Its first-character rule rejects every text in another alphabet and its word
limits count spaces, so Korean and "any" have their own:

=============  ===========================  ========================  ==================================
rule           English                      Korean                    Any
=============  ===========================  ========================  ==================================
words          4–150, split at spaces       2–150 eojeol              2–300 tokens of the ROUGE tokenizer
keywords       13 things a text cannot do   the same in Korean, also  English and Korean lists
                                            the English list
first letter   ASCII, no punctuation        no punctuation            no punctuation
program        "Write a program …" dropped  the same in Korean        both
ROUGE tokens   those of rouge-score         words of any script       words of any script
=============  ===========================  ========================  ==================================

An eojeol (a Korean word with its particles) carries about two English words, hence the lower limit. The ROUGE-L filter
comes last: a prompt is dropped if its F1 to any seed or any accepted prompt is above the threshold, or if it is a copy of
one (NFKC, case and spacing do not count), whatever the threshold.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from selfrewarding.api.data import Language
from selfrewarding.data.rouge import NOTHING, Nearest, RougeIndex, f1_matrix, is_unspaced, unicode_tokens
from selfrewarding.data.rows import normalised

DropReason = Literal[
    "too_short", "too_long", "keyword", "write_a_program", "punctuation_first", "not_ascii_first", "similar"
]

ENGLISH_KEYWORDS = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files",
    "map", "maps", "draw", "plot", "go to",
)  # fmt: skip
"""Words of tasks that a text-only model cannot do (Self-Instruct's list)."""

KOREAN_KEYWORDS = (
    "이미지",
    "그래프",
    "그림",
    "사진",
    "파일",
    "지도",
    "동영상",
    "그려",
    "그리세요",
    "그리시오",
)
"""The same in Korean. Particles may follow (사진을, 지도에서), other syllables not: 지도자 is a leader."""

WORD_LIMITS: dict[Language, tuple[int, int]] = {"English": (4, 150), "Korean": (2, 150), "Any": (2, 300)}
"""Fewest and most words of a prompt."""

_KOREAN_ENDING = (
    r"들?(?:을|를|이|가|은|는|에|에서|에는|의|로|으로|과|와|도|만|이나|나|부터|까지|처럼|보다"
    r"|줘|라|주세요|주십시오|보세요)?"
)
_KOREAN_PROGRAM = re.compile(r"프로그램을 (?:작성|만들|짜|구현)|코드를 작성하여 프로그램")
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one prompt.

    Attributes:
        id: its id.
        accepted: whether it is kept.
        reason: why not; None if it is kept.
        max_rouge_l: highest F1 to a seed or an accepted prompt; None if an earlier rule dropped it.
        nearest: id of that text (`seed-<position>` for a seed); None if nothing was compared or has a token in common.
    """

    id: str | int
    accepted: bool
    reason: DropReason | None
    max_rouge_l: float | None
    nearest: str | int | None

    def as_row(self) -> dict[str, str | int | float | None]:
        """The row that `srr data filter-prompts` writes."""
        return {
            "id": self.id,
            "accepted": self.accepted,
            "reason": self.reason,
            "max_rouge_l": self.max_rouge_l,
        }


class PromptFilter:
    """Judges prompts one after another; each that is accepted joins the texts that later ones are compared with.

    To resume, give the prompts accepted so far to :meth:`restore`, in their order; the verdicts that follow are the
    same as without the interruption.

    Args:
        seeds: texts that new prompts must differ from.
        language: chooses the rules, see the module.
        threshold: highest ROUGE-L F1 that is still accepted.
        min_words: fewest words; None for the language's own limit.
        max_words: most words; None for the language's own limit.
        keywords: words that drop a prompt; None for the language's own list.
        workers: threads of the ROUGE-L comparison, -1 for one per processor.
    """

    def __init__(
        self,
        seeds: Iterable[str],
        language: Language = "English",
        *,
        threshold: float = 0.7,
        min_words: int | None = None,
        max_words: int | None = None,
        keywords: Sequence[str] | None = None,
        workers: int = 1,
    ) -> None:
        self._language: Language = language
        self._threshold = threshold
        lowest, highest = WORD_LIMITS[language]
        self._min_words = lowest if min_words is None else min_words
        self._max_words = highest if max_words is None else max_words
        self._keywords = _keyword_expression(language, keywords)
        self._workers = workers
        self._index = RougeIndex(language, workers=workers)
        self._ids: list[str | int] = []
        self._texts: set[str] = set()
        for position, seed in enumerate(seeds):
            self._add(f"seed-{position}", seed, self._index.encode(seed))

    def restore(self, accepted: Iterable[tuple[str | int, str]]) -> None:
        """Take over (id, text) of prompts that an earlier filter has accepted, without judging them again."""
        for identifier, text in accepted:
            self._add(identifier, text, self._index.encode(text))

    def offer(self, identifier: str | int, text: str) -> Verdict:
        """Judge one prompt."""
        return next(self.offer_all([(identifier, text)]))

    def offer_all(self, candidates: Iterable[tuple[str | int, str]]) -> Iterator[Verdict]:
        """Judge (id, text) in their order; the same verdicts as one :meth:`offer` after another, many times faster."""
        iterator = iter(candidates)
        while block := list(islice(iterator, _BLOCK)):
            yield from self._judge_block(block)

    def _judge_block(self, block: Sequence[tuple[str | int, str]]) -> Iterator[Verdict]:
        reasons = [self._rule(text) for _, text in block]
        encoded = [
            self._index.encode(text)
            for (_, text), reason in zip(block, reasons, strict=True)
            if reason is None
        ]
        # One comparison of the block with all earlier texts and one within the block; acceptance then goes in order.
        earlier = self._index.nearest(encoded)
        within = f1_matrix(encoded, workers=self._workers) if len(encoded) > 1 else None
        accepted: list[tuple[int, str | int]] = []
        position = -1
        for (identifier, text), reason in zip(block, reasons, strict=True):
            if reason is not None:
                yield Verdict(identifier, False, reason, None, None)
                continue
            position += 1
            best, nearest = earlier[position], self._id_of(earlier[position])
            for other, other_id in accepted:
                if within is not None and within[position, other] > best.f1:
                    best, nearest = Nearest(float(within[position, other]), None), other_id
            # A copy is one at any threshold, and where ROUGE-L sees no token: what measures must not be trained on.
            similar = best.f1 > self._threshold or normalised(text) in self._texts
            if not similar:
                accepted.append((position, identifier))
                self._add(identifier, text, encoded[position])
            yield Verdict(identifier, not similar, "similar" if similar else None, best.f1, nearest)

    def _id_of(self, nearest: Nearest) -> str | int | None:
        return None if nearest.index is None or nearest.f1 == NOTHING.f1 else self._ids[nearest.index]

    def _add(self, identifier: str | int, text: str, encoded: str | list[int]) -> None:
        self._ids.append(identifier)
        self._texts.add(normalised(text))
        self._index.add(encoded)

    def _rule(self, text: str) -> DropReason | None:
        """The first rule that drops the text, in the original's order; None if the ROUGE-L filter is to decide."""
        text = text.strip()
        words = len(unicode_tokens(text) if self._language == "Any" else text.split())
        if words < self._min_words or not text:
            return "too_short"
        if words > self._max_words:
            return "too_long"
        if self._keywords is not None and self._keywords.search(unicodedata.normalize("NFC", text)):
            return "keyword"
        if self._asks_for_program(text):
            return "write_a_program"
        if text[0] in string.punctuation or unicodedata.category(text[0]).startswith("P"):
            return "punctuation_first"
        if self._language == "English" and not text[0].isascii():
            return "not_ascii_first"
        return None

    def _asks_for_program(self, text: str) -> bool:
        # Original rule: models write vague "Write a program to …" tasks that nothing can be checked against.
        if text.startswith("Write a program"):
            return True
        return self._language != "English" and _KOREAN_PROGRAM.search(text) is not None


def _keyword_expression(language: Language, keywords: Sequence[str] | None) -> re.Pattern[str] | None:
    if keywords is None:
        keywords = ENGLISH_KEYWORDS if language == "English" else ENGLISH_KEYWORDS + KOREAN_KEYWORDS
    parts = [_keyword_part(unicodedata.normalize("NFC", word)) for word in keywords if word.strip()]
    return re.compile("|".join(parts), re.IGNORECASE) if parts else None


def _keyword_part(word: str) -> str:
    if "가" <= word[-1] <= "힣":
        return rf"\b{re.escape(word)}{_KOREAN_ENDING}\b"
    # A script without spaces has no word borders to look for.
    return re.escape(word) if is_unspaced(word[-1]) else rf"\b{re.escape(word)}\b"

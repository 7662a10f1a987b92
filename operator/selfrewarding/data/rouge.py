"""ROUGE-L F1 of a text against many texts, fast and with the very numbers of the rouge-score package.

The longest common subsequence comes from rapidfuzz (bit-parallel, a whole block of texts at a time); tokens are mapped
to code points, so that a text is one string to it. Precision, recall and F1 are then computed in rouge-score's own
order of floating-point operations: comparing exact fractions would be prettier, but at 35 common tokens of 60 and 40
the package says 0.7000000000000001 > 0.7, and a filter that is to be equal to the reference has to say so too.

Must not decide what is kept; that is :mod:`selfrewarding.data.prompt_filter`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from selfrewarding.api.data import Language

_ENGLISH_TOKEN = re.compile(r"[a-z0-9]+")
# Scripts that are written without spaces: every character is a token of its own, since there are no words to see.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
)
_UNICODE_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_UNSPACED_CHARACTER = re.compile(rf"[{_UNSPACED}]")


def english_tokens(text: str) -> list[str]:
    """The tokens of rouge-score without stemmer: runs of a–z and 0–9 in lower case."""
    return _ENGLISH_TOKEN.findall(text.lower())


def unicode_tokens(text: str) -> list[str]:
    """Words of any script: NFC, case-folded, punctuation dropped.

    rouge-score keeps only a–z and 0–9, so that every Korean text is empty to it. Here a Korean eojeol is one token with
    its particles (taking them off needs a morphological analyser), and each character of Chinese, Japanese kana, Thai,
    Lao, Burmese and Khmer is one.
    """
    return _UNICODE_TOKEN.findall(unicodedata.normalize("NFC", text).casefold())


def is_unspaced(character: str) -> bool:
    """Whether a character belongs to a script that is written without spaces between words."""
    return _UNSPACED_CHARACTER.match(character) is not None


def tokenizer_for(language: Language) -> Callable[[str], list[str]]:
    """The tokenizer that ROUGE-L and word counts of a language use."""
    return english_tokens if language == "English" else unicode_tokens


def rouge_l_f1(common: int, length: int, other_length: int) -> float:
    """ROUGE-L F1 from the length of the longest common subsequence, in rouge-score's floating-point order."""
    if not common:
        return 0.0
    precision, recall = common / length, common / other_length
    return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True, slots=True)
class Nearest:
    """The text of an index that is most like a given one: its F1 and its position (None in an empty index)."""

    f1: float
    index: int | None


NOTHING = Nearest(0.0, None)


class RougeIndex:
    """A growing list of texts that others are compared with.

    Args:
        language: chooses the tokenizer.
        workers: threads of a comparison, -1 for one per processor.
    """

    def __init__(self, language: Language, *, workers: int = 1) -> None:
        self._tokens = tokenizer_for(language)
        self._workers = workers
        self._vocabulary: dict[str, int] = {}
        self._texts: list[str | list[int]] = []
        self._lengths = np.empty(1024, dtype=np.float64)

    def __len__(self) -> int:
        return len(self._texts)

    def encode(self, text: str) -> str | list[int]:
        """The text's tokens as one string, a code point per token."""
        ids = [self._vocabulary.setdefault(token, len(self._vocabulary)) for token in self._tokens(text)]
        if len(self._vocabulary) <= 0x110000:
            return "".join(map(chr, ids))
        return ids  # more distinct tokens than code points: rapidfuzz compares numbers with code points alike

    def add(self, encoded: str | list[int]) -> None:
        """Append an encoded text."""
        position = len(self._texts)
        if position == len(self._lengths):
            self._lengths = np.concatenate([self._lengths, np.empty_like(self._lengths)])
        self._lengths[position] = len(encoded)
        self._texts.append(encoded)

    def nearest(self, encoded: Sequence[str | list[int]]) -> list[Nearest]:
        """For each text the most similar one of the index; the lowest position where several are equally similar."""
        if not self._texts or not encoded:
            return [NOTHING] * len(encoded)
        common = _common(encoded, self._texts, self._workers)
        lengths = self._lengths[: len(self._texts)]
        return [_best(common[row], len(text), lengths) for row, text in enumerate(encoded)]


def f1_matrix(encoded: Sequence[str | list[int]], *, workers: int = 1) -> npt.NDArray[np.float64]:
    """ROUGE-L F1 of every text against every other (square, symmetric)."""
    common = _common(encoded, encoded, workers)
    lengths = np.array([len(text) for text in encoded], dtype=np.float64)
    return np.stack([_f1(common[row], len(text), lengths) for row, text in enumerate(encoded)])


def _common(
    queries: Sequence[str | list[int]], texts: Sequence[str | list[int]], workers: int
) -> npt.NDArray[np.uint32]:
    return cdist(queries, texts, scorer=LCSseq.similarity, dtype=np.uint32, workers=workers)


def _f1(
    common: npt.NDArray[np.uint32], length: int, lengths: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    values = np.zeros(len(common), dtype=np.float64)
    some = common > 0  # elsewhere it is 0, and a length may be 0 too
    precision = common[some] / length
    recall = common[some] / lengths[some]
    values[some] = 2 * precision * recall / (precision + recall)
    return values


def _best(common: npt.NDArray[np.uint32], length: int, lengths: npt.NDArray[np.float64]) -> Nearest:
    values = _f1(common, length, lengths)
    index = int(values.argmax())
    return Nearest(float(values[index]), index)

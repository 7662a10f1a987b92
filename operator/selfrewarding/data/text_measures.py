"""Signs of a collapse that an answer's text shows by itself: it refuses, or it repeats itself. English and Korean.

Both are rules that anybody can follow by hand, not models: they are made to miss some rather than to accuse many, since
they are read as shares of thousands of answers.

Refusal: the *first* `REFUSAL_WINDOW` characters say that the writer cannot or will not do what was asked (a phrase of
`REFUSAL_RULES`). An apology alone is none ("I'm sorry to hear that …"), nor is a refusal that is quoted further down.
Lists of refusing prefixes go back to arXiv 2307.15043; here a prefix counts only together with the inability.

Repetition: the share of 4-grams that stand earlier in the same answer (seq-rep-4 of arXiv 1908.04319), over words of any
script, punctuation marks, and the characters of very long "words", so that "하하하하…" is seen as well. An answer repeats
itself from `REPEATS_FROM` on; texts of fewer than `LEAST_TOKENS` tokens never do. Tables, lists and code stay below: their
numbers and names differ.

Must not: import numpy (BuildPreferences starts in well under a second). Neighbour: `prompt_measures` looks at prompts.
"""

from __future__ import annotations

import re
import unicodedata

REFUSAL_WINDOW = 240
"""Characters at the start of an answer in which a refusal must stand."""
LEAST_TOKENS = 24
"""Shorter texts do not repeat themselves."""
REPEATS_FROM = 0.5
"""Share of repeated 4-grams from which an answer counts as repeating itself."""
GRAM = 4

_SUBJECT = (
    r"(?:as an? (?:ai|artificial intelligence|large language|language)\b[^.!?\n]{0,60}?[,.]? ?(?:but )?)?"
)
_SORRY = (
    r"(?:(?:i am (?:very |really |so |truly )?sorry|sorry|i apologi[sz]e|my apologies|unfortunately)\b[^.!?\n]{0,60}?"
    r"(?:[,.;!] ?|\bbut |\bthat ))?"
)
_UNABLE = (
    r"i(?: (?:just|simply|really|unfortunately|still))* (?:cannot|can't|can not|won't|will not|am unable to|am not able to|"
    r"am not allowed to|must decline to|have to decline to|must refuse to|refuse to|do not feel comfortable|"
    r"don't feel comfortable)"
)
_NO_IDIOM = (
    r"(?!(?: (?:actually|really|personally))*(?: help (?:but|it|myself|\w+ing)\b"
    r"| recommend\b[^.!?,;\n]{0,48}\benough\b"
    r"| (?:offer|give|provide|share)\b[^.!?,;\n]{0,48}\bmore than\b))"
)
"""I can't help but …, I can't recommend it enough, I cannot offer more than my thanks: an inability in words alone."""
_TASK = (
    r"(?: (?:to|in|with|directly|actually|really|personally|provide|give|offer))*"
    r" ?(?:help|assist|comply|fulfil|fulfill|answer|respond|provide|create|generate|write|produce|discuss|engage|"
    r"do that|do this|support|complete|continue|offer|give|share|participate|access|browse|recommend|this request|"
    r"that request|your request|creating|writing|providing|generating|discussing|answering)\b"
)

REFUSAL_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "English: inability at the start (I'm sorry, but I can't help …; As an AI, I cannot provide …)",
        re.compile(rf"^{_SORRY}{_SUBJECT}{_SORRY}{_UNABLE}{_NO_IDIOM}{_TASK}", re.IGNORECASE),
    ),
    (
        "English: in other words (Unfortunately, it is not possible for me to …; I must decline)",
        re.compile(
            rf"^{_SORRY}{_SUBJECT}(?:it (?:is|would be)(?:n't| not) (?:possible|appropriate) for me to\b"
            r"|i(?:'d| would) rather not\b|i (?:have to|must) (?:respectfully )?decline\b)",
            re.IGNORECASE,
        ),
    ),
    (
        "Korean: apology, then inability (죄송하지만 … 도와드릴 수 없습니다)",
        re.compile(
            r"^(?:정말 |대단히 )?(?:죄송|미안|유감|안타깝)[^\n]{0,160}?"
            r"(?:(?:드릴|제공할|답변할|답할|작성할|생성할|응할|도울|수행할|말씀드릴|알려드릴|도와드릴)\s*수(?:는|가)?\s*없"
            r"|(?:드리|제공하|답변하|답하|작성하|생성하|응하|돕)기(?:는|가)?\s*(?:어렵|어려|힘들|곤란)|거절)"
        ),
    ),
    (
        "Korean: as an AI, unable (저는 인공지능이므로 … 제공할 수 없습니다)",
        re.compile(
            r"^(?:저는|나는|제가)?\s*(?:AI|인공지능|인공 지능|언어 모델|대규모 언어 모델)[^\n]{0,120}?"
            r"(?:드릴|제공할|답변할|답할|작성할|생성할|응할|도울|수행할|말씀드릴|알려드릴|도와드릴)\s*수(?:는|가)?\s*없",
            re.IGNORECASE,
        ),
    ),
    (
        "Korean: the request itself is turned down (해당 요청에는 응할 수 없습니다)",
        re.compile(
            r"^(?:그|이|해당|그런|이런|말씀하신)?\s*(?:요청|질문|부탁|내용)[^\n]{0,40}?"
            r"(?:(?:드릴|제공할|답변할|답할|응할|도울|도와드릴|수행할)\s*수(?:는|가)?\s*없|거절)"
        ),
    ),
)
"""What a refusal is: a description, and what the start of the answer must look like."""

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_LONGEST_WORD = 24
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+|([^\w\s]|_)\1{{0,79}}")
"""A word, a character of a script without spaces, or a run of one punctuation mark (a ruler is one sign, not eighty)."""
_I_AM = re.compile(r"\bi'm\b", re.IGNORECASE)
_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'"})


def refuses(text: str) -> bool:
    """Whether an answer begins by refusing (see the module for the rule)."""
    return refusal_rule(text) is not None


def refusal_rule(text: str) -> str | None:
    """The rule by which an answer refuses, None if it does not."""
    start = unicodedata.normalize("NFC", text[: 4 * REFUSAL_WINDOW]).translate(_QUOTES)
    start = _I_AM.sub("I am", " ".join(start.split())[:REFUSAL_WINDOW].replace("*", "").lstrip("\"'_#>-–— "))
    return next((name for name, rule in REFUSAL_RULES if rule.search(start)), None)


def repetition(text: str) -> float:
    """Share of an answer's 4-grams that stand earlier in it, 0 to 1; 0 for texts of fewer than `LEAST_TOKENS` tokens."""
    tokens = _tokens(text)
    if len(tokens) < LEAST_TOKENS:
        return 0.0
    grams = len(tokens) - GRAM + 1
    return 1 - len(set(zip(*(tokens[start:] for start in range(GRAM)), strict=False))) / grams


def repeats(text: str) -> bool:
    """Whether an answer counts as repeating itself."""
    return repetition(text) >= REPEATS_FROM


def _tokens(text: str) -> list[str]:
    tokens = [match[0] for match in _TOKEN.finditer(unicodedata.normalize("NFC", text).casefold())]
    if all(len(token) <= _LONGEST_WORD for token in tokens):
        return tokens
    return [
        part
        for token in tokens
        for part in (token if len(token) > _LONGEST_WORD and token[0].isalnum() else (token,))
    ]

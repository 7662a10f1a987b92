"""Checks the seed rows that the project ships: shape, counts, languages, uniqueness, meaning of ranks.

The quickstart trains on these files, so a slip here (a gap in the ranks, the best answer always first or
always longest, the same prompt in both files) would quietly teach the model or the judge the wrong thing.
This module reads the files as plain JSON and imports nothing of ours: the readers have tests of their own.
"""

import itertools
import json
import re
import statistics
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import spearmanr

SEEDS = Path(__file__).parents[2] / "crds" / "examples" / "seeds"
FILES = ("instructions.jsonl", "ranked.jsonl")
HANGUL = re.compile("[가-힣]")
JUDGE_LINE = re.compile(r"^Score: \d", re.MULTILINE)

Row = dict[str, Any]


class WordTokenizer:
    """Words of any script; rouge-score's own tokenizer drops every letter outside a-z."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


def read_rows(name: str) -> list[Row]:
    return [json.loads(line) for line in (SEEDS / name).read_text(encoding="utf-8").splitlines()]


def word_count(text: str) -> int:
    return len(text.split())


@pytest.fixture(scope="module")
def instructions() -> list[Row]:
    return read_rows("instructions.jsonl")


@pytest.fixture(scope="module")
def ranked() -> list[Row]:
    return read_rows("ranked.jsonl")


def texts_of(row: Row) -> list[str]:
    answers = [row["response"]] if "response" in row else [answer["text"] for answer in row["responses"]]
    return [row["prompt"], *answers]


@pytest.mark.parametrize("name", FILES)
def test_lines_are_canonical_json(name: str) -> None:
    raw = (SEEDS / name).read_bytes()
    assert raw.endswith(b"\n")
    assert b"\r" not in raw
    for line in raw.decode("utf-8").splitlines():
        assert line == json.dumps(json.loads(line), ensure_ascii=False)


@pytest.mark.parametrize("name", FILES)
def test_ids_count_up(name: str) -> None:
    rows = read_rows(name)
    assert [row["id"] for row in rows] == [f"{name[0]}{n:03d}" for n in range(1, len(rows) + 1)]


@pytest.mark.parametrize("name", FILES)
def test_texts_are_clean_and_in_the_stated_language(name: str) -> None:
    for row in read_rows(name):
        for text in texts_of(row):
            assert text, row["id"]
            assert text == text.strip(), row["id"]
            assert text == unicodedata.normalize("NFC", text), row["id"]
            assert "<|" not in text, row["id"]
            assert bool(HANGUL.search(text)) == (row["language"] == "ko"), (row["id"], text)


def test_instruction_schema(instructions: list[Row]) -> None:
    for row in instructions:
        assert list(row) == ["id", "prompt", "response", "language"]
        assert all(isinstance(value, str) for value in row.values())
        assert 8 <= word_count(row["response"]) <= 45, row["id"]
        assert row["response"][-1] in '.!?"', f"{row['id']}: a seed answer must end, not stop"


def test_ranked_schema(ranked: list[Row]) -> None:
    for row in ranked:
        assert list(row) == ["id", "prompt", "responses", "language"]
        assert len(row["responses"]) in (3, 4), row["id"]
        for answer in row["responses"]:
            assert list(answer) == ["text", "rank"]
            assert type(answer["rank"]) is int
            assert 5 <= word_count(answer["text"]) <= 50, (row["id"], answer)
        ranks = sorted(answer["rank"] for answer in row["responses"])
        assert ranks == list(range(len(ranks))), f"{row['id']}: ranks need to be 0..n-1, each once"


def test_counts_and_language_share(instructions: list[Row], ranked: list[Row]) -> None:
    assert Counter(row["language"] for row in instructions) == {"en": 64, "ko": 20}
    assert Counter(row["language"] for row in ranked) == {"en": 24, "ko": 8}


def test_nothing_is_there_twice(instructions: list[Row], ranked: list[Row]) -> None:
    prompts = [row["prompt"].casefold() for row in (*instructions, *ranked)]
    assert len(set(prompts)) == len(prompts)
    answers = [text.casefold() for row in (*instructions, *ranked) for text in texts_of(row)[1:]]
    assert len(set(answers)) == len(answers)


def test_prompts_differ_by_rouge_l_within_and_between_the_files(
    instructions: list[Row], ranked: list[Row]
) -> None:
    scorer = RougeScorer(["rougeL"], tokenizer=WordTokenizer())
    for language in ("en", "ko"):
        rows = [row for row in (*instructions, *ranked) if row["language"] == language]
        near = [
            (left["id"], right["id"])
            for left, right in itertools.combinations(rows, 2)
            if scorer.score(left["prompt"], right["prompt"])["rougeL"].fmeasure > 0.7
        ]
        assert near == []


def test_position_of_the_best_answer_is_balanced(ranked: list[Row]) -> None:
    for size in (3, 4):
        rows = [row for row in ranked if len(row["responses"]) == size]
        places = Counter([a["rank"] for a in row["responses"]].index(0) for row in rows)
        counts = [places[place] for place in range(size)]
        assert max(counts) - min(counts) <= 1, (size, counts)


def test_length_does_not_give_the_rank_away(ranked: list[Row]) -> None:
    correlations, best_longest, best_shortest = [], 0, 0
    for row in ranked:
        answers = sorted(row["responses"], key=lambda answer: answer["rank"])
        lengths = [word_count(answer["text"]) for answer in answers]
        correlations.append(spearmanr(range(len(lengths)), lengths).statistic)
        best_longest += lengths[0] == max(lengths)
        best_shortest += lengths[0] == min(lengths)
    assert abs(statistics.fmean(correlations)) < 0.4
    assert 0.2 <= best_longest / len(ranked) <= 0.5
    assert 0.2 <= best_shortest / len(ranked) <= 0.5


def test_two_answers_that_judge_themselves_are_ranked_last(
    instructions: list[Row], ranked: list[Row]
) -> None:
    assert not any(JUDGE_LINE.search(row["response"]) for row in instructions)
    found = [
        (row, answer) for row in ranked for answer in row["responses"] if JUDGE_LINE.search(answer["text"])
    ]
    assert len({row["id"] for row, _ in found}) == len(found) == 2
    for row, answer in found:
        assert answer["rank"] == len(row["responses"]) - 1, row["id"]


def test_readme_states_licence_and_the_counts_of_the_files(
    instructions: list[Row], ranked: list[Row]
) -> None:
    readme = (SEEDS / "README.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in readme
    for name, rows in zip(FILES, (instructions, ranked), strict=True):
        korean = sum(row["language"] == "ko" for row in rows)
        assert f"| `{name}` | {len(rows)} | {korean} |" in readme

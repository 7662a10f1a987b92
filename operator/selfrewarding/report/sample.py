"""A fair sample of an iteration's pairs, with all their judgements, out of files of any length.

Purpose: of `pairs.jsonl`, row by row, the pairs whose keys have the smallest hashes; of `rollout.jsonl` what was judged
about just these, by its index.
Must not: hold more than the sample in memory; parse a rollout row that nobody asked for.
Neighbours: `data.pairs` wrote the pairs, the sampler's Rollout the judgements; `collect` calls this.
"""

import hashlib
import heapq
import json
import re
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from selfrewarding.contract.artifacts import PAIRS, POSITIVES, ROLLOUT, ROLLOUT_INDEX, stage_prefix
from selfrewarding.contract.keys import short
from selfrewarding.contract.result import StageResult
from selfrewarding.report.story import Answer, Judgement, Lengths, Pair, Pairs, Turn
from selfrewarding.store.errors import Corrupt, NotFound
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.row_index import find_rows

SAMPLE = 40
"""Pairs of each iteration that the page shows, where there is room."""
_KEY = re.compile(rb'\{\s*"key":\s*("(?:[^"\\]|\\.)*")')
_POINTS = (0.05, 0.25, 0.5, 0.75, 0.95)

Row = dict[str, Any]


class Unreadable(Exception):
    """A file of a result is gone or damaged; the text says which, and how."""


def sampled_pairs(
    store: ArtifactStore, preferences: StageResult, rollout: StageResult | None, *, count: int = SAMPLE
) -> Pairs:
    """The sample of one iteration; what could not be read is said in `missing`."""
    name = PAIRS if PAIRS in preferences.files else POSITIVES
    total = preferences.counts.get("pairs", preferences.counts.get("positives", 0))
    try:
        rows, chosen, rejected = _smallest(_rows(store, preferences, name), count)
    except Unreadable as error:
        return Pairs(total=total, sample=(), missing=str(error))
    missing: str | None = None
    judged: Mapping[str, Row] = {}
    if rollout is None:
        missing = "The result of Rollout is gone: the judgements' texts are not shown."
    else:
        try:
            judged = rows_by_key(
                store, rollout, ROLLOUT, ROLLOUT_INDEX, {str(row["id"]) for row in rows if "id" in row}
            )
        except Unreadable as error:
            missing = f"{error}: the judgements' texts are not shown."
    return Pairs(
        total=total,
        sample=tuple(_pair(row, judged.get(str(row["id"]), {})) for row in rows),
        chosen=_lengths(chosen),
        rejected=_lengths(rejected),
        missing=missing,
    )


def _smallest(rows: Iterator[Row], count: int) -> tuple[list[Row], list[int], list[int]]:
    """The rows with the smallest hashes of their keys, and the lengths of all chosen and rejected answers."""
    chosen: list[int] = []
    rejected: list[int] = []

    def measured() -> Iterator[tuple[bytes, int, Row]]:
        for number, row in enumerate(rows):
            good, bad = _texts(row)
            chosen.append(len(good))
            if bad is not None:
                rejected.append(len(bad))
            yield hashlib.sha256(str(row["key"]).encode()).digest(), number, row

    try:
        found = heapq.nsmallest(count, measured(), key=lambda item: item[:2])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Unreadable(f"A row of pairs has not the fields it should have ({error})") from error
    return [row for _, _, row in found], chosen, rejected


def _texts(row: Row) -> tuple[str, str | None]:
    if "chosen" in row:
        return row["chosen"][-1]["content"], row["rejected"][-1]["content"]
    return row["messages"][-1]["content"], None


def _pair(row: Row, judged: Row) -> Pair:
    good, bad = _texts(row)
    where = row.get("provenance", {})
    paired = bad is not None
    return Pair(
        key=str(row["key"]),
        prompt_key=str(row.get("id", "")),
        prompt=tuple(
            Turn(role=str(turn["role"]), text=str(turn["content"]))
            for turn in (row["prompt"] if paired else row["messages"][:-1])
        ),
        chosen=_answer(
            good,
            row.get("chosen_score" if paired else "score"),
            judged,
            where.get("chosen_index" if paired else "index"),
        ),
        rejected=None
        if bad is None
        else _answer(bad, row.get("rejected_score"), judged, where.get("rejected_index")),
    )


def _answer(text: str, score: float | None, judged: Row, index: int | None) -> Answer:
    responses: Sequence[Row] = judged.get("responses", ())
    known = responses[index] if index is not None and 0 <= index < len(responses) else {}
    return Answer(
        text=text,
        score=score,
        judgements=tuple(
            Judgement(text=str(one.get("text", "")), score=one.get("score"), reason=one.get("reason"))
            for one in known.get("judgements", ())
        ),
    )


def _lengths(values: list[int]) -> Lengths | None:
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1

    def at(share: float) -> float:
        below = int(share * last)
        above = min(below + 1, last)
        return ordered[below] + (share * last - below) * (ordered[above] - ordered[below])

    first, lower, middle, upper, end = (at(share) for share in _POINTS)
    return Lengths(
        points=(first, lower, middle, upper, end), mean=statistics.fmean(ordered), count=len(ordered)
    )


def _rows(store: ArtifactStore, result: StageResult, name: str) -> Iterator[Row]:
    for line in _lines(store, result, name):
        yield _parsed(line, result, name)


def rows_by_key(
    store: ArtifactStore, result: StageResult, name: str, index: str, keys: Collection[str]
) -> dict[str, Row]:
    """The rows with these keys, without those that are not there. Raises Unreadable."""
    if name not in result.files:
        raise Unreadable(f"{result.kind} {result.iteration} has no file {name}")
    if index not in result.files:
        return _scanned(store, result, name, keys)
    found: dict[str, Row] = {}
    try:
        for key in sorted(keys):
            rows = find_rows(store, result, name, index, key)
            found |= {str(one.row["key"]): one.row for one in rows if one.row["key"] == key}
    except (NotFound, Corrupt) as error:
        raise Unreadable(f"{_named_file(result, name)} cannot be read ({error})") from error
    return found


def _scanned(store: ArtifactStore, result: StageResult, name: str, keys: Collection[str]) -> dict[str, Row]:
    """As `rows_by_key`, from end to end. A row's key is found without parsing the row, which may be large."""
    found: dict[str, Row] = {}
    for line in _lines(store, result, name):
        match = _KEY.match(line)
        if match is not None and json.loads(match[1]) not in keys:
            continue
        row = _parsed(line, result, name)
        if row.get("key") in keys:
            found[str(row["key"])] = row
    return found


def _parsed(line: bytes, result: StageResult, name: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise Unreadable(f"{_named_file(result, name)} is damaged ({error})") from error
    if not isinstance(row, dict):
        raise Unreadable(f"{_named_file(result, name)} is damaged (a row is no object)")
    return row


def _lines(store: ArtifactStore, result: StageResult, name: str) -> Iterator[bytes]:
    """The lines of a file; when it ends, its size and digest must be what the result says. Raises Unreadable."""
    ref = result.files.get(name)
    if ref is None:
        raise Unreadable(f"{result.kind} {result.iteration} has no file {name}")
    digest, size = hashlib.sha256(), 0
    where = f"{stage_prefix(result.kind, result.key)}/{ref.path}"
    try:
        with store.read_stream(where) as stream:
            for line in stream:
                digest.update(line)
                size += len(line)
                if line.strip():
                    yield line
    except (NotFound, Corrupt) as error:
        raise Unreadable(f"{_named_file(result, name)} cannot be read ({error})") from error
    if size != ref.size or digest.hexdigest() != ref.sha256:
        raise Unreadable(
            f"{_named_file(result, name)} is damaged: its content does not have the digest it had"
        )


def _named_file(result: StageResult, name: str) -> str:
    return f"{name} of {result.kind} {result.iteration} ({short(result.key)})"

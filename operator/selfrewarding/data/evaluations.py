"""Evaluation fine-tuning (EFT) rows out of judged, human-ranked answers (arXiv 2401.10020 section 2.1.1).

A prompt is kept if the judge ranks its answers as people did: no pair of its answers is discordant and at least one is
concordant, on exact mean scores. Pairs that people ranked equal say nothing and are left out; equal means are neither
concordant nor discordant. Of every answer of a kept prompt one judgement becomes the target: the one whose score is
nearest the answer's mean, the first of several. Then the most common score is thinned out, chosen by a hash.

Held-out prompts must be split off *before* (:mod:`selfrewarding.data.seed_split`): filtered by agreement, they would
show a judge of nearly 100 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any, Literal, get_args

from selfrewarding.data.jsonl import Row
from selfrewarding.data.judge_prompt import JudgePrompt
from selfrewarding.data.judgements import parse_judgement
from selfrewarding.data.rows import (
    Fields,
    Identifiers,
    JsonNumber,
    Message,
    PromptFields,
    content_key,
    parse_prompt,
    parse_row,
)
from selfrewarding.data.scores import as_number, exact, mean

Agreement = Literal["NoneDiscordant", "AllConcordant"]
Target = Literal["NearestMean", "All"]
Disposition = Literal["agrees", "disagrees", "only_score_ties", "only_human_ties", "too_few_judged"]
DISPOSITIONS: tuple[Disposition, ...] = get_args(Disposition)


@dataclass(frozen=True, slots=True)
class RankedJudgement:
    """A judgement of a ranked answer: its text and its score, None if it is invalid."""

    text: str
    score: Fraction | None


@dataclass(frozen=True, slots=True)
class RankedJudgedResponse:
    """An answer with its human rank (lower is better) and its judgements."""

    text: str
    human_rank: int
    judgements: tuple[RankedJudgement, ...]

    @property
    def mean(self) -> Fraction | None:
        """Exact mean of the valid judgements; None if there is none."""
        return mean(judgement.score for judgement in self.judgements)


@dataclass(frozen=True, slots=True)
class RankedJudgedPrompt:
    """A prompt with ranked and judged answers."""

    id: str | int
    prompt: tuple[Message, ...]
    responses: tuple[RankedJudgedResponse, ...]


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How EFT rows are made.

    Attributes:
        agreement: NoneDiscordant (the default, number rule 1), or AllConcordant: every pair that people ranked must be
            ranked alike, equal means are not enough.
        target: NearestMean: one judgement per answer; All: every valid judgement.
        most_common_share: the most common score is thinned out to at most this share of the rows; 1 keeps all. The
            paper does not state its share.
        minimum: lowest score.
        maximum: highest score.
        decimals: whether 3.5 is a score.
        seed: the run's seed; decides which rows of the most common score stay.
    """

    agreement: Agreement = "NoneDiscordant"
    target: Target = "NearestMean"
    most_common_share: Fraction = Fraction(2, 5)
    minimum: int = 0
    maximum: int = 5
    decimals: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.most_common_share <= 1:
            raise ValueError(f"most_common_share is {self.most_common_share}, expected above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class EvaluationExample:
    """One EFT row: the judge's turn, and the judgement it is to learn."""

    prompt_id: str | int
    response_index: int
    judgement_index: int
    judge_turn: str
    judgement: str
    score: Fraction

    @property
    def key(self) -> str:
        """The row's stable key."""
        return content_key([self.judge_turn, self.judgement])

    def as_row(self) -> dict[str, Any]:
        """Chat messages whose last one is the target, with provenance."""
        return {
            "id": f"{self.prompt_id}/{self.response_index}/{self.judgement_index}",
            "key": self.key,
            "messages": [
                {"role": "user", "content": self.judge_turn},
                {"role": "assistant", "content": self.judgement},
            ],
            "score": as_number(self.score),
            "provenance": {
                "prompt": self.prompt_id,
                "response_index": self.response_index,
                "judgement_index": self.judgement_index,
            },
        }


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What became of the prompts, and the score distribution before and after thinning.

    `dispositions` add up to `prompts`; `agreement_rate` is the share of prompts kept of those that the judge could
    agree or disagree on (None if there is none).
    """

    prompts: int
    dispositions: dict[Disposition, int]
    pairs: dict[str, int]
    histogram_before: dict[int, int]
    histogram_after: dict[int, int]
    thinned_score: int | None

    @property
    def agreement_rate(self) -> Fraction | None:
        """Prompts kept, as a share of those that the judge could agree or disagree on."""
        comparable = sum(self.dispositions[name] for name in ("agrees", "disagrees", "only_score_ties"))
        return Fraction(self.dispositions["agrees"], comparable) if comparable else None

    def as_json(self) -> dict[str, Any]:
        """The summary file of `srr data build-evaluations`."""
        rate = self.agreement_rate
        return {
            "prompts": self.prompts,
            "dispositions": dict(self.dispositions),
            "agreement_rate": None if rate is None else float(rate),
            "pairs": dict(self.pairs),
            "rows_before": sum(self.histogram_before.values()),
            "rows_after": sum(self.histogram_after.values()),
            "histogram_before": {str(score): count for score, count in self.histogram_before.items()},
            "histogram_after": {str(score): count for score, count in self.histogram_after.items()},
            "thinned_score": self.thinned_score,
        }


def build_evaluations(
    prompts: Iterable[RankedJudgedPrompt], judge: JudgePrompt, settings: EvaluationSettings
) -> tuple[list[EvaluationExample], EvaluationReport]:
    """EFT rows of all prompts on which the judge agrees with people, in input order, and the report."""
    dispositions: Counter[Disposition] = Counter()
    pairs: Counter[str] = Counter()
    examples: list[EvaluationExample] = []
    count = 0
    for prompt in prompts:
        count += 1
        disposition, order = judge_agreement(prompt, settings.agreement)
        dispositions[disposition] += 1
        pairs.update(order)
        if disposition == "agrees":
            examples.extend(_targets(prompt, judge, settings))
    kept, thinned_score = thin_out(examples, settings)
    return kept, EvaluationReport(
        prompts=count,
        dispositions={name: dispositions[name] for name in DISPOSITIONS},
        pairs={name: pairs[name] for name in ("concordant", "discordant", "score_ties", "human_ties")},
        histogram_before=_histogram(examples, settings),
        histogram_after=_histogram(kept, settings),
        thinned_score=thinned_score,
    )


def judge_agreement(prompt: RankedJudgedPrompt, agreement: Agreement) -> tuple[Disposition, Counter[str]]:
    """Whether the judge's means order the answers as people do, and the counts of pairs it follows from."""
    judged = [
        (value, response.human_rank) for response in prompt.responses if (value := response.mean) is not None
    ]
    order: Counter[str] = Counter()
    for (score, rank), (other_score, other_rank) in combinations(judged, 2):
        if rank == other_rank:
            order["human_ties"] += 1
        elif score == other_score:
            order["score_ties"] += 1
        elif (score > other_score) == (rank < other_rank):
            order["concordant"] += 1
        else:
            order["discordant"] += 1
    if len(judged) < 2:
        return "too_few_judged", order
    if order["discordant"]:
        return "disagrees", order
    if not order["concordant"]:
        return ("only_score_ties" if order["score_ties"] else "only_human_ties"), order
    if agreement == "AllConcordant" and order["score_ties"]:
        return "disagrees", order
    return "agrees", order


def _targets(
    prompt: RankedJudgedPrompt, judge: JudgePrompt, settings: EvaluationSettings
) -> Iterator[EvaluationExample]:
    for response_index, response in enumerate(prompt.responses):
        centre = response.mean
        if centre is None:
            continue
        valid = [
            (abs(judgement.score - centre), index, judgement.score)
            for index, judgement in enumerate(response.judgements)
            if judgement.score is not None
        ]
        for _, index, score in [min(valid)] if settings.target == "NearestMean" else valid:
            yield EvaluationExample(
                prompt_id=prompt.id,
                response_index=response_index,
                judgement_index=index,
                judge_turn=judge.render(prompt.prompt, response.text),
                judgement=target_text(response.judgements[index].text, score, settings),
                score=score,
            )


def target_text(text: str, score: Fraction, settings: EvaluationSettings) -> str:
    """The judgement as it is to be learnt: it ends with its score line.

    What a model rambled after the score is cut off. If the text has no score line (a structured judgement gives its
    justification and its score apart) the line is added.
    """
    judgement = parse_judgement(
        text, minimum=settings.minimum, maximum=settings.maximum, decimals=settings.decimals
    )
    if judgement.end is not None:
        return text[: judgement.end].strip()
    shown = as_number(score) if settings.decimals else _bin(score, settings)
    return f"{text.strip()}\nScore: {shown}".strip()


def thin_out(
    examples: Sequence[EvaluationExample], settings: EvaluationSettings
) -> tuple[list[EvaluationExample], int | None]:
    """Drop rows of the most common score until it has at most its share; the score that was thinned, or None.

    The higher score counts as more common where two are equally so. Which rows stay follows from a hash of seed and
    row, so it does not depend on their order. If all rows have one score nothing is dropped: no share can be reached.
    """
    histogram = _histogram(examples, settings)
    if len(histogram) < 2:
        return list(examples), None
    score, count = max(histogram.items(), key=lambda item: (item[1], item[0]))
    share = settings.most_common_share
    others = len(examples) - count
    allowed = count if share == 1 else int(share * others / (1 - share))
    if count <= allowed:
        return list(examples), None
    common = [example for example in examples if _bin(example.score, settings) == score]
    staying = {
        id(example)
        for example in sorted(common, key=lambda item: content_key([settings.seed, item.key]))[:allowed]
    }
    kept = [
        example for example in examples if _bin(example.score, settings) != score or id(example) in staying
    ]
    return kept, score


def _histogram(examples: Iterable[EvaluationExample], settings: EvaluationSettings) -> dict[int, int]:
    return dict(sorted(Counter(_bin(example.score, settings) for example in examples).items()))


def _bin(score: Fraction, settings: EvaluationSettings) -> int:
    """The whole score that a score counts as: the nearest, upwards from the middle, within the scale."""
    return min(max(int((score + Fraction(1, 2)) // 1), settings.minimum), settings.maximum)


class _JudgementFields(Fields):
    text: str
    score: JsonNumber | None


class _ResponseFields(Fields):
    text: str
    human_rank: int
    judgements: list[_JudgementFields]


class _RankedJudgedFields(PromptFields):
    id: str | int
    responses: list[_ResponseFields]


def read_ranked_judged_prompts(
    rows: Iterable[Row], settings: EvaluationSettings
) -> Iterator[RankedJudgedPrompt]:
    """Rows `{"id", "prompt", "responses": [{"text", "human_rank", "judgements": [{"text", "score"}]}]}`.

    Raises:
        DataError: a field is missing or wrong, a score is outside the scale, or an id stands twice.
    """
    ids = Identifiers()
    for row in rows:
        fields = parse_row(row, _RankedJudgedFields)
        ids.claim(row, fields.id)
        responses = []
        for index, response in enumerate(fields.responses):
            judgements = []
            for position, judgement in enumerate(response.judgements):
                if (
                    judgement.score is not None
                    and not settings.minimum <= judgement.score <= settings.maximum
                ):
                    raise row.error(
                        field=f"responses[{index}].judgements[{position}].score",
                        found=str(judgement.score),
                        expected=f"a score from {settings.minimum} to {settings.maximum}, or null",
                        remedy="Write null for an invalid judgement, or set --min and --max to the judge's scale.",
                    )
                judgements.append(
                    RankedJudgement(
                        judgement.text, None if judgement.score is None else exact(judgement.score)
                    )
                )
            responses.append(RankedJudgedResponse(response.text, response.human_rank, tuple(judgements)))
        yield RankedJudgedPrompt(fields.id, parse_prompt(row, fields.prompt), tuple(responses))

"""Human-ranked answers, judged: what BuildEvaluations and Evaluate have in common.

Purpose: ask the judge about every answer of Prepare's ranked or held-out prompts, and give the rows back. They lie in a log
that belongs to the judge and how it is asked (`row_log`): what is concluded from scores may change without asking again, and
so may the server's longest sequence for all prompts but those that it leaves too little room.
Must not: draw conclusions from the scores (the two stages do).
Neighbours: `judged_rows` does the work; `build_evaluations` and `evaluate` use this.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from selfrewarding.api.algorithm import JudgeSpec
from selfrewarding.data.jsonl import encode_row
from selfrewarding.data.judge_prompt import JudgePrompt, judge_prompt_of
from selfrewarding.data.scores import exact, mean
from selfrewarding.store.results import read_jsonl, require_result
from srr_sampler.asking import Meter, Stage, prefix_cache_report
from srr_sampler.encoders import fixed_encoder, policy_encoder
from srr_sampler.judged_rows import JudgedRows, Question
from srr_sampler.judging import Judge
from srr_sampler.read_back import JudgedAnswer, JudgementCounts, read_back
from srr_sampler.row_log import shared_log

_CONCLUDED = {"samples", "min_valid", "min_valid_rate", "calibration"}
"""Of the judge's settings: how many samples is the caller's to say; what else follows from scores asks for none."""


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """An answer with its human rank (0 is best) and its judgements."""

    text: str
    rank: int
    judged: JudgedAnswer

    @property
    def scores(self) -> list[Fraction | None]:
        """The exact score of each judgement; None where it is invalid."""
        return [None if row["score"] is None else exact(row["score"]) for row in self.judged.judgements]

    def score(self, min_valid: int) -> Fraction | None:
        """The exact mean of the valid judgements; None with fewer than `min_valid` of them."""
        scores = self.scores
        return mean(scores) if sum(score is not None for score in scores) >= min_valid else None


@dataclass(frozen=True, slots=True)
class RankedPrompt:
    """A prompt with its ranked, judged answers."""

    key: str
    messages: Sequence[dict[str, str]]
    answers: list[RankedAnswer]
    category: str | None = None

    def as_row(self) -> dict[str, Any]:
        """The row of the file `judgements.jsonl`."""
        return {
            "key": self.key,
            **({} if self.category is None else {"category": self.category}),
            "prompt": list(self.messages),
            "responses": [
                {"text": answer.text, "rank": answer.rank, "judgements": answer.judged.judgements_json()}
                for answer in self.answers
            ],
        }


@dataclass(frozen=True, slots=True)
class RankedJudgements:
    """All prompts, counts over their judgements, and what belongs into a result's report."""

    prompts: list[RankedPrompt]
    counted: JudgementCounts
    judge_prompt: JudgePrompt
    report: dict[str, object]

    def file(self) -> bytes:
        """The content of `judgements.jsonl`."""
        return b"".join(encode_row(prompt.as_row()) for prompt in self.prompts)


async def judge_ranked(
    stage: Stage, file: str, spec: JudgeSpec, samples: int, meter: Meter | None = None
) -> RankedJudgements:
    """Judge all answers of one of Prepare's files; a file that Prepare did not write has no prompts.

    Where there are none, nobody is asked and no judge is needed. `meter` is that of a stage that has more to do.
    """
    prepare = require_result(stage.store, stage.config.parents["prepare"])
    rows = list(read_jsonl(stage.store, prepare, file)) if file in prepare.files else []
    if not rows:
        return RankedJudgements([], JudgementCounts(), judge_prompt_of(spec), {"samples": samples})
    role, served = stage.served("judge")
    log = shared_log(
        stage,
        {
            "judge": served.name,
            "prompt": judge_prompt_of(spec).digest,
            "how": spec.model_dump(mode="json", by_alias=True, exclude=_CONCLUDED),
            "samples": samples,
        },
    )
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(stage.client(role))
        fixed = spec.model_uri is not None and role == "judge"
        judge = Judge(
            client=client,
            served=served,
            encoder=fixed_encoder(spec.model_uri, field="judge.modelUri", scratch=stage.here.scratch)
            if fixed and spec.model_uri is not None
            else policy_encoder(stage.config, stage.store, stage.here.scratch),
            spec=spec,
            seeds=log.seeds,
            uri=spec.model_uri if fixed else None,
        )
        questions = [_question(row, judge, served.max_model_len) for row in rows]
        before = await client.counters()
        meter = await JudgedRows(log=log, judge=judge, samples=samples).run(
            questions, width=client.capacity, meter=meter
        )
        cache = prefix_cache_report(before, await client.counters())
        repeated = client.repeated
    counted, prompts = JudgementCounts(), []
    for row, (_, answers) in zip(rows, read_back(log, questions), strict=True):
        for answer in answers:
            counted.add(answer)
        prompts.append(
            RankedPrompt(
                str(row["key"]),
                row["prompt"],
                [
                    RankedAnswer(given["text"], int(given["rank"]), answer)
                    for given, answer in zip(row["responses"], answers, strict=True)
                ],
                row.get("category"),
            )
        )
    rate = meter.tokens_per_second()
    return RankedJudgements(
        prompts,
        counted,
        judge.prompt,
        {
            "judge": judge.provenance(),
            "log": log.folder,
            "samples": samples,
            "scores": counted.scores(),
            "invalid": dict(sorted(counted.invalid.items())),
            "validRate": counted.valid_rate,
            "repeatedRequests": repeated,
            **({"tokensPerSecond": round(rate, 2)} if rate is not None else {}),
            **cache,
        },
    )


def _question(row: dict[str, Any], judge: Judge, max_model_len: int) -> Question:
    """A ranked prompt; where a longer context could change a judgement of it, its rows in the log are this length's own."""
    given = tuple(str(answer["text"]) for answer in row["responses"])
    whole = all(judge.has_room(row["prompt"], text) for text in given)
    key = str(row["key"])
    return Question(key if whole else f"{key}@{max_model_len}", row["prompt"], given)

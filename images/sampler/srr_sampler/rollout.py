"""Rollout: N answers to every new prompt, each judged k times, by the model in training.

Purpose: drive `judged_rows` over this pod's share of the prompts; the pod that finishes the last share puts all rows
into one file and commits the result.
Must not: choose pairs (BuildPreferences does).
Neighbours: reads GeneratePrompts' result; `build_preferences` reads the file.

A row of the file: {"key", "prompt": [messages], "responses": [{"text", "finishReason", "seed", "tokens",
"judgements": [{"sample", "round", "text", "score", "reason", "finishReason", "seed", "tokens", "probabilities"?}]}]}.
"""

import contextlib
import json
import math
from fractions import Fraction
from typing import Any

from selfrewarding.api.algorithm import JudgeSpec
from selfrewarding.contract.artifacts import EVIDENCE, PROMPTS, ROLLOUT, ROLLOUT_INDEX, shard_key
from selfrewarding.contract.config import RolloutParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, BadData, Retry, Surroundings
from selfrewarding.contract.result import StageResult
from selfrewarding.data.evidence import evidence_bytes, highest, lowest
from selfrewarding.data.jsonl import encode_row
from selfrewarding.data.judged_measures import Measures, score_piling
from selfrewarding.data.scores import exact, mean
from selfrewarding.store.errors import NotFound
from selfrewarding.store.results import read_jsonl, require_result
from selfrewarding.store.row_index import IndexWriter
from srr_sampler.asking import Meter, Stage, prefix_cache_report, run_asking
from srr_sampler.client import CompletionClient
from srr_sampler.encoders import fixed_encoder, policy_encoder
from srr_sampler.judged_rows import Answerer, JudgedRows, Question, in_shard
from srr_sampler.judging import Judge
from srr_sampler.read_back import JudgedAnswer, JudgementCounts, read_back
from srr_sampler.row_log import own_log

EARLY_JUDGEMENTS = 200
"""After so many judgements a hopeless judge ends the stage, and not only at its end."""


def main(config: StageConfig, here: Surroundings) -> StageResult | None:
    """Run this pod's share; the result if it is complete now, None if other pods are still at work."""
    return run_asking(config, here, _work)


async def _work(stage: Stage) -> StageResult | None:
    parameters = stage.config.parameters
    if not isinstance(parameters, RolloutParameters):
        raise BadConfiguration(f"a Rollout got the parameters of {parameters.kind}")
    prompts = list(
        read_jsonl(stage.store, require_result(stage.store, stage.config.parents["prompts"]), PROMPTS)
    )
    questions = [Question(str(row["key"]), row["prompt"]) for row in prompts]
    shard, shards = stage.here.shard, stage.config.execution.shards
    mine = [question for question in questions if in_shard(question.key, shard, shards)]

    async with contextlib.AsyncExitStack() as stack:
        rollout = await _Rollout.start(stage, parameters, stack)
        meter, cache = await rollout.run(mine)
        _mark(stage, shard, shards)
        if not _all_marked(stage, shards):
            return None
        if shards > 1:
            # A marker may be older than its rows' loss, or of another split: whatever is missing is made here.
            await rollout.run(questions)
        return _commit(stage, rollout, questions, meter, cache)


class _Rollout:
    """The servers and the rows of one pod."""

    def __init__(self, stage: Stage, parameters: RolloutParameters, answerer: Answerer, judge: Judge) -> None:
        self._clients: list[CompletionClient] = []
        self.parameters = parameters
        self.answerer = answerer
        self.judge = judge
        self._rows = JudgedRows(
            log=own_log(stage), judge=judge, samples=parameters.judge.samples, answerer=answerer
        )
        self._valid = self._judgements = 0

    @classmethod
    async def start(
        cls, stage: Stage, parameters: RolloutParameters, stack: contextlib.AsyncExitStack
    ) -> "_Rollout":
        """Load tokenizers and open the clients."""
        encoder, seeds = policy_encoder(stage.config, stage.store, stage.here.scratch), own_log(stage).seeds
        role, served = stage.served("policy")
        policy = await stack.enter_async_context(stage.client(role))
        judge_role, judge_served = stage.served("judge")
        judging = policy if judge_role == role else await stack.enter_async_context(stage.client(judge_role))
        judge_uri = parameters.judge.model_uri
        judge = Judge(
            client=judging,
            served=judge_served,
            encoder=encoder
            if judge_uri is None
            else fixed_encoder(judge_uri, field="judge.modelUri", scratch=stage.here.scratch),
            spec=parameters.judge,
            seeds=seeds,
            uri=judge_uri,
        )
        answerer = Answerer(
            client=policy, served=served, encoder=encoder, spec=parameters.responses, seeds=seeds
        )
        rollout = cls(stage, parameters, answerer, judge)
        rollout._clients = [policy] if judging is policy else [policy, judging]
        return rollout

    async def run(self, questions: list[Question]) -> tuple[Meter, dict[str, object]]:
        """Make all that is missing of these questions; the meter and the judge's prefix cache hit rate."""
        judging = self._clients[-1]
        before = await judging.counters()
        meter = await self._rows.run(
            questions, width=sum(client.capacity for client in self._clients), judged=self._watch
        )
        return meter, prefix_cache_report(before, await judging.counters())

    @property
    def repeated(self) -> int:
        """Requests that had to be sent again."""
        return sum(client.repeated for client in self._clients)

    def _watch(self, valid: bool) -> None:
        """End a hopeless stage early: where even the upper bound of the valid rate is below what is asked for."""
        self._judgements += 1
        self._valid += valid
        if self._judgements >= EARLY_JUDGEMENTS and not self._judgements % 50:
            upper = upper_bound(self._valid, self._judgements)
            if upper < self.parameters.judge.min_valid_rate:
                raise BadData(too_few_valid(self._valid, self._judgements, {}, self.parameters))


def upper_bound(successes: int, trials: int) -> float:
    """Upper end of Wilson's interval for a rate at z = 4: a stage that could still pass is not ended by bad luck."""
    z = 4.0
    rate = successes / trials
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return (rate + z * z / (2 * trials) + spread) / (1 + z * z / trials)


def too_few_valid(valid: int, judgements: int, reasons: dict[str, int], parameters: RolloutParameters) -> str:
    """The message of a stage whose judge does not keep to the format."""
    judge = parameters.judge
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    remedy = (
        "raise serving.maxModelLen, since only judgements that do not fit the context are invalid"
        if judge.format == "Structured"
        else "set judge.format to Structured (always well-formed), raise judge.maxTokens if most are truncated, train "
        "with more EFT examples, or use a dedicated judge (judge.modelUri)"
    )
    return (
        f"{valid} of {judgements} judgements are valid ({100 * valid / max(1, judgements):.1f} %"
        f"{': ' + listed if listed else ''}), judge.minValidRate asks for {100 * judge.min_valid_rate:g} %: {remedy}"
    )


def _mark(stage: Stage, shard: int, shards: int) -> None:
    """Say that this share is complete. The number of shares is in it, since it may differ between attempts."""
    key = shard_key(stage.config.kind, stage.config.key, shard)
    content = json.dumps({"shard": shard, "shards": shards, "pod": stage.here.pod_uid}).encode()
    if not stage.store.create(key, content) and _marked(stage, shard) != shards:
        stage.store.write(key, content)


def _marked(stage: Stage, shard: int) -> int | None:
    try:
        return int(
            json.loads(stage.store.read(shard_key(stage.config.kind, stage.config.key, shard)))["shards"]
        )
    except (NotFound, ValueError, KeyError, TypeError):
        return None


def _all_marked(stage: Stage, shards: int) -> bool:
    return all(_marked(stage, shard) == shards for shard in range(shards))


def _commit(
    stage: Stage,
    rollout: _Rollout,
    questions: list[Question],
    meter: Meter,
    cache: dict[str, object],
) -> StageResult:
    parameters, counted = rollout.parameters, JudgementCounts()
    content, index, seen = bytearray(), IndexWriter(), _Seen(parameters.judge)
    for question, answers in read_back(own_log(stage), questions):
        if len(answers) != parameters.responses.samples or any(answer.answer is None for answer in answers):
            raise Retry(
                f"rows of the prompt {question.key} are not in the store any more: they are made again"
            )
        for answer in answers:
            counted.add(answer)
        seen.add(question.key, answers)
        row = {
            "key": question.key,
            "prompt": list(question.messages),
            "responses": [_response(a) for a in answers],
        }
        content += index.add(question.key, encode_row(row))
    if counted.valid_rate < parameters.judge.min_valid_rate:
        raise BadData(too_few_valid(counted.valid, counted.judgements, counted.invalid, parameters))
    rate = meter.tokens_per_second()
    measures = seen.measures(counted)
    return stage.commit(
        files={
            ROLLOUT: bytes(content),
            ROLLOUT_INDEX: index.content(),
            EVIDENCE: evidence_bytes(measures.evidence),
        },
        counts={
            "prompts": len(questions),
            **counted.counts(),
            "truncatedAnswers": counted.truncated_answers,
        },
        metrics={
            **measures.metrics,
            **({"tokensPerSecond": rate} if rate is not None else {}),
        },
        report={
            "responses": rollout.answerer.provenance(),
            "judge": rollout.judge.provenance(),
            "scores": counted.scores(),
            "invalid": dict(sorted(counted.invalid.items())),
            "repeatedRequests": rollout.repeated,
            **cache,
        },
    )


class _Seen:
    """What of each prompt is needed to measure the whole: a few numbers, not its texts."""

    def __init__(self, judge: JudgeSpec) -> None:
        self._judge = judge
        self._scores: list[tuple[str, list[Fraction]]] = []
        self._valid: list[tuple[str, float]] = []
        self._truncated: list[tuple[str, float]] = []

    def add(self, key: str, answers: list[JudgedAnswer]) -> None:
        """Note a prompt."""
        given = [[row["score"] for row in answer.judgements] for answer in answers]
        valid = [[exact(score) for score in one if score is not None] for one in given]
        enough = [one for one in valid if len(one) >= self._judge.min_valid]
        self._scores.append((key, [score for one in enough if (score := mean(one)) is not None]))
        self._valid.append((key, sum(map(len, valid)) / max(1, sum(map(len, given)))))
        cut = sum((answer.answer or {}).get("finishReason") == "length" for answer in answers)
        self._truncated.append((key, cut / max(1, len(answers))))

    def measures(self, counted: JudgementCounts) -> Measures:
        """`scorePiling` stands here and in BuildPreferences: a judge that always says the same leaves no pair there."""
        found = Measures()
        found.add("validRate", counted.valid_rate, lowest(item for item in self._valid if item[1] < 1))
        found.add(
            "truncatedRate",
            counted.truncated_answers / max(1, counted.answers),
            highest(item for item in self._truncated if item[1]),
        )
        score_piling(self._scores, self._judge.scoring, found)
        return found


def _response(answer: JudgedAnswer) -> dict[str, Any]:
    row = answer.answer or {}
    return {
        **{name: row[name] for name in ("text", "finishReason", "seed", "tokens")},
        "judgements": answer.judgements_json(),
    }

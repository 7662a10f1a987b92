"""Compare: the newest model against earlier ones on the same prompts, both orders (arXiv 2401.10020 section 3.2.1).

Purpose: ask the referee which answer is better, once with each answer in front, until there is a verdict or the tries are
used up; then count. Within a token budget over all attempts; a finished verdict is never asked for again.
Must not: decide what follows from the numbers; turn half an answer, a refusal or silence into a verdict.
Neighbours: `compared_pairs` knows what is missing; `referee` asks; `data.comparison_prompt` words and reads,
`data.head_to_head` counts.

Rows of the log, by key: `<digest of the judge's turn>/<try>`. What is missing follows from the rows alone, and so does
what was used of the budget. The log belongs to the judge and not to the stage: it lies in `stages/Compare/<digest of the
judge and how it is asked>`, so that a stage with a larger budget, more prompts or another opponent pays only for what no
stage before it has asked (`row_log`).
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from selfrewarding.api.evaluation import HeadToHeadSpec
from selfrewarding.contract.artifacts import COMPARISONS, EVIDENCE, METRICS
from selfrewarding.contract.config import CompareParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, Surroundings
from selfrewarding.contract.result import StageResult
from selfrewarding.data.comparison_prompt import ComparisonPrompt, Verdict, comparison_prompt, parse_verdict
from selfrewarding.data.head_to_head import CONVENTIONS, Comparison, head_to_head, position_bias
from selfrewarding.data.intervals import POOLED
from selfrewarding.data.jsonl import encode_row
from selfrewarding.store.chunks import ChunkLog, read_chunks
from srr_sampler.asking import Meter, Stage, run_asking, run_workers
from srr_sampler.chat_endpoint import INCOMPLETE, EndpointRefused
from srr_sampler.compared_pairs import TOO_LONG, Order, Pair, opponents_of, orders_of, read_pairs, restore
from srr_sampler.referee import REFUSED, Referee, Said, Turn, open_referee
from srr_sampler.row_log import RowLog, shared_log
from srr_sampler.sampling import seeds_of
from srr_sampler.token_budget import TokenBudget

LOG = "verdicts"
RETRY_TEMPERATURE = 0.7
"""Of a repeated question: at temperature 0 it would get the same answer again."""
MOST_REFUSED = 3
"""So many refusals before anything was ever answered, and it is not one text that the endpoint dislikes."""
MOST_EVIDENCE = 5
_FLUSH_SECONDS = 0.5
_NEVER_FULL = 256 * 1024 * 1024


def main(config: StageConfig, here: Surroundings) -> StageResult | None:
    """Compare the newest model with its opponents."""
    return run_asking(config, here, _work)


async def _work(stage: Stage) -> StageResult:
    parameters = stage.config.parameters
    if not isinstance(parameters, CompareParameters):
        raise BadConfiguration(f"a Compare got the parameters of {parameters.kind}")
    spec = parameters.head_to_head
    prompt = comparison_prompt(spec.judge.language)
    pairs = read_pairs(stage, spec, prompt)
    async with contextlib.AsyncExitStack() as stack:
        referee = await open_referee(stage, spec, stack)
        log = verdict_log(stage, spec, referee)
        logged = list(read_chunks(log.store, log.folder, log=LOG))
        restore(pairs, logged)
        asker = Asker(spec, referee, pairs, log, answered=any(row["reason"] != REFUSED for row in logged))
        meter = await asker.run()
    provenance = judge_report(referee, spec, prompt)
    rate = meter.tokens_per_second()
    return _committed(
        stage,
        parameters,
        pairs,
        {
            "judge": provenance,
            "verdicts": log.folder,
            "repeatedRequests": referee.repeated,
            "budget": {"tokens": spec.judge.token_budget, "used": asker.budget.used},
            **({"tokensPerSecond": round(rate, 2)} if rate is not None else {}),
        },
    )


def judge_report(referee: Referee, spec: HeadToHeadSpec, prompt: ComparisonPrompt) -> dict[str, Any]:
    """Who compares, and how it is asked."""
    return {
        **referee.provenance(),
        "prompt": prompt.digest,
        "language": spec.judge.language,
        "format": spec.format,
        "temperature": spec.temperature,
        "maxTokens": spec.max_tokens,
    }


def verdict_log(stage: Stage, spec: HeadToHeadSpec, referee: Referee) -> RowLog:
    """What verdicts of one log have in common: who judges, and how it is asked."""
    return shared_log(
        stage,
        {
            "judge": referee.provenance(),
            "format": spec.format,
            "temperature": spec.temperature,
            "maxTokens": spec.max_tokens,
        },
    )


class Asker:
    """Has requests under way until every order has a verdict, its tries are used up, or the budget is."""

    def __init__(
        self, spec: HeadToHeadSpec, referee: Referee, pairs: Sequence[Pair], log: RowLog, *, answered: bool
    ) -> None:
        self._spec, self._referee = spec, referee
        self._pairs, self._log, self._seeds = pairs, log, log.seeds
        rows = [row for order in orders_of(pairs) for row in order.tries]
        self._tokens = sum(row["tokens"]["output"] for row in rows)
        self._answered = answered or any(row["reason"] not in {REFUSED, TOO_LONG} for row in rows)
        self._refused = 0
        self._held: list[dict[str, Any]] = []
        self.budget = TokenBudget(
            spec.judge.token_budget, sum(row["tokens"]["prompt"] + row["tokens"]["output"] for row in rows)
        )

    async def run(self) -> Meter:
        """Ask for all that is missing."""
        # Pairs that share their orders are asked about once.
        missing = list({id(pair.orders["first"]): pair for pair in self._pairs if pair.missing}.values())
        orders = orders_of(self._pairs)
        meter = Meter(
            total=len(orders),
            done=sum(not order.open for order in orders),
            tokens=self._tokens,
            unit="verdicts",
        )
        with ChunkLog(
            self._log.store, self._log.attempt, log=LOG, max_bytes=_NEVER_FULL, max_seconds=_FLUSH_SECONDS
        ) as log:
            await run_workers(
                (partial(self._finish, pair, log, meter) for pair in missing),
                min(self._referee.width, len(missing)),
            )
        meter.report()
        return meter

    async def _finish(self, pair: Pair, log: ChunkLog, meter: Meter) -> None:
        while places := pair.missing:
            orders = [pair.orders[place] for place in places]
            turns = [self._referee.turn(order.text) for order in orders]
            most = sum(turn.most_tokens or 0 for turn in turns)
            # Both orders at once: one verdict without the other would be paid for in vain.
            if not await self.budget.reserve(most):
                return
            rows: list[dict[str, Any] | BaseException] = []
            try:
                rows = await asyncio.gather(
                    *(
                        self._ask(pair.prompt_key, order, turn)
                        for order, turn in zip(orders, turns, strict=True)
                    ),
                    return_exceptions=True,
                )
            finally:
                found = [row for row in rows if not isinstance(row, BaseException)]
                await self.budget.settle(
                    most, sum(row["tokens"]["prompt"] + row["tokens"]["output"] for row in found)
                )
            for order, row in zip(orders, rows, strict=True):
                if isinstance(row, BaseException):
                    continue
                order.tries.append(row)
                self._store(row, log)
                meter.add(done=not order.open, tokens=row["tokens"]["output"])
            for row in rows:
                if isinstance(row, BaseException):
                    raise row

    async def _ask(self, prompt_key: str, order: Order, turn: Turn) -> dict[str, Any]:
        number = len(order.tries)
        seed = self._seeds.of(order.question, number)
        temperature = self._spec.temperature if not number else max(self._spec.temperature, RETRY_TEMPERATURE)
        row: dict[str, Any] = {
            "key": f"{order.question}/{number}",
            "try": number,
            "verdict": None,
            "reason": TOO_LONG,
            "text": "",
            "finishReason": "length",
            "seed": seed,
            "temperature": temperature,
            "tokens": {"prompt": 0, "output": 0},
        }
        if turn.most_tokens is None:
            return row
        try:
            said = await self._referee.ask(
                turn,
                temperature=temperature,
                seed=seed,
                line_seed=self._seeds.of(f"{order.question}/preference", number),
                prefer=prompt_key,
            )
        except EndpointRefused:
            self._refused += 1
            if not self._answered and self._refused >= MOST_REFUSED:
                raise
            said = Said("", REFUSED)
        else:
            self._answered = True
        tokens = {"prompt": said.prompt_tokens, "output": said.output_tokens}
        verdict, reason = _verdict(said)
        if said.finish_reason != REFUSED and not any(tokens.values()):
            # It does not say what it used: the most that it can have been, so that the budget holds.
            tokens = {"prompt": turn.most_tokens - self._spec.max_tokens, "output": self._spec.max_tokens}
            row["tokensEstimated"] = True
        return row | {
            "verdict": verdict,
            "reason": reason,
            "text": said.text,
            "finishReason": said.finish_reason,
            **(
                {"probabilities": {name: round(value, 6) for name, value in said.probabilities.items()}}
                if said.probabilities is not None
                else {}
            ),
            "tokens": tokens,
        }

    def _store(self, row: dict[str, Any], log: ChunkLog) -> None:
        """A refusal is kept back until something was answered: before that the configuration may be at fault, and where
        nothing ever is the next stage asks again. What is too long for this server is not kept at all: the log is read by
        stages whose server takes more."""
        if row["reason"] == TOO_LONG:
            return
        self._held.append(row)
        if self._answered:
            for held in self._held:
                log.append(encode_row(held))
            self._held.clear()


def _verdict(said: Said) -> tuple[Verdict | None, str | None]:
    """The verdict, or why there is none."""
    if said.chosen is not None:
        return said.chosen, None
    if said.finish_reason in {INCOMPLETE, REFUSED}:
        return None, said.finish_reason
    # Only the generated text is looked at, never the prompt: an answer cannot vote for itself.
    parsed = parse_verdict(said.text, finish_reason=said.finish_reason)
    return parsed.verdict, parsed.reason


def _committed(
    stage: Stage, parameters: CompareParameters, pairs: Sequence[Pair], report: dict[str, object]
) -> StageResult:
    """The result, from the verdicts alone: the same for a run that was killed and one that was not."""
    comparisons = [pair.comparison() for pair in pairs]
    by_opponent: dict[str, list[Comparison]] = {
        role: [one for pair, one in zip(pairs, comparisons, strict=True) if pair.opponent == role]
        for role in dict.fromkeys(pair.opponent for pair in pairs)
    }
    seed = seeds_of(stage.config).of("bootstrap")
    measured = {
        role: {
            "model": _model_name(stage.config, role),
            **head_to_head(rows, resamples=parameters.bootstrap, seed=seed),
        }
        for role, rows in by_opponent.items()
    }
    told: dict[str, dict[str, Any]] = {
        role: measured[same] for role, same in opponents_of(stage.config).items() if same in measured
    }
    bias = position_bias(comparisons, resamples=parameters.bootstrap, seed=seed)
    tries = [row for order in orders_of(pairs) for row in order.tries]
    invalid = Counter(str(row["reason"]) for row in tries if row["verdict"] is None)
    document = {
        "set": parameters.head_to_head.set,
        "judge": report["judge"],
        "opponents": measured,
        **bias,
        "invalid": dict(sorted(invalid.items())),
        "conventions": CONVENTIONS,
    }
    unanswered = sum(pair.unanswered for pair in pairs)
    unasked = sum(bool(pair.missing) for pair in pairs)  # nothing but the budget leaves any
    counts = {
        "prompts": len({pair.prompt_key for pair in pairs}),
        "comparisons": len(pairs),
        "judged": sum(one.preference is not None for one in comparisons),
        "identical": sum(one.identical for one in comparisons),
        "unjudged": sum(one.preference is None for one in comparisons),
        **({"unanswered": unanswered} if unanswered else {}),
        **({"overBudget": unasked} if unasked else {}),
        "verdicts": len(tries) - invalid.total(),
        "invalid": invalid.total(),
        "retried": sum(row["try"] > 0 for row in tries),
        "promptTokens": sum(row["tokens"]["prompt"] for row in tries),
        "outputTokens": sum(row["tokens"]["output"] for row in tries),
    }
    return stage.commit(
        files={
            COMPARISONS: b"".join(encode_row(pair.as_row()) for pair in pairs),
            METRICS: _json(document),
            EVIDENCE: _json(_evidence(comparisons)),
        },
        counts=counts,
        metrics=_summary(told, bias),
        report={
            **report,
            "invalid": dict(sorted(invalid.items())),
            "intervals": {role: one["intervals"] for role, one in told.items()} | {POOLED: bias["intervals"]},
            "undefined": {role: one["undefined"] for role, one in told.items()},
            "tokensEstimated": sum("tokensEstimated" in row for row in tries),
        },
    )


def _summary(told: Mapping[str, dict[str, Any]], bias: dict[str, Any]) -> dict[str, float]:
    """The metrics that are defined, as shares; why others are not stands in the report."""
    named = {
        "winRate": told.get("previous", {}).get("win_rate"),
        "winRateLengthControlled": told.get("previous", {}).get("length_controlled_win_rate"),
        "winRateInitial": told.get("initial", {}).get("win_rate"),
        "winRateBaseline": told.get("baseline", {}).get("win_rate"),
        "positionBias": bias["position_bias"],
    }
    return {name: value / 100 for name, value in named.items() if value is not None}


def _evidence(comparisons: Sequence[Comparison]) -> dict[str, list[dict[str, Any]]]:
    """The rows that show each number best: those that kept to a place, and those that the newest model lost."""
    biased = [{"key": one.key, "value": 1.0} for one in comparisons if one.place is not None]
    judged = [one for one in comparisons if one.preference is not None and one.key.startswith("previous/")]
    lost = sorted(judged, key=lambda one: (one.preference or 0.0, one.key))
    return {
        "positionBias": biased[:MOST_EVIDENCE],
        "winRate": [{"key": one.key, "value": one.preference} for one in lost[:MOST_EVIDENCE]],
    }


def _model_name(config: StageConfig, role: str) -> str:
    return "Baseline" if role == "baseline" else f"M{config.parents[role].iteration}"


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

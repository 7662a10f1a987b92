"""Select: which candidate of a DPO training goes on (`dpo.earlyStopping`, arXiv 2401.10020 section 3.1.3).

Purpose: each candidate against the one before it on the same prompts, both orders, until one does not win more than half;
then name the model. It stays where its training wrote it: the result says where (`store.models`).
Must not: copy weights; take a comparison without a verdict for one.
Neighbours: `answer` wrote the answers; `compare` has the asking, its log of verdicts and its budget, which is one for all
steps here; `data.early_stopping` has the rule.
"""

import contextlib
import json
from collections import Counter
from typing import Any

from selfrewarding.contract.artifacts import COMPARISONS, METRICS
from selfrewarding.contract.config import SelectParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, BadData, Surroundings
from selfrewarding.contract.result import StageResult
from selfrewarding.data.comparison_prompt import ComparisonPrompt, comparison_prompt
from selfrewarding.data.early_stopping import Walk, walk
from selfrewarding.data.head_to_head import CONVENTIONS, head_to_head
from selfrewarding.data.jsonl import encode_row
from selfrewarding.store.chunks import read_chunks
from selfrewarding.store.models import CHOSEN, choice
from srr_sampler.asking import Stage, run_asking
from srr_sampler.compare import LOG, Asker, judge_report, verdict_log
from srr_sampler.compared_pairs import Order, Pair, orders_of, read_step, restore, share_orders
from srr_sampler.referee import REFUSED, Referee, open_referee
from srr_sampler.row_log import RowLog
from srr_sampler.sampling import seeds_of


def main(config: StageConfig, here: Surroundings) -> StageResult | None:
    """Choose among the candidates of a training."""
    return run_asking(config, here, _work)


async def _work(stage: Stage) -> StageResult:
    parameters = stage.config.parameters
    if not isinstance(parameters, SelectParameters):
        raise BadConfiguration(f"a Select got the parameters of {parameters.kind}")
    spec = parameters.head_to_head
    prompt = comparison_prompt(spec.judge.language)
    async with contextlib.AsyncExitStack() as stack:
        referee = await open_referee(stage, spec, stack)
        log = verdict_log(stage, spec, referee)
        steps = _Steps(stage, parameters, prompt, referee, log)
        found = await walk(len(parameters.folders), steps.win_rate)
    return _committed(
        stage,
        parameters,
        steps,
        found,
        {
            "judge": judge_report(referee, spec, prompt),
            "verdicts": log.folder,
            "repeatedRequests": referee.repeated,
            "budget": {"tokens": spec.judge.token_budget, "used": steps.used},
        },
    )


class _Steps:
    """The comparisons of neighbouring candidates, one step after the other."""

    def __init__(
        self,
        stage: Stage,
        parameters: SelectParameters,
        prompt: ComparisonPrompt,
        referee: Referee,
        log: RowLog,
    ) -> None:
        self._stage, self._parameters, self._prompt = stage, parameters, prompt
        self._referee, self._log = referee, log
        self._logged = list(read_chunks(log.store, log.folder, log=LOG))
        self._known: dict[str, Order] = {}
        self.pairs: list[Pair] = []
        """Of all steps so far."""
        self.measured: list[dict[str, Any]] = []
        """What `head_to_head` says of each step."""
        self.used = 0
        """Tokens of the budget."""

    async def win_rate(self, number: int) -> float:
        """That of candidate `number` against the one before. Raises BadData without a verdict, and as `Asker`."""
        spec = self._parameters.head_to_head
        older = f"candidate-{number - 1}"
        pairs = read_step(self._stage, spec, self._prompt, newer=f"candidate-{number}", older=older)
        restore(pairs, self._logged)
        share_orders(pairs, self._known)
        self.pairs += pairs
        answered = any(row["reason"] != REFUSED for row in self._logged)
        asker = Asker(spec, self._referee, self.pairs, self._log, answered=answered)
        await asker.run()
        self.used = asker.budget.used
        measured = head_to_head(
            [pair.comparison() for pair in pairs],
            resamples=self._parameters.bootstrap,
            seed=seeds_of(self._stage.config).of(f"bootstrap/{number}"),
        )
        self.measured.append({"candidate": number, "against": number - 1, **measured})
        if measured["win_rate"] is None:
            raise BadData(self._why_not(number, pairs))
        return float(measured["win_rate"]) / 100

    def _why_not(self, number: int, pairs: list[Pair]) -> str:
        budget = self._parameters.head_to_head.judge.token_budget
        what = f"of the comparisons of candidate {number} with candidate {number - 1} none has a verdict in both orders"
        if budget is not None and any(pair.missing for pair in pairs):
            return (
                f"{what}: evaluation.headToHead.judge.tokenBudget of {budget} is used up ({self.used}); raise it, or lower "
                "dpo.earlyStopping.candidates or evaluation.headToHead.prompts"
            )
        reasons = Counter(
            str(row["reason"]) for order in orders_of(pairs) for row in order.tries if row["verdict"] is None
        )
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none was asked"
        return (
            f"{what} ({listed}): try evaluation.headToHead.format Structured, a higher evaluation.headToHead.maxTokens, or "
            "another evaluation.headToHead.judge"
        )


def _committed(
    stage: Stage, parameters: SelectParameters, steps: _Steps, found: Walk, report: dict[str, object]
) -> StageResult:
    """The result, from the verdicts alone: the same for a run that was killed and one that was not."""
    count = len(parameters.folders)
    comparisons = [pair.comparison() for pair in steps.pairs]
    tries = [row for order in orders_of(steps.pairs) for row in order.tries]
    invalid = sum(row["verdict"] is None for row in tries)
    document = {
        "set": parameters.head_to_head.set,
        "judge": report["judge"],
        "chosen": found.chosen,
        "candidates": count,
        "steps": steps.measured,
        "conventions": CONVENTIONS,
    }
    return stage.commit(
        files={
            COMPARISONS: b"".join(encode_row(pair.as_row()) for pair in steps.pairs),
            METRICS: (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
        },
        counts={
            "candidates": count,
            "comparisons": len(comparisons),
            "judged": sum(one.preference is not None for one in comparisons),
            "identical": sum(one.identical for one in comparisons),
            "unjudged": sum(one.preference is None for one in comparisons),
            "verdicts": len(tries) - invalid,
            "invalid": invalid,
            "promptTokens": sum(row["tokens"]["prompt"] for row in tries),
            "outputTokens": sum(row["tokens"]["output"] for row in tries),
        },
        metrics={
            "selected": float(found.chosen),
            **{f"winRateOfCandidate{number}": rate for number, rate in enumerate(found.win_rates, start=2)},
        },
        report={
            **report,
            CHOSEN: choice(stage.config.parents["trained"], parameters.folders[found.chosen - 1]),
            "chosen": f"candidate {found.chosen} of {count}",
            "steps": [
                {
                    "candidate": one["candidate"],
                    "against": one["against"],
                    "winRate": rate,
                    "interval": one["intervals"]["win_rate"],
                }
                for one, rate in zip(steps.measured, found.win_rates, strict=True)
            ],
        },
    )

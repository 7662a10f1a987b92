"""A finished run in a folder store, made of rows as the stages write them: for the report and what else reads runs.

The texts are invented; the numbers fit together (pairs come from the rollout's rows by the real rule).
"""

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.support.builders import make_spec, merged

from selfrewarding.api.run import AlarmStatus, Metrics, ModelStatus
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.artifacts import (
    COMPARISONS,
    EVIDENCE,
    JUDGEMENTS,
    METRICS,
    PAIRS,
    PROMPTS,
    ROLLOUT,
    stage_prefix,
)
from selfrewarding.contract.config import RunRef, StageRef, Story
from selfrewarding.contract.result import FileRef, StageResult, result_bytes, result_digest
from selfrewarding.contract.stages import StageKind
from selfrewarding.data.head_to_head import Comparison, head_to_head
from selfrewarding.data.metrics import ScoredPrompt, judge_metrics
from selfrewarding.data.pairs import PairSettings, build_pairs
from selfrewarding.store.folder import FolderStore
from srr_sampler.build_preferences import judged_prompt

START = datetime(2026, 3, 2, 8, 0, 0, tzinfo=UTC)
TOPICS = (
    "tides",
    "sourdough",
    "bond prices",
    "a compiler",
    "old maps",
    "vaccines",
    "jazz",
    "rivers",
    "budgets",
    "bees",
)
ASKS = (
    "Explain {} to a twelve-year-old, with one example.",
    "What are three common mistakes people make with {}?",
    "Write a short, friendly email that introduces {} to new colleagues.",
    "Compare two ways of learning about {} and say which you would choose.",
    "{}에 대해 두 문장으로 설명해 주세요.",
)
WORDS = re.findall(
    r"\w+",
    "the a of and to in that is it for as with on be by this are from or an which one have not more about can when "
    "there their what all some time into only other then now like well first because through between these both",
)
TextOf = Callable[[int, int], str]
"""Number of the prompt and of the answer → the answer's text."""


@dataclass
class FinishedRun:
    """A store with the finished stages of a run, and what the planner would tell its Report."""

    store: FolderStore
    run: RunRef
    stages: dict[str, StageRef]
    story: Story
    results: dict[str, StageResult] = field(default_factory=dict)

    def copied_to(self, folder: Path) -> "FinishedRun":
        """The same run in another folder, to be spoilt."""
        shutil.copytree(self.store.root, folder)
        return FinishedRun(FolderStore(folder), self.run, dict(self.stages), self.story, dict(self.results))

    def path(self, role: str, name: str) -> Path:
        """Where a file of a stage lies: to be spoilt."""
        result = self.results[role]
        return self.store.root / stage_prefix(result.kind, result.key) / result.files[name].path

    def result_path(self, role: str) -> Path:
        """Where a stage's result.json lies."""
        result = self.results[role]
        return self.store.root / stage_prefix(result.kind, result.key) / "result.json"


def finished_run(
    folder: Path,
    *,
    iterations: int = 3,
    prompts: int = 60,
    spec: Mapping[str, Any] | None = None,
    text_of: TextOf | None = None,
    alarms: Iterable[AlarmStatus] = (),
    gpus: int = 4,
    seed: int = 1,
) -> FinishedRun:
    """A run of `iterations`, each with so many prompts, in `folder`."""
    return _Maker(folder, random.Random(seed), text_of, gpus).run(
        iterations, prompts, merged(_COMPARED | {"iterations": iterations}, spec or {}), list(alarms)
    )


_COMPARED: dict[str, Any] = {
    "evaluation": {"headToHead": {"judge": {"modelUri": "s3://models/referee-70b"}}},
}


class _Maker:
    def __init__(self, folder: Path, source: random.Random, text_of: TextOf | None, gpus: int) -> None:
        self._store = FolderStore(folder)
        self._random = source
        self._text_of = text_of
        self._gpus = gpus
        self._now = START
        self._stages: dict[str, StageRef] = {}
        self._results: dict[str, StageResult] = {}
        self._held: dict[str, int] = {}
        self._handover: dict[str, float] = {}

    def run(
        self, iterations: int, prompts: int, spec: Mapping[str, Any], alarms: list[AlarmStatus]
    ) -> FinishedRun:
        data = {
            "instructions": "1f0c2b7d9a44",
            "ranked": "77aa02c1e9bd",
            "heldOut": "c03d5e1f8a20",
            "model": "9be1d4477c02",
        }
        self._stage(StageKind.PREPARE, 0, seconds=40, gpus=0, data=data)
        models = [
            self._first(prompts),
            *(self._later(number, prompts) for number in range(2, iterations + 1)),
        ]
        return FinishedRun(
            store=self._store,
            run=RunRef(namespace="lab", name="demo", uid="run-uid"),
            stages=self._stages,
            story=Story(
                spec=make_spec(spec),
                models=models,
                alarms=alarms,
                gpus=self._held,
                handover_seconds=self._handover,
            ),
            results=self._results,
        )

    def _first(self, prompts: int) -> ModelStatus:
        self._stage(
            StageKind.TRAIN_BASELINE, 1, seconds=1900, gpus=self._gpus, counts={"tokens": 2_400_000, "steps": 120},
            metrics={"loss": 1.31},
        )  # fmt: skip
        self._pause(70)
        scores = {"0": 11, "1": 92, "2": 240, "3": 611, "4": 902, "5": 144}
        self._stage(
            StageKind.BUILD_EVALUATIONS, 1, seconds=700, gpus=self._gpus, handover=70,
            counts={"prompts": 500, "answers": 2000, "judgements": 6000, "valid": 5610, "evaluations": 320,
                    "promptTokens": 5_100_000, "outputTokens": 720_000},
            report={"scores": scores},
        )  # fmt: skip
        self._pause(45)
        self._stage(
            StageKind.SUPERVISED_FINE_TUNE, 1, seconds=2100, gpus=self._gpus, handover=45,
            counts={"tokens": 2_900_000, "steps": 140}, metrics={"loss": 1.22},
        )  # fmt: skip
        self._evaluate(1)
        return self._model(1, prompts)

    def _later(self, number: int, prompts: int) -> ModelStatus:
        rows = list(self._rows(number, prompts))
        rollout_bytes = b"".join(_line(row) for row in rows)
        settings = PairSettings()
        judged = [judged_prompt(row) for row in rows]
        outcomes = [build_pairs(one, settings) for one in judged]
        pairs = [row for outcome in outcomes for row in outcome.rows()]
        histogram: dict[str, int] = {}
        for one in judged:
            for response in one.responses:
                score = f"{sum(map(float, response.scores)) / len(response.scores):.1f}"  # type: ignore[arg-type]
                histogram[score] = histogram.get(score, 0) + 1
        histogram = dict(sorted(histogram.items(), key=lambda item: float(item[0])))
        judgements = sum(len(response.scores) for one in judged for response in one.responses)
        self._stage(
            StageKind.GENERATE_PROMPTS, number, seconds=900, gpus=self._gpus,
            counts={"prompts": len(rows), "requests": 2 * len(rows), "similar": len(rows) // 3,
                    "promptTokens": 1_400_000, "outputTokens": 310_000},
            files={PROMPTS: b"".join(_line({"key": row["key"], "prompt": row["prompt"]}) for row in rows)},
        )  # fmt: skip
        self._stage(
            StageKind.ROLLOUT, number, seconds=5400, gpus=self._gpus,
            counts={"prompts": len(rows), "answers": 4 * len(rows), "judgements": judgements, "valid": judgements,
                    "promptTokens": 22_000_000 * number, "outputTokens": 9_100_000 * number, "truncatedAnswers": 12},
            metrics={"validRate": 1.0, "truncatedRate": 0.01, "meanLength": 900.0 + 120 * number},
            files={
                ROLLOUT: rollout_bytes,
                EVIDENCE: json.dumps({"validRate": [{"key": rows[0]["key"], "value": 0.5}]}).encode(),
            },
        )  # fmt: skip
        ties = sum(outcome.outcome == "ties" for outcome in outcomes)
        evidence = {"scoreLengthCorrelation": [{"key": row["key"], "value": 5.0} for row in pairs[:3]]}
        self._stage(
            StageKind.BUILD_PREFERENCES, number, seconds=12, gpus=0,
            counts={"prompts": len(rows), "pairs": len(pairs), "promptsWithPairs": len(rows) - ties,
                    **({"ties": ties} if ties else {})},
            metrics={"tieRate": ties / len(rows), "pairYield": len(pairs) / len(rows), "scoreLengthCorrelation": 0.21,
                     "scorePiling": max(histogram.values()) / sum(histogram.values())},
            report={"scoreHistogram": histogram},
            files={PAIRS: b"".join(_line(row) for row in pairs), EVIDENCE: json.dumps(evidence).encode()},
        )  # fmt: skip
        self._pause(95)
        self._stage(
            StageKind.PREFERENCE_OPTIMIZE, number, seconds=2600, gpus=self._gpus, handover=107,
            counts={"tokens": 3_300_000, "steps": 90}, metrics={"loss": 0.52, "rewardMargin": 0.81},
        )  # fmt: skip
        self._evaluate(number)
        self._compare(number)
        return self._model(number, prompts)

    def _rows(self, number: int, prompts: int) -> Iterator[dict[str, Any]]:
        for index in range(prompts):
            topic = TOPICS[(index * 7 + number) % len(TOPICS)]
            key = hashlib.sha256(f"{number}/{index}".encode()).hexdigest()
            yield {
                "key": key,
                "prompt": [{"role": "user", "content": ASKS[index % len(ASKS)].format(topic)}],
                "responses": [self._response(number, index, answer) for answer in range(4)],
            }

    def _response(self, number: int, prompt: int, answer: int) -> dict[str, Any]:
        text = self._text_of(prompt, answer) if self._text_of else self._words(60 + 40 * answer)
        score = min(5, max(0, round(self._random.gauss(2.6 + 0.3 * number, 1.1))))
        judgements = [
            {"sample": sample, "round": 0, "text": f"{self._words(45)}\nScore: {score}", "score": score,
             "reason": None, "finishReason": "stop", "seed": 11 + sample, "tokens": {"prompt": 300, "output": 60}}
            for sample in range(3)
        ]  # fmt: skip
        return {
            "text": text, "finishReason": "stop", "seed": 5 + answer, "tokens": {"prompt": 30, "output": 200},
            "judgements": judgements,
        }  # fmt: skip

    def _words(self, count: int) -> str:
        words = self._random.choices(WORDS, k=self._random.randint(count // 2, count))
        return " ".join(words).capitalize() + "."

    def _evaluate(self, number: int) -> None:
        self._pause(50)
        scored = [
            ScoredPrompt(
                f"h{index}",
                tuple(
                    (
                        Fraction(
                            max(
                                0, min(5, round(4 - rank * (0.3 + 0.2 * number) + self._random.gauss(0, 1.3)))
                            )
                        ),
                        rank,
                    )
                    for rank in range(4)
                ),
                "reasoning" if index % 3 else "writing",
            )
            for index in range(80)
        ]
        document = judge_metrics(scored, resamples=200, seed=3)
        self._stage(
            StageKind.EVALUATE, number, seconds=420, gpus=self._gpus, handover=50,
            counts={"prompts": 80, "pairs": 480, "promptTokens": 900_000, "outputTokens": 150_000},
            metrics={
                "pairwiseAccuracy": document["pairwise_accuracy"] / 100, "fiveBest": document["five_best"] / 100,
                "exactMatch": document["exact_match"] / 100, "spearman": document["spearman"],
                "kendallTau": document["kendall_tau"], "validRate": 0.97,
            },
            report={"intervals": document["intervals"], "undefined": document["undefined"]},
            files={
                METRICS: json.dumps(document).encode(),
                JUDGEMENTS: b"".join(_line(_held_out(prompt, number)) for prompt in scored[:5]),
                EVIDENCE: json.dumps(
                    {name: [{"key": f"h{index}", "value": 0.1 * index} for index in range(3)]
                     for name in ("spearman", "validRate")}
                ).encode(),
            },
        )  # fmt: skip

    def _compare(self, number: int) -> None:
        self._pause(60)
        opponents = {"previous": 0.10, **({"initial": 0.14} if number > 2 else {}), "baseline": 0.2}
        models = {"previous": f"M{number - 1}", "initial": "M1", "baseline": "Baseline"}
        found = {role: {"model": models[role], **self._against(edge)} for role, edge in opponents.items()}
        told = {"initial": found["previous"]} | found  # M2 is made from M1
        bias = sum(one["position_bias"] for one in found.values()) / len(found)
        self._stage(
            StageKind.COMPARE, number, seconds=380, gpus=self._gpus, handover=60,
            counts={"prompts": 200, "comparisons": 200 * len(found), "promptTokens": 700_000, "outputTokens": 90_000},
            metrics={
                "winRate": found["previous"]["win_rate"] / 100, "winRateBaseline": found["baseline"]["win_rate"] / 100,
                "winRateInitial": told["initial"]["win_rate"] / 100, "positionBias": bias / 100,
            },
            report={
                "intervals": {role: one["intervals"] for role, one in told.items()}
                | {"all": {"position_bias": [bias - 3.0, bias + 3.0]}}
            },
            files={
                METRICS: json.dumps({"opponents": found}).encode(),
                COMPARISONS: _line({"key": "previous/p0", "prompt": [ASKS[1].format("bees")]}),
                EVIDENCE: json.dumps({"positionBias": [{"key": "previous/p0", "value": 1.0}]}).encode(),
            },
        )  # fmt: skip

    def _against(self, edge: float) -> dict[str, Any]:
        def verdict() -> bool:
            return self._random.random() < 0.5 + edge

        rows = [
            Comparison(
                key=f"p{index}", shown_first="A" if verdict() else "B", shown_second="B" if verdict() else "A",
                length=self._random.randint(200, 1500), other_length=self._random.randint(200, 1400),
                category="math" if index % 4 else "writing",
            )
            for index in range(200)
        ]  # fmt: skip
        return head_to_head(rows, resamples=200, seed=5)

    def _model(self, number: int, prompts: int) -> ModelStatus:
        kind = StageKind.SUPERVISED_FINE_TUNE if number == 1 else StageKind.PREFERENCE_OPTIMIZE
        trained = self._results[f"{kind}-{number}"]
        evaluate = self._results[f"{StageKind.EVALUATE}-{number}"]
        known = {name: evaluate.metrics[name] for name in ("pairwiseAccuracy", "spearman")}
        return ModelStatus(
            name=f"M{number}",
            iteration=number,
            uri=f"{self._store.uri}/{stage_prefix(kind, trained.key)}",
            digest=self._stages[f"{kind}-{number}"].digest,
            metrics=Metrics.model_validate(known),
            gate="Promoted",
        )

    def _parents(self, kind: StageKind, number: int) -> dict[str, str]:
        """Digests of what the stage reads, by role, as the planner gives them."""
        before = (
            f"{StageKind.PREFERENCE_OPTIMIZE}-{number - 1}"
            if number > 2
            else f"{StageKind.SUPERVISED_FINE_TUNE}-1"
        )
        trained = (
            f"{StageKind.SUPERVISED_FINE_TUNE if number == 1 else StageKind.PREFERENCE_OPTIMIZE}-{number}"
        )
        roles = {
            StageKind.TRAIN_BASELINE: {},
            StageKind.BUILD_EVALUATIONS: {"model": f"{StageKind.TRAIN_BASELINE}-1"},
            StageKind.SUPERVISED_FINE_TUNE: {"evaluations": f"{StageKind.BUILD_EVALUATIONS}-1"},
            StageKind.GENERATE_PROMPTS: {"model": before},
            StageKind.ROLLOUT: {"model": before, "prompts": f"{StageKind.GENERATE_PROMPTS}-{number}"},
            StageKind.BUILD_PREFERENCES: {"rollout": f"{StageKind.ROLLOUT}-{number}"},
            StageKind.PREFERENCE_OPTIMIZE: {"model": before, "preferences": f"{StageKind.BUILD_PREFERENCES}-{number}"},
            StageKind.EVALUATE: {"model": trained},
            StageKind.COMPARE: {
                "answers": f"{StageKind.EVALUATE}-{number}", "previous": f"{StageKind.EVALUATE}-{number - 1}",
                "initial": f"{StageKind.EVALUATE}-1",
            },
        }.get(kind)  # fmt: skip
        if roles is None:
            return {}
        named = {"prepare": f"{StageKind.PREPARE}-0"} | roles
        return {role: self._stages[name].digest for role, name in named.items()}

    def _pause(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)

    def _stage(
        self,
        kind: StageKind,
        number: int,
        *,
        seconds: float,
        gpus: int,
        handover: float | None = None,
        counts: dict[str, int] | None = None,
        metrics: dict[str, float] | None = None,
        report: dict[str, object] | None = None,
        files: Mapping[str, bytes] | None = None,
        data: dict[str, str] | None = None,
    ) -> None:
        key = hashlib.sha256(f"{kind}/{number}".encode()).hexdigest()
        prefix, refs = stage_prefix(kind, key), {}
        for name, content in (files or {}).items():
            self._store.write(f"{prefix}/attempts/p/{name}", content)
            digest = hashlib.sha256(content).hexdigest()
            refs[name] = FileRef(path=f"attempts/p/{name}", size=len(content), sha256=digest)
        self._now += timedelta(seconds=seconds)
        result = StageResult(
            contract=CONTRACT_VERSION, kind=kind, iteration=number, key=key, parents=self._parents(kind, number),
            files=refs, counts=counts or {},
            metrics=metrics or {}, data=data or {}, report=report or {}, seconds=seconds,
            finished=self._now.isoformat(timespec="seconds"), pod="p",
        )  # fmt: skip
        content = result_bytes(result)
        self._store.write(f"{prefix}/result.json", content)
        role = f"{kind}-{number}"
        self._stages[role] = StageRef(kind=kind, iteration=number, key=key, digest=result_digest(content))
        self._results[role] = result
        self._held[role] = gpus
        if handover is not None:
            self._handover[role] = handover


def _held_out(prompt: ScoredPrompt, number: int) -> dict[str, Any]:
    """A row of `judgements.jsonl`."""
    asked = [{"role": "user", "content": f"Held-out question {prompt.id}, judged by M{number}?"}]
    return {"key": str(prompt.id), "prompt": asked, "responses": []}


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"

"""A finished run in a folder store, of any size, with rows and results as the stages write them: for lineage and exports."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.support.builders import make_spec

from selfrewarding.api.run import ModelStatus
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.artifacts import (
    ANSWERS,
    COMPARISONS,
    EVALUATIONS,
    HELD_OUT,
    INSTRUCTIONS,
    JUDGEMENTS,
    PAIRS,
    PAIRS_INDEX,
    PROMPTS,
    PROMPTS_INDEX,
    RANKED,
    ROLLOUT,
    ROLLOUT_INDEX,
    stage_prefix,
)
from selfrewarding.contract.config import RunRef
from selfrewarding.contract.result import FileRef, StageResult, result_bytes, result_digest, summary_of
from selfrewarding.contract.stages import StageKind
from selfrewarding.data.evaluations import EvaluationExample
from selfrewarding.data.jsonl import encode_row
from selfrewarding.data.pairs import PairSettings, build_pairs
from selfrewarding.data.rows import Message, content_key
from selfrewarding.data.seed_rows import Instruction, RankedPrompt, RankedResponse
from selfrewarding.report.index import IndexedStage, run_index, write_index
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.references import refer
from selfrewarding.store.row_index import IndexWriter
from srr_sampler.build_preferences import judged_prompt

RUN = RunRef(namespace="lab", name="demo", uid="11111111-2222-3333-4444-555555555555")
SEEDS = 12
SHOTS = 6
NASTY = "\x1b[2J\u202eevil\u202c [bold]brackets[/bold] <script>alert(1)</script>"


class FinishedRun:
    """Stages of a run, written one after the other.

    Args:
        folder: of the store.
        prompts: new prompts of each iteration; each gives one pair.
        iterations: models to make.
        padding: further characters of each answer and judgement.
        judge: address of a dedicated judge; absent: the models judge themselves.
    """

    def __init__(
        self,
        folder: Path,
        *,
        prompts: int = 8,
        iterations: int = 3,
        padding: int = 0,
        judge: str | None = None,
    ) -> None:
        self.store = FolderStore(folder)
        self.padding = padding
        self.judge = judge
        self.results: dict[str, StageResult] = {}
        self.instructions = [
            Instruction(f"line-{n + 1}", (Message("user", f"Seed question {n}?"),), f"Seed answer {n}.")
            for n in range(SEEDS)
        ]
        self.ranked = [_ranked("ranked", n) for n in range(3)]
        self.held_out = [_ranked("held-out", n) for n in range(3)]
        self._prepare()
        self._first_models()
        for number in range(2, iterations + 1):
            self._iteration(number, prompts)

    def digest(self, name: str) -> str:
        """What children of a stage pin."""
        return result_digest(result_bytes(self.results[name]))

    def commit(
        self,
        name: str,
        kind: StageKind,
        iteration: int,
        files: Mapping[str, Iterable[bytes]],
        *,
        parents: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> StageResult:
        """Write files, result and marks; `parents` are names of earlier stages by role."""
        key = hashlib.sha256(name.encode()).hexdigest()
        prefix = stage_prefix(kind, key)
        refs = {logical: self._write(prefix, logical, parts) for logical, parts in files.items()}
        result = StageResult(
            contract=CONTRACT_VERSION,
            kind=kind,
            iteration=iteration,
            key=key,
            parents={role: self.digest(parent) for role, parent in (parents or {}).items()},
            files=refs,
            seconds=12.5,
            finished=f"2026-01-0{iteration + 1}T00:00:00+00:00",
            pod="pod",
            code="0.1.0+0123456789abcdef",
            **fields,
        )
        self.store.write(f"{prefix}/result.json", result_bytes(result))
        refer(self.store, RUN, prefix)
        self.results[name] = result
        return result

    def write_index(self) -> None:
        """The index and what `srr models` and `srr report` read of it, as a report leaves them."""
        trained = {"Baseline": "baseline"} | {name.upper(): name for name in self.results if name[0] == "m"}
        models = [
            ModelStatus(
                name=name, iteration=self.results[stage].iteration, digest=self.digest(stage), gate="Promoted",
                uri=f"{self.store.uri}/{stage_prefix(self.results[stage].kind, self.results[stage].key)}",
            )
            for name, stage in trained.items()
        ]  # fmt: skip
        stages = [
            IndexedStage(kind=one.kind, iteration=one.iteration, key=one.key, summary=summary_of(one))
            for one in self.results.values()
        ]
        write_index(self.store, run_index(RUN, spec=make_spec(), stages=stages, models=models, alarms=[]))

    def _write(self, prefix: str, logical: str, parts: Iterable[bytes]) -> FileRef:
        path = self.store.root / prefix / "attempts/pod" / logical
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with path.open("wb") as target:
            for part in parts:
                target.write(part)
                digest.update(part)
        return FileRef(path=f"attempts/pod/{logical}", size=path.stat().st_size, sha256=digest.hexdigest())

    def take_over(self) -> None:
        """Another Prepare with the same data, and the old one gone: all other stages are another run's, or from before an
        edit of the spec."""
        self.store.delete_prefix(stage_prefix(StageKind.PREPARE, self.results["prepare"].key))
        self._prepare("prepare of this run")
        self.results["prepare"] = self.results.pop("prepare of this run")

    def prepare_again(self) -> None:
        """Prepare's rows as they are now."""
        self._prepare()

    def _prepare(self, name: str = "prepare") -> None:
        files = {
            INSTRUCTIONS: [encode_row(row.as_row()) for row in self.instructions],
            RANKED: [encode_row(row.as_row()) for row in self.ranked],
            HELD_OUT: [encode_row(row.as_row()) for row in self.held_out],
        }
        self.commit(
            name,
            StageKind.PREPARE,
            0,
            files,
            counts={"instructions": SEEDS, "ranked": 3, "heldOut": 3},
            data={"instructions": "a" * 12, "ranked": "b" * 12, "heldOut": "c" * 12, "model": "d" * 12},
            report={
                "model": {"uri": "hf://tiny/model", "origin": "hf://tiny/model@abc"},
                **({"fixedModels": {"judge": {"uri": self.judge, "digest": "e" * 12}}} if self.judge else {}),
            },
        )

    def _model(self, name: str, kind: StageKind, iteration: int, parents: dict[str, str]) -> None:
        self.commit(
            name, kind, iteration, {"model/model.safetensors": [name.encode()], "model/config.json": [b"{}"]},
            parents=parents,
            metrics={"loss": 1.5 / max(1, iteration)}, counts={"rows": 10, "steps": 5},
        )  # fmt: skip

    def _first_models(self) -> None:
        self._model("baseline", StageKind.TRAIN_BASELINE, 1, {"prepare": "prepare"})
        examples = [
            EvaluationExample(row.key, 0, 0, "Judge this.", "Good. Score: 5", Fraction(5))
            for row in self.ranked[:2]
        ]
        self.commit(
            "evaluations", StageKind.BUILD_EVALUATIONS, 1,
            {EVALUATIONS: [encode_row(example.as_row()) for example in examples]},
            parents={"prepare": "prepare", "model": "baseline"},
        )  # fmt: skip
        self._model(
            "m1", StageKind.SUPERVISED_FINE_TUNE, 1, {"prepare": "prepare", "evaluations": "evaluations"}
        )
        self._evaluate(1)

    def _evaluate(self, number: int) -> None:
        self.commit(
            f"evaluate{number}", StageKind.EVALUATE, number,
            {JUDGEMENTS: [encode_row(self._judged_row(row, number)) for row in self.held_out]},
            parents={"prepare": "prepare", "model": f"m{number}"},
            metrics={"pairwiseAccuracy": 0.6 + number / 100, "spearman": 0.3}, counts={"prompts": 3, "pairs": 9},
            report={"intervals": {"pairwise_accuracy": [55.0, 65.0]}, "undefined": {},
                    "judge": {"model": f"m{number}-key", "temperature": 0.7}},
        )  # fmt: skip

    def _judged_row(self, row: RankedPrompt, number: int) -> dict[str, Any]:
        return {
            "key": row.key,
            "prompt": row.as_row()["prompt"],
            "responses": [
                {
                    "text": answer.text, "rank": answer.rank,
                    "judgements": [
                        {"sample": 0, "round": 0, "text": f"M{number} likes it. {NASTY} Score: 4", "score": 4,
                         "reason": None, "seed": 7},
                        {"sample": 1, "round": 0, "text": "Hm.", "score": None, "reason": "missing", "seed": 8},
                    ],
                }
                for answer in row.responses
            ],
        }  # fmt: skip

    def compare(self, number: int, opponents: Mapping[str, int]) -> None:
        """The comparison of a model with others, by role, on the held-out prompts."""
        rows = [
            {
                "key": f"{role}/{row.key}", "opponent": role, "set": "held-out", "id": row.id,
                "prompt": [row.as_row()["prompt"][0]["content"]],
                "answer": [f"By M{number}."], "other": [f"By M{other}."],
                "verdicts": [{"verdict": "A", "tries": [{"verdict": "A", "reason": None, "seed": 5,
                                                         "text": f"The first is better. {NASTY}"}]}] * 2,
                "preference": 1.5,
            }
            for role, other in opponents.items()
            for row in self.held_out
        ]  # fmt: skip
        self.commit(
            f"compare{number}", StageKind.COMPARE, number, {COMPARISONS: [encode_row(row) for row in rows]},
            parents={"prepare": "prepare", "answers": f"evaluate{number}"}
            | {role: f"evaluate{other}" for role, other in opponents.items()},
            report={"judge": {"model": "referee-key", "modelUri": "s3://models/referee", "fixed": True}},
        )  # fmt: skip

    def _iteration(self, number: int, count: int) -> None:
        before, index = f"m{number - 1}", IndexWriter()
        rows = list(self._prompt_rows(number, count))
        self.commit(
            f"prompts{number}", StageKind.GENERATE_PROMPTS, number,
            {PROMPTS: (index.add(row["key"], encode_row(row)) for row in rows), PROMPTS_INDEX: _late(index)},
            parents={"prepare": "prepare", "model": before},
            report={"writer": {"model": f"{before}-key", "temperature": 0.6, "topP": 0.9, "maxTokens": 512}},
        )  # fmt: skip
        answered = IndexWriter()
        settings = {"model": f"{before}-key", "temperature": 0.7, "topP": 0.9, "maxTokens": 1024}
        self.commit(
            f"rollout{number}", StageKind.ROLLOUT, number,
            {
                ROLLOUT: (
                    answered.add(row["key"], encode_row(self._rollout_row(row, at))) for at, row in enumerate(rows)
                ),
                ROLLOUT_INDEX: _late(answered),
            },
            parents={"prepare": "prepare", "model": before, "prompts": f"prompts{number}"},
            report={
                "responses": settings,
                "judge": {**settings, **({"model": "judge-key", "modelUri": self.judge} if self.judge else {}),
                          "prompt": "p" * 64, "scoring": "Sampled"},
            },
        )  # fmt: skip
        paired = IndexWriter()
        self.commit(
            f"preferences{number}", StageKind.BUILD_PREFERENCES, number,
            {
                PAIRS: (
                    paired.add(pair["key"], encode_row(pair))
                    for at, row in enumerate(rows)
                    for pair in self._pairs(self._rollout_row(row, at))
                ),
                PAIRS_INDEX: _late(paired),
            },
            parents={"rollout": f"rollout{number}"}, counts={"pairs": count, "prompts": count},
        )  # fmt: skip
        self._model(
            f"m{number}", StageKind.PREFERENCE_OPTIMIZE, number,
            {"prepare": "prepare", "model": before, "preferences": f"preferences{number}"},
        )  # fmt: skip
        self._evaluate(number)

    def _prompt_rows(self, number: int, count: int) -> Iterator[dict[str, Any]]:
        generated: list[str] = []
        for at in range(count):
            prompt = [{"role": "user", "content": f"New question {number}.{at}: {NASTY}"}]
            shots = [self.instructions[(at + shot) % SEEDS].key for shot in range(SHOTS)]
            key = content_key(prompt)[:24]
            yield {
                "key": key, "id": f"r{at:05d}-0", "prompt": prompt, "shots": [*shots, *generated[-2:]],
                "request": at, "seed": 1000 + at,
            }  # fmt: skip
            generated = [*generated[-1:], key]

    def _rollout_row(self, row: dict[str, Any], at: int) -> dict[str, Any]:
        filler = " word" * (self.padding // 5)
        return {
            "key": row["key"],
            "prompt": row["prompt"],
            "responses": [
                {
                    "text": f"Answer {answer} to {row['key']}.{filler}",
                    "finishReason": "stop",
                    "seed": 4 * at + answer,
                    "tokens": {"prompt": 9, "output": 20},
                    "judgements": [
                        {
                            "sample": sample, "round": 0, "text": f"It is {score}.{filler} Score: {score}",
                            "score": score, "reason": None, "finishReason": "stop", "seed": 90 + sample,
                            "tokens": {"prompt": 30, "output": 20},
                        }
                        for sample, score in enumerate((answer + 1, answer + 2))
                    ],
                }
                for answer in range(4)
            ],
        }  # fmt: skip

    def _pairs(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        return build_pairs(judged_prompt(row), PairSettings()).rows()


def _late(index: IndexWriter) -> Iterator[bytes]:
    """The index, once the rows before it are written."""
    yield index.content()


def _ranked(name: str, number: int) -> RankedPrompt:
    return RankedPrompt(
        f"{name}-{number}",
        (Message("user", f"{name} question {number}?"),),
        (RankedResponse("Better.", 0), RankedResponse("Worse.", 1)),
    )


def answer_row(
    name: str, number: int, turns: int = 1, *, text: str, category: str | None = None
) -> dict[str, Any]:
    """A row of `answers.jsonl`."""
    asked = [f"Question {number}.{turn}: what is {number} plus {turn}?" for turn in range(turns)]
    return {
        "key": content_key([name, number]),
        "set": name,
        "id": str(80 + number),
        **({"category": category} if category else {}),
        "turns": asked,
        "answers": [
            {
                "text": f"{text} {number}.{turn}",
                "finishReason": "stop",
                "seed": 1,
                "tokens": {"prompt": 9, "output": 9},
            }
            for turn in range(turns)
        ],
    }


def with_answers(run: FinishedRun, texts: Mapping[str, str], *, prompts: int = 6) -> None:
    """Let models (m1, m2, …) answer a set of single turns, `alpaca`, and one of two, `mt-bench`."""
    for model, text in texts.items():
        rows = [
            *(answer_row("alpaca", n, text=text, category="helpful_base") for n in range(prompts)),
            *(answer_row("mt-bench", n, 2, text=text, category="writing") for n in range(2)),
        ]
        rows.sort(key=lambda row: (row["set"], row["key"]))
        sampling = {"model": f"{model}-0123456789abcdef", "temperature": 0.7, "topP": 0.9, "maxTokens": 256}
        run.commit(
            f"answers-{model}", StageKind.EVALUATE, run.results[model].iteration,
            {ANSWERS: [encode_row(row) for row in rows]},
            parents={"prepare": "prepare", "model": model}, report={"answers": {"sampling": sampling}},
        )  # fmt: skip

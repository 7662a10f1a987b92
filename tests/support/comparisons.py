"""Compare in tests: models' answers, scripted judges, and what the stage stored of their verdicts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.sampler_stages import Workplace, rows_bytes
from tests.support.scripted_server import Asked, ScriptedServer

from selfrewarding.api.algorithm import EndpointSpec
from selfrewarding.api.evaluation import ComparisonJudgeSpec, HeadToHeadSpec
from selfrewarding.contract.artifacts import ANSWERS, COMPARISONS
from selfrewarding.contract.config import CompareParameters, StageConfig, StageRef
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.chunks import read_rows
from selfrewarding.store.results import read_file
from srr_sampler import compare
from srr_sampler.answers import NO_ROOM

NEW, OLD = "new", "old"


def answered(
    place: Workplace,
    name: str,
    *,
    prompts: int = 6,
    text: str | None = None,
    lengths: int = 1,
    turns: int = 1,
    without_room: Sequence[int] = (),
    kind: StageKind = StageKind.EVALUATE,
) -> StageRef:
    """An Evaluate's (or Answer's) result: a model's answers, each of which begins with the model's name."""
    rows = [
        {
            "key": f"p{number}",
            "set": "held-out",
            "id": f"id-{number}",
            "category": "even" if number % 2 == 0 else "odd",
            "turns": [f"Question {number}.{turn}?" for turn in range(turns)],
            "answers": [
                {
                    "text": ""
                    if number in without_room
                    else text or f"{name} answer {number} " + "x" * (lengths * number),
                    "finishReason": NO_ROOM if number in without_room else "stop",
                    "seed": 1,
                    "tokens": {"prompt": 1, "output": 1},
                }
                for _ in range(turns)
            ],
        }
        for number in range(prompts)
    ]
    return place.parent(kind, name, {ANSWERS: rows_bytes(rows)})


def configure(
    place: Workplace,
    tokenizer: Path,
    *,
    spec: HeadToHeadSpec | None = None,
    servers: Any = ("policy",),
    **parents: StageRef,
) -> StageConfig:
    """Compare's configuration: the new model with the old one, unless other answers are named."""
    parents = parents or {"answers": answered(place, NEW), "previous": answered(place, OLD)}
    return place.config(
        CompareParameters(head_to_head=spec or HeadToHeadSpec(), bootstrap=200),
        servers=servers,
        prepare=place.prepare(tokenizer=tokenizer),
        **parents,
    )


def compared(place: Workplace, config: StageConfig, pod: str = "pod-1") -> StageResult:
    """Compare's result."""
    return place.run(compare.main, config, pod)


def rows_of(place: Workplace, result: StageResult) -> list[dict[str, Any]]:
    """Its comparisons."""
    return place.rows(result, COMPARISONS)


def metrics_of(place: Workplace, result: StageResult) -> dict[str, Any]:
    """Its measures."""
    document: dict[str, Any] = json.loads(read_file(place.store, result, "metrics.json"))
    return document


def shown(asked: Asked) -> tuple[str, str]:
    """The names of the models whose answers stand as A and as B."""
    return tuple(asked.prompt.partition(f"<answer_{label}>\n")[2].split()[0] for label in ("a", "b"))  # type: ignore[return-value]


def prefers(name: str) -> Any:
    """A judge that prefers one model, wherever its answer stands."""

    def reply(asked: Asked, seed: int) -> tuple[str, str]:
        return f"Reasons.\nPreference: {'A' if shown(asked)[0] == name else 'B'}", "stop"

    return reply


def says(text: str, finish: str = "stop") -> Any:
    """A judge that writes the same of all answers."""
    return lambda asked, seed: (text, finish)


def foreign(server: ScriptedServer, *, budget: int | None = None, concurrency: int = 4) -> HeadToHeadSpec:
    """Comparing by an endpoint that is not ours: this server."""
    endpoint = EndpointSpec(
        url=f"{server.url}/v1",
        model=server.model,
        api_key_secret_name="judge",
        max_concurrency=concurrency,
    )
    return HeadToHeadSpec(judge=ComparisonJudgeSpec(endpoint=endpoint, token_budget=budget))


def log_rows(place: Workplace) -> dict[str, bytes]:
    """The rows of all logs of verdicts, by key."""
    folders = {entry.key.split("/attempts/")[0] for entry in place.store.list("stages/Compare")}
    return {row.key: row.data for folder in folders for row in read_rows(place.store, folder, log="verdicts")}


def used(place: Workplace) -> int:
    """The tokens that all stored verdicts cost."""
    rows = [json.loads(data) for data in log_rows(place).values()]
    return sum(row["tokens"]["prompt"] + row["tokens"]["output"] for row in rows)

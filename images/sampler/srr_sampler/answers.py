"""One answer of a model to each prompt that it is compared or benchmarked on, as rows that survive a kill.

Purpose: Evaluate's `answers.jsonl`: the sets of `evaluation.prompts`, and the held-out prompts where models are compared
on them. Turns of a conversation are answered one after the other, each with the answers before it.
Must not: judge; answer a prompt that a set does not hold.
Neighbours: `evaluate` calls this; Prepare wrote the prompts; `compare` and the exports read the answers.

Rows of the log, by key: the digest of what the model sees and of the temperature. The log belongs to the model and how it
is asked, not to the stage (`row_log`): another set of prompts, or a prompt that is in two, asks only for what is new. The
server's longest sequence, which another set may change, is in the key where it leaves less room than the answer may take.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from selfrewarding.api.evaluation import HELD_OUT_SET, AnswersSpec, EvaluationSpec
from selfrewarding.contract.artifacts import ANSWERS, EVALUATION_PROMPTS, HELD_OUT
from selfrewarding.contract.config import ServedModel
from selfrewarding.contract.keys import digest
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.data.jsonl import encode_row
from selfrewarding.data.judge_prompt import conversation_text
from selfrewarding.data.rows import Message, prompt_identity
from selfrewarding.store.chunks import ChunkLog, read_chunks
from selfrewarding.store.results import read_jsonl, require_result
from srr_sampler.asking import Meter, Stage, run_workers
from srr_sampler.client import CompletionClient
from srr_sampler.encoders import Encoder, policy_encoder
from srr_sampler.judging import LEAST_ROOM, as_role
from srr_sampler.row_log import RowLog, shared_log
from srr_sampler.sampling import CompletionRequest, Sampling

LOG = "answers"
FLUSH_SECONDS = 2.0
_NEVER_FULL = 256 * 1024 * 1024
NO_ROOM = "too_long"
"""Finish reason of an answer that was never asked for: the conversation leaves no room in the model's context."""


@dataclass(frozen=True, slots=True)
class AnswerPrompt:
    """A prompt of one set.

    Attributes:
        set: name of the set.
        key: of its row in Prepare's result.
        id: of the row, for exports.
        turns: what the user says, turn by turn, as text.
        messages: the whole conversation, where the prompt is one with a history; it is answered once.
        category: of the prompt, if it has one.
        temperature: that the prompt's benchmark answers it with; None: as all answers are.
    """

    set: str
    key: str
    id: str
    turns: tuple[str, ...]
    messages: tuple[dict[str, str], ...] | None = None
    category: str | None = None
    temperature: float | None = None

    def conversation(self, answers: Sequence[str]) -> list[dict[str, str]]:
        """What the model sees when it answers the turn after those answers."""
        if self.messages is not None:
            return list(self.messages)
        said: list[dict[str, str]] = []
        for turn, answer in zip(self.turns, answers, strict=False):
            said += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
        return [*said, {"role": "user", "content": self.turns[len(answers)]}]


@dataclass(slots=True)
class Answers:
    """What was answered, from the rows in the store alone.

    Attributes:
        rows: of `answers.jsonl`, sorted by set and key.
        report: who answered and how.
    """

    rows: list[dict[str, Any]]
    report: dict[str, object] = field(default_factory=dict)

    def file(self) -> bytes:
        """The content of `answers.jsonl`."""
        return b"".join(encode_row(row) for row in self.rows)

    def counts(self) -> dict[str, int]:
        """Answers, those cut by length, those without room, and tokens."""
        found = [answer for row in self.rows for answer in row["answers"]]
        without_room = sum(answer["finishReason"] == NO_ROOM for answer in found)
        return {
            "answered": len(found),
            "answersCut": sum(answer["finishReason"] == "length" for answer in found),
            **({"answersTooLong": without_room} if without_room else {}),
        }

    def tokens(self) -> tuple[int, int]:
        """Prompt and output tokens."""
        found = [answer["tokens"] for row in self.rows for answer in row["answers"]]
        return sum(one["prompt"] for one in found), sum(one["output"] for one in found)


def is_asked_for(spec: EvaluationSpec) -> bool:
    """Whether the model answers anything when it is evaluated."""
    return bool(spec.prompts) or spec.head_to_head is not None


def answer_prompts(stage: Stage, spec: EvaluationSpec) -> list[AnswerPrompt]:
    """All prompts to answer, in order of set and key. Raises ParentMissing."""
    prepare = require_result(stage.store, stage.config.parents["prepare"])
    found: list[AnswerPrompt] = []
    if spec.prompts:
        wanted = {one.name for one in spec.prompts}
        found += [
            AnswerPrompt(
                set=str(row["set"]),
                key=str(row["key"]),
                id=str(row["id"]),
                turns=tuple(row["turns"]),
                category=row.get("category"),
                temperature=row.get("temperature"),
            )
            for row in read_jsonl(stage.store, prepare, EVALUATION_PROMPTS)
            if row["set"] in wanted
        ]
    head_to_head = spec.head_to_head
    if head_to_head is not None and head_to_head.set == HELD_OUT_SET and HELD_OUT in prepare.files:
        rows = read_jsonl(stage.store, prepare, HELD_OUT)
        found += list(_held_out(rows, head_to_head.prompts))
    return sorted(found, key=lambda prompt: (prompt.set, prompt.key))


def _held_out(rows: Iterable[dict[str, Any]], most: int) -> Iterator[AnswerPrompt]:
    """The first prompts by key, which is a hash of their content; a prompt that stands in several rows once."""
    seen: set[str] = set()
    for row in sorted(rows, key=lambda row: str(row["key"])):
        messages = tuple(Message(as_role(one["role"]), one["content"]) for one in row["prompt"])
        identity = prompt_identity(messages)
        if identity in seen:
            continue
        if len(seen) == most:
            return
        seen.add(identity)
        yield AnswerPrompt(
            set=HELD_OUT_SET,
            key=str(row["key"]),
            id=str(row.get("id", row["key"])),
            turns=(conversation_text(messages),),
            messages=tuple(one.as_json() for one in messages),
            category=row.get("category"),
        )


def turns_of(prompts: Sequence[AnswerPrompt]) -> int:
    """Answers that the prompts ask for."""
    return sum(len(prompt.turns) for prompt in prompts)


async def write_answers(
    stage: Stage, spec: EvaluationSpec, prompts: Sequence[AnswerPrompt], meter: Meter | None = None
) -> Answers:
    """Answer those of the prompts that have no answer yet.

    Args:
        stage: that answers.
        spec: how.
        prompts: in the order of the result's rows.
        meter: of all that the stage does; it expects these turns already. Absent: one of the answers' own.

    Raises BadConfiguration, ParentMissing, Retry.
    """
    how = spec.answers or AnswersSpec()
    total = turns_of(prompts)
    if not total:
        return Answers([], {"prompts": 0})
    role, served = stage.served("policy")
    log = shared_log(
        stage,
        {
            "model": served.name,
            "how": how.model_dump(mode="json", by_alias=True, exclude={"temperature"}),
        },
    )
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(stage.client(role))
        encoder = policy_encoder(stage.config, stage.store, stage.here.scratch)
        writer = _Writer(client, served, encoder, how, log)
        found = [row for prompt in prompts for row in writer.answered(prompt)]
        meter = meter or Meter(total=total, unit="answers")
        meter.expect(done=len(found), tokens=sum(row["tokens"]["output"] for row in found))
        chunks = stack.enter_context(
            ChunkLog(log.store, log.attempt, log=LOG, max_bytes=_NEVER_FULL, max_seconds=FLUSH_SECONDS)
        )
        missing = [prompt for prompt in prompts if len(writer.answered(prompt)) < len(prompt.turns)]
        await run_workers(
            (partial(writer.answer, prompt, chunks, meter) for prompt in missing),
            min(client.capacity, len(missing)),
        )
        meter.report()
    report = {
        "prompts": len(prompts),
        "sampling": writer.provenance(),
        "log": log.folder,
        "repeatedRequests": client.repeated,
    }
    return Answers([_row(prompt, writer.answered(prompt)) for prompt in prompts], report)


def _row(prompt: AnswerPrompt, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    further = {"category": prompt.category, "temperature": prompt.temperature}
    return {
        "key": prompt.key,
        "set": prompt.set,
        "id": prompt.id,
        **{name: value for name, value in further.items() if value is not None},
        "turns": list(prompt.turns),
        "answers": [
            {name: row[name] for name in ("text", "finishReason", "seed", "tokens")} for row in answers
        ],
    }


class _Writer:
    """Answers with the served model, one request per turn; what the log has is not asked again."""

    def __init__(
        self, client: CompletionClient, served: ServedModel, encoder: Encoder, spec: AnswersSpec, log: RowLog
    ) -> None:
        self._client, self._served, self._encoder, self._seeds = client, served, encoder, log.seeds
        self._rows = {str(row["key"]): row for row in read_chunks(log.store, log.folder, log=LOG)}
        self._sampling = Sampling.of(spec, stop_token_ids=encoder.chat.stop_token_ids)
        self._rooms: dict[str, int] = {}
        """Tokens that an answer may have, by the digest of what the model sees."""

    def provenance(self) -> dict[str, Any]:
        """Who answers, and how; a prompt with a temperature of its own says so in its row."""
        return {"model": self._served.name, **self._sampling.as_json()}

    def answered(self, prompt: AnswerPrompt) -> list[dict[str, Any]]:
        """The rows of a prompt's turns, up to the first that has none."""
        found: list[dict[str, Any]] = []
        while len(found) < len(prompt.turns):
            row = self._rows.get(self._key(prompt, found))
            if row is None:
                break
            found.append(row)
        return found

    async def answer(self, prompt: AnswerPrompt, log: ChunkLog, meter: Meter) -> None:
        """Answer the turns of a prompt that have no row yet."""
        while len(before := self.answered(prompt)) < len(prompt.turns):
            key = self._key(prompt, before)
            row = {"key": key, **await self._ask(prompt, key, before)}
            if key not in self._rows:  # else a twin in another set was quicker
                log.append(encode_row(row))
                self._rows[key] = row
            meter.add(done=1, tokens=row["tokens"]["output"])

    def _key(self, prompt: AnswerPrompt, before: Sequence[dict[str, Any]]) -> str:
        seen = prompt.conversation([str(row["text"]) for row in before])
        asked = {"messages": seen, "temperature": self._sampling_of(prompt).temperature}
        key = digest(asked)
        if key not in self._rooms:
            self._rooms[key] = self._served.max_model_len - len(self._encoder.chat.prompt(seen))
        if self._rooms[key] >= self._sampling.max_tokens:
            return key
        return digest(asked | {"maxModelLen": self._served.max_model_len})

    def _sampling_of(self, prompt: AnswerPrompt) -> Sampling:
        if prompt.temperature is None:
            return self._sampling
        return replace(self._sampling, temperature=prompt.temperature)

    async def _ask(self, prompt: AnswerPrompt, key: str, before: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ids = self._encoder.chat.prompt(prompt.conversation([str(row["text"]) for row in before]))
        room = self._served.max_model_len - len(ids)
        seed = self._seeds.of(key)
        if room < LEAST_ROOM:
            # Prepare counted such prompts; a later turn may also be pushed out by the answers before it.
            return {
                "text": "",
                "finishReason": NO_ROOM,
                "seed": seed,
                "tokens": {"prompt": 0, "output": 0},
            }
        sampling = self._sampling_of(prompt).within(room)
        answer = await self._client.complete(
            CompletionRequest(prompt=ids, sampling=sampling, seed=seed), prefer=key
        )
        sample = answer.samples[0]
        return {
            "text": sample.text,
            "finishReason": sample.finish_reason,
            "seed": seed,
            "tokens": {"prompt": answer.prompt_tokens, "output": answer.output_tokens},
        }


def read_answers(stage: Stage, role: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The answers of a parent Evaluate by set and key of the prompt.

    Raises:
        BadConfiguration: the plan names no such parent.
        ParentMissing: the result or its answers are gone.
    """
    ref = stage.config.parents.get(role)
    if ref is None:
        raise BadConfiguration(f"{stage.config.kind} needs the parent {role} and the plan names none")
    rows = read_jsonl(stage.store, require_result(stage.store, ref), ANSWERS)
    return {(str(row["set"]), str(row["key"])): row for row in rows}

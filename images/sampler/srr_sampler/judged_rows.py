"""Answers and their judgements as rows that survive a kill.

Purpose: for every question, every answer (written here, or given) and its judgements: only what is missing is asked
for, an answer is judged as soon as it is there, and each finished row goes to the chunk log (survival rule 3).
Must not: know what the rows are for.
Neighbours: `rollout`, `build_evaluations` and `evaluate` run this and then read the rows back; `judging` judges.

Rows of the log, by key: `<question>/a<i>` an answer, `<question>/a<i>/j<k>` a judgement. Judgements are asked for in
rounds: the first has all samples, each later one as many as are still invalid, with numbers and seeds of their own. So
what is missing follows from the rows alone, and a repeated attempt asks exactly what the first would have asked.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from selfrewarding.api.algorithm import ResponsesSpec
from selfrewarding.contract.config import ServedModel
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.data.jsonl import encode_row
from selfrewarding.store.chunks import ChunkLog, read_rows
from srr_sampler.asking import Meter, run_workers
from srr_sampler.client import CompletionClient
from srr_sampler.encoders import Encoder
from srr_sampler.judging import LEAST_ROOM, TOO_LONG, Judge, Judged
from srr_sampler.row_log import RowLog
from srr_sampler.sampling import CompletionRequest, Sampling, Seeds

LOG = "rows"
FLUSH_SECONDS = 2.0
_NEVER_FULL = 256 * 1024 * 1024
"""Chunks are written by the log's own thread when their time has come, never from the event loop."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with given answers, or with a number of answers to write.

    Attributes:
        key: of its row.
        messages: the conversation that ends in the user's turn.
        given: the answers, or None where they are to be written.
    """

    key: str
    messages: Sequence[Mapping[str, str]]
    given: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """Judgements to ask for in one request: `count` from number `first` on."""

    number: int
    first: int
    count: int


def next_round(valid: Mapping[int, bool], *, samples: int, retries: int) -> Round | None:
    """What is missing of an answer's judgements; None if it is judged.

    Args:
        valid: by judgement number, whether it is valid, of those that are there.
        samples: valid judgements wanted.
        retries: rounds after the first.
    """
    first, missing = 0, samples
    for number in range(retries + 1):
        asked = range(first, first + missing)
        if any(judgement not in valid for judgement in asked):
            return Round(number, first, missing)
        first += missing
        missing -= sum(valid[judgement] for judgement in asked)
        if not missing:
            return None
    return None


@dataclass(slots=True)
class _State:
    """One answer on its way."""

    question: Question
    index: int
    text: str | None
    valid: dict[int, bool] = field(default_factory=dict)
    hopeless: bool = False
    """Judging it again cannot help: the judge prompt does not fit."""

    @property
    def key(self) -> str:
        return answer_key(self.question.key, self.index)


class Answerer:
    """Writes answers with one served model, one request per answer (number rule 14). Raises BadConfiguration."""

    def __init__(
        self,
        *,
        client: CompletionClient,
        served: ServedModel,
        encoder: Encoder,
        spec: ResponsesSpec,
        seeds: Seeds,
    ) -> None:
        self._client = client
        self._served = served
        self._encoder = encoder
        self._seeds = seeds
        self.samples = spec.samples
        self._sampling = Sampling.of(spec, stop_token_ids=encoder.chat.stop_token_ids)

    def provenance(self) -> dict[str, Any]:
        """Who answers, and how."""
        return {"model": self._served.name, **self._sampling.as_json()}

    async def ask(self, question: Question, index: int) -> dict[str, Any]:
        """The row of one answer, without its key."""
        ids = self._encoder.chat.prompt(question.messages)
        room = self._served.max_model_len - len(ids)
        if room < LEAST_ROOM:
            raise BadConfiguration(
                f"the prompt {question.key} has {len(ids)} tokens and leaves no room for an answer in "
                f"{self._served.max_model_len}: raise serving.maxModelLen, or lower promptGeneration.filters.maxWords"
            )
        seed = self._seeds.of(question.key, index)
        # A prompt that leaves less room than responses.maxTokens gets what is left: the answer is marked if it is cut.
        answer = await self._client.complete(
            CompletionRequest(prompt=ids, sampling=self._sampling.within(room), seed=seed),
            prefer=question.key,
        )
        sample = answer.samples[0]
        return {
            "type": "answer",
            "text": sample.text,
            "finishReason": sample.finish_reason,
            "seed": seed,
            "tokens": {"prompt": answer.prompt_tokens, "output": answer.output_tokens},
        }


class JudgedRows:
    """Answers and judges questions; the rows are in the store's chunk log when `run` returns.

    Args:
        log: of the rows.
        judge: asked for judgements.
        samples: valid judgements wanted per answer.
        answerer: writes the answers of questions that have none.
    """

    def __init__(self, *, log: RowLog, judge: Judge, samples: int, answerer: Answerer | None = None) -> None:
        self._log = log
        self._judge = judge
        self._samples = samples
        self._retries = judge.retries
        self._answerer = answerer

    async def run(
        self,
        questions: Sequence[Question],
        *,
        width: int,
        judged: Callable[[bool], None] | None = None,
        meter: Meter | None = None,
    ) -> Meter:
        """Do all that is missing, at most `width` answers at a time; `judged` is told of every judgement's validity.

        `meter` is that of a stage that has more to do. Returns the meter, for what this attempt did.
        """
        rows = {row["key"]: row for row in _stored(self._log)}
        states = [state for question in questions for state in self._states(question, rows)]
        tokens = sum(row["tokens"]["output"] for row in rows.values())
        del rows
        per_answer = self._samples + (self._answerer is not None)
        total, done = len(states) * per_answer, sum(self._done(state) for state in states)
        if meter is None:
            meter = Meter(total=total, done=done, tokens=tokens)
        else:
            meter.expect(total=total, done=done, tokens=tokens)
        missing = [state for state in states if not self._is_done(state)]
        log = ChunkLog(
            self._log.store, self._log.attempt, log=LOG, max_bytes=_NEVER_FULL, max_seconds=FLUSH_SECONDS
        )
        try:
            await run_workers(
                (partial(self._finish, state, log, meter, judged) for state in missing),
                min(width, len(missing)),
            )
        finally:
            log.close()
        meter.report()
        return meter

    def _states(self, question: Question, rows: Mapping[str, dict[str, Any]]) -> Iterator[_State]:
        count = (
            len(question.given)
            if question.given is not None
            else self._answerer.samples
            if self._answerer
            else 0
        )
        for index in range(count):
            key = answer_key(question.key, index)
            text = question.given[index] if question.given is not None else rows.get(key, {}).get("text")
            state = _State(question, index, text)
            for number in range(self._samples * (self._retries + 1)):
                row = rows.get(judgement_key(key, number))
                if row is not None:
                    state.valid[number] = row["score"] is not None
                    state.hopeless = state.hopeless or row["reason"] == TOO_LONG
            yield state

    def _round(self, state: _State) -> Round | None:
        return (
            None if state.hopeless else next_round(state.valid, samples=self._samples, retries=self._retries)
        )

    def _is_done(self, state: _State) -> bool:
        return state.text is not None and self._round(state) is None

    def _done(self, state: _State) -> int:
        if state.text is None:
            return 0
        judgements = self._samples if self._round(state) is None else sum(state.valid.values())
        return judgements + (state.question.given is None)

    async def _finish(
        self, state: _State, log: ChunkLog, meter: Meter, judged: Callable[[bool], None] | None
    ) -> None:
        before = self._done(state)
        if state.text is None:
            if self._answerer is None:
                raise BadConfiguration(f"the question {state.question.key} has no answers")
            row = await self._answerer.ask(state.question, state.index)
            log.append(encode_row({"key": state.key, **row}))
            state.text = row["text"]
            meter.add(done=1, tokens=row["tokens"]["output"])
            before += 1
        while (todo := self._round(state)) is not None:
            found = await self._judge.ask(
                key=state.key,
                prompt_key=state.question.key,
                messages=state.question.messages,
                text=state.text,
                first=todo.first,
                count=todo.count,
            )
            for judgement in found:
                self._record(state, judgement, todo, log)
                if judged is not None:
                    judged(judgement.score is not None)
            now = self._done(state)
            meter.add(done=now - before, tokens=sum(judgement.output_tokens for judgement in found))
            before = now
        # What follows needs none of it: the rows are read back from the store at the end.
        state.text = ""

    def _record(self, state: _State, judgement: Judged, todo: Round, log: ChunkLog) -> None:
        if judgement.sample not in state.valid:
            row = {
                "key": judgement_key(state.key, judgement.sample),
                "type": "judgement",
                "round": todo.number,
            }
            log.append(encode_row({**row, **judgement.as_row()}))
            state.valid[judgement.sample] = judgement.score is not None
            state.hopeless = state.hopeless or judgement.reason == TOO_LONG


def answer_key(question: str, index: int) -> str:
    """Key of an answer's row."""
    return f"{question}/a{index}"


def judgement_key(answer: str, number: int) -> str:
    """Key of a judgement's row."""
    return f"{answer}/j{number}"


def in_shard(key: str, shard: int, shards: int) -> bool:
    """Whether a question belongs to a pod of an Indexed Job; all rows of one question are one pod's."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:12], 16) % shards == shard


def _stored(log: RowLog) -> Iterator[dict[str, Any]]:
    """The finished rows; of judgements without their texts, since all are held in memory at once."""
    for row in read_rows(log.store, log.folder, log=LOG):
        value: dict[str, Any] = json.loads(row.data)
        if value["type"] == "judgement":
            value = {name: value[name] for name in ("key", "score", "reason", "tokens")}
        yield value

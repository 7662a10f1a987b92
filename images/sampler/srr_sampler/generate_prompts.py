"""GeneratePrompts: new prompts as few-shot continuations of old ones (arXiv 2401.10020 section 2.3, Self-Instruct).

Purpose: ask until enough new prompts have passed the filters; come through a kill without asking anything twice.
Must not: know the filters or the wording (`selfrewarding.data` does).
Neighbours: reads Prepare's seed prompts; Rollout answers the prompts.

Completions come back in any order and are read in the order of their requests, so which prompts are accepted follows
from the seeds alone. Request i may show prompts that came from requests up to i - window: so `window` requests can be
under way at once, without waves at whose end the server would wait for the slowest.
"""

import asyncio
import contextlib
import json
import math
import os
from collections.abc import Callable, Coroutine
from typing import Any

from selfrewarding.api.algorithm import PromptGenerationSpec
from selfrewarding.contract import environment
from selfrewarding.contract.artifacts import (
    DROPPED,
    EVALUATION_PROMPTS,
    EVIDENCE,
    HELD_OUT,
    INSTRUCTIONS,
    PROMPTS,
    PROMPTS_INDEX,
    RANKED,
)
from selfrewarding.contract.config import GeneratePromptsParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, BadData, Surroundings
from selfrewarding.contract.result import StageResult
from selfrewarding.data.evidence import evidence_bytes, highest
from selfrewarding.data.few_shot import Style, few_shot_prompt
from selfrewarding.data.jsonl import encode_row
from selfrewarding.data.prompt_measures import measure_prompts
from selfrewarding.store.chunks import ChunkLog, read_chunks
from selfrewarding.store.results import read_jsonl, require_result
from selfrewarding.store.row_index import IndexWriter
from srr_sampler.asking import Meter, Stage, run_asking
from srr_sampler.chat_endpoint import ChatEndpoint
from srr_sampler.client import CompletionClient, Completions
from srr_sampler.encoders import Encoder, fixed_encoder, policy_encoder
from srr_sampler.harvest import NEW_ITEMS, Harvest, Shot, too_few, window_of
from srr_sampler.sampling import CompletionRequest, Sampling, Seeds, seeds_of

LOG = "completions"
FLUSH_SECONDS = 2.0
_LEAST_ROOM = 64
_REASONS = {
    "too_short": "tooShort",
    "too_long": "tooLong",
    "keyword": "keyword",
    "write_a_program": "writeAProgram",
    "punctuation_first": "punctuationFirst",
    "not_ascii_first": "notAsciiFirst",
    "similar": "similar",
}


def main(config: StageConfig, here: Surroundings) -> StageResult | None:
    """Ask until there are enough new prompts."""
    return run_asking(config, here, _work)


Write = Callable[[str, int, int], Coroutine[Any, Any, Completions]]
"""Few-shot text, number of its first new item, seed → the completion."""


class _Asker:
    """Has requests under way, and the harvest fed in order."""

    def __init__(self, stage: Stage, harvest: Harvest, write: Write, seeds: Seeds) -> None:
        self._harvest = harvest
        self._write = write
        self._seeds = seeds
        self._completions = {
            int(row["request"]): row for row in read_chunks(stage.store, stage.prefix, log=LOG)
        }
        spec = harvest.spec
        self._last = spec.max_requests if spec.max_requests is not None else 4 * spec.count
        self._log = ChunkLog(stage.store, stage.attempt, log=LOG, max_seconds=FLUSH_SECONDS)
        self._next = 0

    async def run(self) -> Meter:
        """Ask until there are enough prompts, or no requests left."""
        meter = Meter(total=self._harvest.spec.count, unit="prompts")
        under_way: set[asyncio.Task[int]] = set()
        try:
            while True:
                self._read(meter)
                if self._harvest.enough:
                    break
                for request in self._due(len(under_way)):
                    under_way.add(asyncio.create_task(self._ask(request)))
                if not under_way:
                    break
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                meter.add(tokens=sum(task.result() for task in done))
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            self._log.close()
        meter.report()
        return meter

    def _read(self, meter: Meter) -> None:
        while not self._harvest.enough and self._harvest.read in self._completions:
            before = len(self._harvest.accepted)
            self._harvest.add(self._completions.pop(self._harvest.read))
            meter.add(done=len(self._harvest.accepted) - before)

    def _due(self, under_way: int) -> list[int]:
        """Requests to send now: within the window, not beyond what is useful, none that is answered already."""
        due: list[int] = []
        useful = self._harvest.useful_requests()
        end = min(self._last, self._harvest.read + window_of(self._harvest.spec))
        while self._next < end and under_way + len(due) < useful:
            if self._next >= self._harvest.read and self._next not in self._completions:
                due.append(self._next)
            self._next += 1
        return due

    async def _ask(self, request: int) -> int:
        key = f"request/{request}"
        seed = self._seeds.of(key)
        spec = self._harvest.spec
        shots = self._harvest.shots(request, self._seeds.of(f"{key}/shots"))
        prompt = few_shot_prompt(
            [shot.text for shot in shots],
            language=spec.filters.language,
            style=self._harvest.style,
            wanted=NEW_ITEMS,
        )
        answer = await self._write(prompt.text, prompt.first_number, seed)
        row = {
            "key": key,
            "request": request,
            "text": answer.samples[0].text,
            "finishReason": answer.samples[0].finish_reason,
            "firstNumber": prompt.first_number,
            "shots": [shot.key for shot in shots],
            "seed": seed,
            "tokens": {"promptTokens": answer.prompt_tokens, "outputTokens": answer.output_tokens},
        }
        self._log.append(encode_row(row))
        # As it will be read by the next attempt, so that both attempts see the same.
        self._completions[request] = json.loads(encode_row(row))
        return answer.output_tokens


async def _work(stage: Stage) -> StageResult:
    parameters = stage.config.parameters
    if not isinstance(parameters, GeneratePromptsParameters):
        raise BadConfiguration(f"a GeneratePrompts got the parameters of {parameters.kind}")
    spec = parameters.prompt_generation
    seeds, others = _known_prompts(stage)
    if not seeds:
        raise BadData("there is no seed prompt to show: seedData.instructions has no row with a user turn")
    async with contextlib.AsyncExitStack() as stack:
        style, write, writer = await _writer(stage, spec, stack)
        harvest = Harvest(spec, seeds, others, style)
        asker = _Asker(stage, harvest, write, seeds_of(stage.config))
        meter = await asker.run()
    least = spec.min_count if spec.min_count is not None else math.ceil(spec.count / 2)
    if len(harvest.accepted) < least:
        raise BadData(too_few(harvest, least))
    rate = meter.tokens_per_second()
    index, (metrics, evidence) = IndexWriter(), _measures(harvest)
    return stage.commit(
        files={
            PROMPTS: b"".join(index.add(row["key"], encode_row(row)) for row in harvest.accepted),
            PROMPTS_INDEX: index.content(),
            DROPPED: b"".join(encode_row(row) for row in harvest.dropped),
            EVIDENCE: evidence_bytes(evidence),
        },
        counts={
            "prompts": len(harvest.accepted),
            "requests": harvest.read,
            "cut": harvest.cut,
            **{name: harvest.reasons[reason] for reason, name in _REASONS.items() if harvest.reasons[reason]},
            "promptTokens": harvest.tokens["promptTokens"],
            "outputTokens": harvest.tokens["outputTokens"],
        },
        metrics=metrics | ({"tokensPerSecond": rate} if rate is not None else {}),
        report={
            "writer": {
                **writer,
                "temperature": spec.temperature,
                "topP": spec.top_p,
                "maxTokens": spec.max_tokens,
            },
            "wanted": spec.count,
            "window": window_of(spec),
            "reasons": dict(sorted(harvest.reasons.items())),
        },
    )


def _measures(harvest: Harvest) -> tuple[dict[str, float], dict[str, list[dict[str, Any]]]]:
    """How the new prompts differ from each other and from the seeds, and the prompts that do least."""
    keys = [row["key"] for row in harvest.accepted]
    measured = measure_prompts(
        [row["prompt"][0]["content"] for row in harvest.accepted],
        [seed.text for seed in harvest.seeds],
        harvest.spec.filters.language,
    )
    metrics = {"promptDiversity": measured.diversity, "promptSimilarity": measured.similarity}
    return (
        {name: value for name, value in metrics.items() if value is not None},
        {
            "promptDiversity": highest(zip(keys, measured.commonness, strict=True)),
            "promptSimilarity": highest(zip(keys, measured.similarities, strict=True)),
        },
    )


def _known_prompts(stage: Stage) -> tuple[list[Shot], list[str]]:
    """Seed prompts to draw examples from; ranked, held-out and evaluation prompts, which no new prompt may come close to:
    what is trained on cannot measure a model."""
    prepare = require_result(stage.store, stage.config.parents["prepare"])
    seeds = [
        Shot(str(row["key"]), text)
        for row in read_jsonl(stage.store, prepare, INSTRUCTIONS)
        if (text := _first_user_turn(row["messages"]))
    ]
    others = [
        text
        for name in (RANKED, HELD_OUT)
        if name in prepare.files
        for row in read_jsonl(stage.store, prepare, name)
        if (text := _first_user_turn(row["prompt"]))
    ]
    if EVALUATION_PROMPTS in prepare.files:
        others += [str(row["turns"][0]) for row in read_jsonl(stage.store, prepare, EVALUATION_PROMPTS)]
    return seeds, others


def _first_user_turn(messages: list[dict[str, str]]) -> str:
    return next((message["content"] for message in messages if message["role"] == "user"), "")


async def _writer(
    stage: Stage, spec: PromptGenerationSpec, stack: contextlib.AsyncExitStack
) -> tuple[Style, Write, dict[str, object]]:
    if spec.writer.endpoint is not None:
        key = os.environ.get(environment.WRITER_API_KEY, "")
        endpoint = await stack.enter_async_context(ChatEndpoint(spec.writer.endpoint, key))

        async def ask_endpoint(text: str, first_number: int, seed: int) -> Completions:
            return await endpoint.complete(text, _sampling(spec, None, first_number), seed)

        return (
            "request",
            ask_endpoint,
            {"endpoint": spec.writer.endpoint.url, "model": spec.writer.endpoint.model},
        )
    role, served = stage.served("writer")
    client: CompletionClient = await stack.enter_async_context(stage.client(role))
    fixed = spec.writer.model_uri if role == "writer" else None
    encoder = (
        policy_encoder(stage.config, stage.store, stage.here.scratch)
        if fixed is None
        else fixed_encoder(fixed, field="promptGeneration.writer.modelUri", scratch=stage.here.scratch)
    )

    async def ask_server(text: str, first_number: int, seed: int) -> Completions:
        ids = encoder.plain(text)
        room = served.max_model_len - len(ids)
        if room < _LEAST_ROOM:
            raise BadConfiguration(
                f"a few-shot prompt has {len(ids)} tokens and leaves no room in {served.max_model_len}: raise "
                "serving.maxModelLen, or lower promptGeneration.seedShots"
            )
        sampling = _sampling(spec, encoder, first_number).within(room)
        return await client.complete(CompletionRequest(prompt=ids, sampling=sampling, seed=seed))

    named: dict[str, object] = {"model": served.name}
    return "continuation", ask_server, named if fixed is None else {**named, "modelUri": fixed}


def _sampling(spec: PromptGenerationSpec, encoder: Encoder | None, first_number: int) -> Sampling:
    return Sampling.of(
        spec,
        stop=(f"\n{first_number + NEW_ITEMS}.",),
        stop_token_ids=() if encoder is None else encoder.chat.stop_token_ids,
    )

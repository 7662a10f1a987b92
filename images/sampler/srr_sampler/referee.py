"""Who compares two answers: a model of ours, asked by token ids, or a foreign chat endpoint, asked by text.

Purpose: one way to ask either of them, with what it may cost at most and what it did cost. `Structured` is two requests:
a free justification that stops before its preference line, then A, B or Tie chosen (number rule 4).
Must not: read a verdict out of a text, or store anything.
Neighbours: `compare` asks; `client` and `chat_endpoint` send; `closing_line` words the second step.

A model of ours gets the comparison prompt as token ids in which no text of a model can be a control token
(`data.chat`, number rule 3). A foreign endpoint takes messages as text and nothing else: the prompt's tags and its
sentence that what they hold is no instruction are all the protection there is.
"""

import contextlib
import os
from dataclasses import dataclass, replace
from typing import Any, Protocol

from selfrewarding.api.evaluation import HeadToHeadSpec
from selfrewarding.contract import environment
from selfrewarding.contract.config import ServedModel
from selfrewarding.data.comparison_prompt import PREFERENCE_LEAD, VERDICTS, Verdict
from srr_sampler.asking import Role, Stage
from srr_sampler.chat_endpoint import ChatEndpoint
from srr_sampler.client import CompletionClient
from srr_sampler.closing_line import ClosingLine
from srr_sampler.encoders import Encoder, fixed_encoder, policy_encoder
from srr_sampler.sampling import CompletionRequest, Sampling

ENDPOINT_FIELD = "evaluation.headToHead.judge.endpoint"
MODEL_FIELD = "evaluation.headToHead.judge.modelUri"
FORMAT_FIELD = "evaluation.headToHead.format"
REFUSED = "refused"
"""Finish reason of a request that the endpoint did not take."""
LEAST_ROOM = 16
_MESSAGE_TOKENS = 64
"""More than any chat template adds around one user turn."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The judge's turn, ready to be sent.

    Attributes:
        text: as it was rendered.
        ids: as token ids; None for an endpoint.
        most_tokens: that all its requests may use at most; None if it leaves no room for an answer.
        room: tokens that the judge may write.
    """

    text: str
    ids: list[int] | None
    most_tokens: int | None
    room: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What the judge said to one turn.

    Attributes:
        text: that it wrote; Structured: with the preference line.
        finish_reason: why the free text ended.
        chosen: Structured: the verdict.
        probabilities: Structured: of the verdicts, where each is one token.
        prompt_tokens: of all requests; 0 with the next if the server does not say them.
        output_tokens: likewise.
    """

    text: str
    finish_reason: str
    chosen: Verdict | None = None
    probabilities: dict[Verdict, float] | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0


class Referee(Protocol):
    """Compares; `width` requests at a time."""

    width: int

    def provenance(self) -> dict[str, Any]:
        """Who compares; `fixed`: the same for all rounds."""

    def turn(self, text: str) -> Turn:
        """A text as it will be sent."""

    async def ask(self, turn: Turn, *, temperature: float, seed: int, line_seed: int, prefer: str) -> Said:
        """One judgement; `line_seed` is for the second step, where there is one. Raises EndpointRefused, Retry."""

    @property
    def repeated(self) -> int:
        """Requests that had to be sent again."""


async def open_referee(stage: Stage, spec: HeadToHeadSpec, stack: contextlib.AsyncExitStack) -> Referee:
    """The referee that the spec names; absent: the model itself. Raises BadConfiguration, Retry, StoreError."""
    if spec.judge.endpoint is not None:
        key = os.environ.get(environment.REFEREE_API_KEY, "")
        endpoint = ChatEndpoint(spec.judge.endpoint, key, field=ENDPOINT_FIELD, give_halves=True)
        stage.clients.append(endpoint)
        return EndpointReferee(await stack.enter_async_context(endpoint), spec)
    role, served = stage.served("referee")
    uri = spec.judge.model_uri if role == "referee" else None
    client = await stack.enter_async_context(stage.client(role))
    encoder = (
        policy_encoder(stage.config, stage.store, stage.here.scratch)
        if uri is None
        else fixed_encoder(uri, field=MODEL_FIELD, scratch=stage.here.scratch)
    )
    return ServerReferee(client, role, served, encoder, spec)


class ServerReferee:
    """One of our servers."""

    def __init__(
        self,
        client: CompletionClient,
        role: Role,
        served: ServedModel,
        encoder: Encoder,
        spec: HeadToHeadSpec,
    ) -> None:
        self._client, self._role, self._served = client, role, served
        self._encoder, self._spec = encoder, spec
        self._line: ClosingLine[Verdict] | None = None
        if spec.format == "Structured":
            self._line = ClosingLine(
                encoder, PREFERENCE_LEAD, VERDICTS, what="preferences", field=FORMAT_FIELD
            )
        self._line_room = self._line.room if self._line else 0
        self.width = client.capacity

    @property
    def repeated(self) -> int:
        """Requests that had to be sent again."""
        return self._client.repeated

    def provenance(self) -> dict[str, Any]:
        """Who compares."""
        return {
            "model": self._served.name,
            **({"modelUri": self._spec.judge.model_uri} if self._spec.judge.model_uri else {}),
            "fixed": self._spec.judge.model_uri is not None and self._role == "referee",
        }

    def turn(self, text: str) -> Turn:
        """The text as token ids, injection-safe."""
        ids = self._encoder.chat.prompt([{"role": "user", "content": text}])
        left = self._served.max_model_len - len(ids) - self._line_room
        if left < min(LEAST_ROOM, self._spec.max_tokens):
            return Turn(text, ids, None)
        room = min(self._spec.max_tokens, left)
        most = len(ids) + room
        return Turn(text, ids, most if self._line is None else 2 * most + self._line_room, room)

    async def ask(self, turn: Turn, *, temperature: float, seed: int, line_seed: int, prefer: str) -> Said:
        """One judgement of the served model. Raises BadConfiguration, Retry."""
        ids, line = turn.ids or [], self._line
        sampling = Sampling(
            temperature,
            1.0,
            turn.room,
            stop=(line.stop,) if line else (),
            stop_token_ids=tuple(self._encoder.chat.stop_token_ids),
        )
        request = CompletionRequest(prompt=ids, sampling=sampling, seed=seed)
        answer = await self._client.complete(request, prefer=prefer)
        sample = answer.samples[0]
        said = Said(
            sample.text,
            sample.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
        )
        if line is None:
            return said
        written = sample.text.rstrip()
        request = line.request(ids, written, temperature=temperature, top_p=1.0, seed=line_seed)
        answer = await self._client.complete(request, prefer=prefer, first=True)
        chosen, probabilities = line.chosen(answer.samples[0])
        return replace(
            said,
            text=f"{written}{PREFERENCE_LEAD}{chosen}",
            chosen=chosen,
            probabilities=probabilities,
            prompt_tokens=said.prompt_tokens + answer.prompt_tokens,
            output_tokens=said.output_tokens + answer.output_tokens,
        )


class EndpointReferee:
    """A foreign endpoint."""

    def __init__(self, endpoint: ChatEndpoint, spec: HeadToHeadSpec) -> None:
        if spec.judge.endpoint is None:
            raise ValueError(f"{ENDPOINT_FIELD} is absent")
        self._endpoint, self._spec = endpoint, spec
        self._named = spec.judge.endpoint
        self.width = endpoint.capacity

    @property
    def repeated(self) -> int:
        """Requests that had to be sent again."""
        return self._endpoint.repeated

    def provenance(self) -> dict[str, Any]:
        """Who compares."""
        return {"endpoint": self._named.url, "model": self._named.model, "fixed": True}

    def turn(self, text: str) -> Turn:
        """The text as it is."""
        # No tokenizer is known: a token holds at least one byte in all that are in use.
        return Turn(text, None, len(text.encode()) + _MESSAGE_TOKENS + self._spec.max_tokens)

    async def ask(self, turn: Turn, *, temperature: float, seed: int, line_seed: int, prefer: str) -> Said:
        """One judgement of the endpoint. Raises BadConfiguration (EndpointRefused: it does not take this text), Retry."""
        del line_seed, prefer  # there is one request, and one address
        answer = await self._endpoint.complete(
            turn.text, Sampling(temperature, 1.0, self._spec.max_tokens), seed
        )
        sample = answer.samples[0]
        return Said(
            sample.text,
            sample.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
        )

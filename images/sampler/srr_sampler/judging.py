"""One answer, judged: the judge's prompt as token ids, the requests, and the scores that come back.

Purpose: `Free`: the judge writes, and its last score line is read. `Structured`: two steps, a free justification
that stops before its score line, then one token chosen among the allowed scores (number rules 2, 3, 4 and 14).
Must not: see more than what was newly generated when it looks for a score; repeat or store anything.
Neighbours: `judged_rows` says which samples are missing and stores them, `client` sends, `selfrewarding.data` holds
wording and grammar, `closing_line` the second step.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast, get_args

from selfrewarding.api.algorithm import JudgeSpec
from selfrewarding.contract.config import ServedModel
from selfrewarding.contract.program import BadConfiguration, BadData
from selfrewarding.data.judge_prompt import judge_prompt_of
from selfrewarding.data.judgements import parse_judgement
from selfrewarding.data.rows import Message, Role
from selfrewarding.data.scores import as_number
from srr_sampler.client import CompletionClient
from srr_sampler.closing_line import ClosingLine, label_tokens
from srr_sampler.encoders import Encoder
from srr_sampler.sampling import CompletionRequest, Sampling, Seeds

SCORE_LEAD = "\nScore: "
"""Structured: what is appended before the score is chosen."""
TOO_LONG = "too_long"
"""Reason of a judgement that could not be asked for: the judge prompt leaves no room in the model's context."""
LEAST_ROOM = 16
"""Tokens below which asking for a text makes no sense."""
_ROUND_TO = 1000


def score_tokens(tokenizer: Any, scores: Sequence[int]) -> dict[int, int] | None:
    """Score → token id, where each score is one token of its own after `Score: `; None if the tokenizer splits one."""
    return label_tokens(tokenizer, SCORE_LEAD, scores)


def expected_score(probabilities: Mapping[int, float]) -> Fraction:
    """The mean of the scores by their probabilities, rounded to 0.001."""
    mean = math.fsum(score * probability for score, probability in probabilities.items())
    return Fraction(round(mean * _ROUND_TO), _ROUND_TO)


@dataclass(frozen=True, slots=True)
class Judged:
    """One judgement.

    Attributes:
        sample: its number among the judgements of its answer.
        text: what the judge wrote; Structured: with the score line.
        score: exact; None if invalid.
        reason: why it is invalid: missing, malformed, out_of_range, truncated, too_long.
        finish_reason: why the (free) text ended.
        seed: that gave the (free) text.
        probabilities: Structured: of the scores.
        prompt_tokens: of its requests, on the first judgement of a request (0 on the others).
        output_tokens: likewise.
    """

    sample: int
    text: str
    score: Fraction | None
    reason: str | None
    finish_reason: str
    seed: int
    probabilities: dict[int, float] | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0

    def as_row(self) -> dict[str, Any]:
        """The judgement as JSON, without its key."""
        row: dict[str, Any] = {
            "sample": self.sample,
            "text": self.text,
            "score": None if self.score is None else as_number(self.score),
            "reason": self.reason,
            "finishReason": self.finish_reason,
            "seed": self.seed,
            "tokens": {"prompt": self.prompt_tokens, "output": self.output_tokens},
        }
        if self.probabilities is not None:
            row["probabilities"] = {
                str(score): round(value, 6) for score, value in self.probabilities.items()
            }
        return row


class Judge:
    """Judges answers with one served model.

    Args:
        client: of the judge's server.
        served: its limits.
        encoder: of the judge's model.
        spec: how to judge.
        seeds: of the stage.
        uri: of a dedicated judge, as the spec names it; None: the model that the run trains.

    Raises:
        BadConfiguration: `Expected` with scores that are not one token each.
        DataError: a judge template without its placeholders.
    """

    def __init__(
        self,
        *,
        client: CompletionClient,
        served: ServedModel,
        encoder: Encoder,
        spec: JudgeSpec,
        seeds: Seeds,
        uri: str | None = None,
    ) -> None:
        self._client = client
        self._served = served
        self._uri = uri
        self._encoder = encoder
        self._spec = spec
        self._seeds = seeds
        self.prompt = judge_prompt_of(spec)
        self._greedy = spec.temperature == 0
        self.retries = 0 if self._greedy else spec.retries
        """Rounds of asking again that can change anything."""
        self.scores = list(range(spec.scores.minimum, spec.scores.maximum + 1))
        self._line = ClosingLine(encoder, SCORE_LEAD, self.scores, what="scores", field="judge.format")
        if spec.scoring == "Expected" and self._line.tokens is None:
            raise BadConfiguration(
                "judge.scoring Expected needs scores that are one token each, but the judge's tokenizer splits some "
                f"of {self.scores[0]} to {self.scores[-1]}: narrow judge.scores, or set judge.scoring to Sampled"
            )
        self._sampling = Sampling.of(
            spec,
            stop=(self._line.stop,) if spec.format == "Structured" else (),
            stop_token_ids=encoder.chat.stop_token_ids,
        )

    def provenance(self) -> dict[str, Any]:
        """Who judges, and how."""
        return {
            "model": self._served.name,
            **({} if self._uri is None else {"modelUri": self._uri}),
            "prompt": self.prompt.digest,
            "format": self._spec.format,
            "scoring": self._spec.scoring,
            **self._sampling.as_json(),
        }

    async def ask(
        self,
        *,
        key: str,
        prompt_key: str,
        messages: Sequence[Mapping[str, str]],
        text: str,
        first: int,
        count: int,
    ) -> list[Judged]:
        """Ask for `count` judgements of one answer in one request; they get the numbers from `first` on.

        Args:
            key: of the answer; gives the seeds.
            prompt_key: calls with equal ones go to the same replica, whose prefix cache has the beginning.
            messages: the prompt that was answered.
            text: the answer.
            first: number of the first judgement.
            count: how many.
        """
        ids, room = self._turn(messages, text)
        seed = self._seeds.of(key, first, spacing=count)
        if room < LEAST_ROOM:
            return [Judged(first + i, "", None, TOO_LONG, "length", seed + i) for i in range(count)]
        # Greedy samples are all equal, and vLLM refuses to make several.
        asked = 1 if self._greedy else count
        request = CompletionRequest(prompt=ids, sampling=self._sampling.within(room), seed=seed, n=asked)
        answer = await self._client.complete(request, prefer=prompt_key, first=True)
        drafts = [
            Judged(first + i, sample.text, None, None, sample.finish_reason, seed + i)
            for i, sample in enumerate(answer.samples * (count // asked))
        ]
        drafts[0] = replace(drafts[0], prompt_tokens=answer.prompt_tokens, output_tokens=answer.output_tokens)
        if self._spec.format == "Free":
            return [self._free(draft) for draft in drafts]
        asked_for = _Asked(key, prompt_key, ids)
        return list(await asyncio.gather(*(self._score(asked_for, draft) for draft in drafts)))

    def has_room(self, messages: Sequence[Mapping[str, str]], text: str) -> bool:
        """Whether a judgement of this answer may take all of `judge.maxTokens`: in a longer context it would be the same."""
        return self._turn(messages, text)[1] >= self._sampling.max_tokens

    def _turn(self, messages: Sequence[Mapping[str, str]], text: str) -> tuple[list[int], int]:
        """The judge prompt's token ids, and how many tokens are left for the text."""
        prompt = tuple(
            Message(role=as_role(message["role"]), content=message["content"]) for message in messages
        )
        turn = self.prompt.render(prompt, text)
        ids = self._encoder.chat.prompt([{"role": "user", "content": turn}])
        line = LEAST_ROOM if self._spec.format == "Structured" else 0
        return ids, self._served.max_model_len - len(ids) - line

    def _free(self, draft: Judged) -> Judged:
        """Only the generated text is looked at, never the prompt: an answer cannot score itself."""
        scores = self._spec.scores
        found = parse_judgement(
            draft.text,
            minimum=scores.minimum,
            maximum=scores.maximum,
            decimals=scores.decimals,
            finish_reason=draft.finish_reason,
        )
        return replace(draft, score=found.score, reason=found.reason)

    async def _score(self, asked: "_Asked", draft: Judged) -> Judged:
        """The second step: the judge's own justification goes back to it as ordinary tokens, and a score is chosen."""
        reasoning = draft.text.rstrip()
        seed = self._seeds.of(f"{asked.key}/score", draft.sample)
        request = self._line.request(
            asked.ids, reasoning, temperature=self._spec.temperature, top_p=self._spec.top_p, seed=seed
        )
        answer = await self._client.complete(request, prefer=asked.prompt_key, first=True)
        chosen, probabilities = self._line.chosen(answer.samples[0])
        expected = probabilities if self._spec.scoring == "Expected" else None
        return replace(
            draft,
            text=f"{reasoning}{SCORE_LEAD}{chosen}",
            score=Fraction(chosen) if expected is None else expected_score(expected),
            probabilities=probabilities,
            prompt_tokens=draft.prompt_tokens + answer.prompt_tokens,
            output_tokens=draft.output_tokens + answer.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the second step needs of the first: key of the answer and of its prompt, the judge prompt's token ids."""

    key: str
    prompt_key: str
    ids: list[int]


def as_role(role: str) -> Role:
    """A role that was checked when the row was written (Prepare, GeneratePrompts). Raises BadData for any other."""
    for known in get_args(Role):
        if role == known:
            return cast(Role, role)
    raise BadData(f"a message with the role {role!r} in a parent's rows: expected system, user or assistant")

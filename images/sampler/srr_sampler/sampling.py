"""Requests to a completion server with every sampling field said explicitly, and the seeds of a stage.

Purpose: nothing is left to a server's defaults (`generation_config.json` of a model would change them silently), and
each request's seed follows from the run, the stage and the row (number rule 13): a repeated request is the same one.
Must not: talk to a server or know what a row means.
Neighbours: `client` sends these requests; `judging`, `judged_rows` and `generate_prompts` make them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from selfrewarding.api.algorithm import JudgeSpec, PromptGenerationSpec, ResponsesSpec
from selfrewarding.api.evaluation import AnswersSpec
from selfrewarding.contract.config import StageConfig
from selfrewarding.contract.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Sampling:
    """How text is drawn.

    Attributes:
        temperature: 0 is greedy: all samples of a prompt are equal then.
        top_p: nucleus sampling.
        max_tokens: longest completion.
        stop: texts that end a completion; they are not part of it.
        stop_token_ids: tokens that end a completion besides the model's own end-of-sequence token.
    """

    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        spec: AnswersSpec | JudgeSpec | PromptGenerationSpec | ResponsesSpec,
        *,
        stop: tuple[str, ...] = (),
        stop_token_ids: Iterable[int] = (),
    ) -> "Sampling":
        """As the spec says it."""
        return cls(spec.temperature, spec.top_p, spec.max_tokens, stop, tuple(stop_token_ids))

    def within(self, room: int) -> "Sampling":
        """The same, for a context that has only so many tokens left."""
        return self if self.max_tokens <= room else replace(self, max_tokens=room)

    def as_json(self) -> dict[str, Any]:
        """The settings as they stand in a row's provenance."""
        return {"temperature": self.temperature, "topP": self.top_p, "maxTokens": self.max_tokens}


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One request for `n` samples of one prompt.

    Attributes:
        prompt: token ids, shape [length] (number rule 3: text is never tokenised by the server).
        sampling: how the samples are drawn.
        seed: of the first sample; vLLM gives the i-th one `seed + i`.
        n: samples.
        among: the completion is one token out of these; their log probabilities come back. Empty: free text.
        choices: the completion is one of these texts. Empty: free text.
    """

    prompt: list[int]
    sampling: Sampling
    seed: int
    n: int = 1
    among: tuple[int, ...] = ()
    choices: tuple[str, ...] = ()

    def body(self, model: str) -> dict[str, Any]:
        """The JSON document for vLLM's `/v1/completions` (vllm.entrypoints.openai.completion.protocol)."""
        body: dict[str, Any] = {
            "model": model,
            "prompt": self.prompt,
            "n": self.n,
            "seed": self.seed,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_tokens,
            "min_tokens": 0,
            "top_k": 0,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "stop": list(self.sampling.stop),
            "stop_token_ids": list(self.sampling.stop_token_ids),
            "include_stop_str_in_output": False,
            "ignore_eos": False,
            "skip_special_tokens": True,
            "stream": False,
        }
        if self.among:
            # `allowed_token_ids` and not `structured_outputs`: a grammar over texts may also choose a token that is
            # only the beginning of a choice (a space before the digit), and its first use compiles for seconds.
            body |= {
                "allowed_token_ids": list(self.among),
                "logprobs": len(self.among),
                "logprob_token_ids": list(self.among),
                "return_tokens_as_token_ids": True,
            }
        if self.choices:
            body["structured_outputs"] = {"choice": list(self.choices)}
        return body


@dataclass(frozen=True, slots=True)
class Seeds:
    """The seeds of one stage."""

    run_seed: int
    stage_key: str

    def of(self, row_key: str, sample: int = 0, *, spacing: int = 1) -> int:
        """The seed of a request; `spacing` is its number of samples."""
        return derive_seed(self.run_seed, self.stage_key, row_key, sample, spacing=spacing)


def seeds_of(config: StageConfig) -> Seeds:
    """The seeds of the stage that a configuration describes."""
    return Seeds(config.seed, config.key)

"""`evaluation.prompts`, read and checked by Prepare: what models will answer must not be what they were trained on.

Purpose: read each set through its store, take at most `maxRows` by a hash of the content, refuse prompts that are trained
on with both places, count those that only come close, and those that leave no room for an answer.
Must not: drop a prompt for any other reason than `maxRows`.
Neighbours: `data.evaluation_prompts` reads the formats, `seed_sets` knows what is trained on; `prepare` writes the rows.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selfrewarding.api.evaluation import PromptSetSpec
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.data.chat import ChatEncoder
from selfrewarding.data.contained_prompts import PromptFinder
from selfrewarding.data.errors import DataError, shown
from selfrewarding.data.evaluation_prompts import EvaluationPrompt, read_evaluation_prompts
from selfrewarding.data.json_list import is_list, read_content, read_list
from selfrewarding.data.jsonl import Row, read_stream
from selfrewarding.data.judge_prompt import conversation_text
from selfrewarding.data.rouge import RougeIndex
from selfrewarding.data.rows import Message, content_key, prompt_identity
from selfrewarding.data.seed_split import NEAR_DUPLICATE, take_at_most
from selfrewarding.store.errors import NotFound
from selfrewarding.store.locate import open_store
from srr_sampler.judging import LEAST_ROOM
from srr_sampler.problems import Problems
from srr_sampler.seed_sets import SeedSets, set_digest

_MOST_LISTED = 50
_MOST_TOO_LONG = 0.5
_SEED = 0
"""Which prompts `maxRows` takes is the same in every run, so that runs can be compared."""


@dataclass(frozen=True)
class PromptSets:
    """All prompts of all sets, in order of set and key, and what a result's report says about them."""

    prompts: tuple[EvaluationPrompt, ...]
    report: dict[str, Any]

    @property
    def digest(self) -> str:
        """Digest of all that the rows hold, 12 hex digits."""
        return set_digest([content_key(prompt.as_row()) for prompt in self.prompts])


def read_prompt_sets(specs: Sequence[PromptSetSpec], problems: Problems) -> list[EvaluationPrompt] | None:
    """Read all sets; each defective one is added to `problems`, and there are none (None) then. Raises StoreError."""
    found: list[EvaluationPrompt] = []
    whole = True
    for number, spec in enumerate(specs):
        read = False
        with problems.collecting():
            rows = _rows(spec, f"evaluation.prompts[{number}].uri")
            prompts = read_evaluation_prompts(rows, spec.format, name=spec.name, source=spec.uri)
            found += take_at_most(prompts, spec.max_rows, key=lambda prompt: prompt.key, seed=_SEED)
            read = True
        whole = whole and read
    return sorted(found, key=lambda prompt: (prompt.set, prompt.key)) if whole else None


def check_prompt_sets(
    specs: Sequence[PromptSetSpec], prompts: Sequence[EvaluationPrompt], sets: SeedSets
) -> PromptSets:
    """The prompts, if none of them is trained on. Raises DataError with both places otherwise."""
    files = {spec.name: spec.uri for spec in specs}
    trained = list(_trained(sets))
    places = {prompt_identity(prompt): place for prompt, place in reversed(trained)}
    shared = [
        (prompt, places[prompt.prompt_identity]) for prompt in prompts if prompt.prompt_identity in places
    ]
    measuring = PromptFinder(prompt.turns[0] for prompt in prompts)
    shared += [
        (prompts[number], sets.places["evaluations"].place(row.id))
        for row in sets.evaluations
        if row.prompt is None and (number := measuring.find(row.judge_turn)) is not None
    ]
    if shared:
        first, other = shared[0]
        more = f" ({len(shared)} such prompts in all)" if len(shared) > 1 else ""
        raise DataError(
            file=files[first.set],
            line=first.line,
            field="prompt" if len(first.turns) == 1 else "turns[0]",
            found=f"the prompt {shown(first.turns[0])}, which is also trained on in {other}{more}",
            expected="evaluation prompts that no training row holds",
            remedy="Delete one of the two rows: what is trained on cannot measure a model.",
        )
    near = _near_duplicates(prompts, trained)
    report = {
        "sets": {spec.name: sum(prompt.set == spec.name for prompt in prompts) for spec in specs},
        "nearDuplicates": {
            "found": len(near),
            "rows": [
                {
                    "set": prompt.set,
                    "id": prompt.id,
                    "place": f"{files[prompt.set]}:{prompt.line}",
                    "trained": place,
                    "rougeL": round(value, 3),
                }
                for prompt, place, value in near[:_MOST_LISTED]
            ],
        },
    }
    return PromptSets(tuple(prompts), report)


def check_room(
    sets: PromptSets,
    encoder: ChatEncoder,
    limits: Sequence[tuple[int | None, str]],
    *,
    answer_tokens: int | None = None,
) -> None:
    """Count the prompts that leave no room for an answer, which will be empty; if most do, the settings are wrong.

    `answer_tokens` is the longest answer: the last turn stands behind the others and theirs. Raises BadConfiguration.
    """
    known = [(number, name) for number, name in limits if number is not None]
    if not known or not sets.prompts:
        return
    limit, where = min(known)
    needed = [
        sum(len(encoder.prompt([{"role": "user", "content": turn}])) for turn in prompt.turns)
        + (len(prompt.turns) - 1) * (answer_tokens or 0)
        + LEAST_ROOM
        for prompt in sets.prompts
    ]
    over = sum(tokens > limit for tokens in needed)
    sets.report["tooLong"] = {"found": over, "longest": max(needed), "limit": limit}
    if over > _MOST_TOO_LONG * len(needed):
        remedy = "choose shorter evaluation.prompts" + (
            "" if answer_tokens is None else f" or a lower evaluation.answers.maxTokens ({answer_tokens})"
        )
        raise BadConfiguration(
            f"{over} of {len(needed)} evaluation prompts leave no room for an answer: they need {min(needed)} to "
            f"{max(needed)} tokens, but {where} is {limit}: raise it, or {remedy}"
        )


def _rows(spec: PromptSetSpec, field: str) -> Iterator[Row]:
    folder, _, name = spec.uri.rpartition("/")
    try:
        stream = open_store(folder).read_stream(name)
    except NotFound as error:
        raise DataError(
            file=spec.uri,
            found=f"no such file ({str(error).rstrip('.')})",
            expected="a file of prompts",
            remedy=f"Correct {field}, or put the file there.",
        ) from None
    with stream:
        if spec.format != "AlpacaEval":
            yield from read_stream(stream, spec.uri)
            return
        content = read_content(stream, spec.uri)
    if is_list(content):
        yield from read_list(content, spec.uri)
    else:
        yield from read_stream(io.BytesIO(content), spec.uri)


def _trained(sets: SeedSets) -> Iterator[tuple[tuple[Message, ...], str]]:
    """Prompts that are trained on, with their places."""
    for instruction in sets.instructions:
        yield instruction.prompt, sets.places["instructions"].place(instruction.id)
    for ranked in sets.ranked:
        yield ranked.prompt, sets.places["ranked"].place(ranked.id)
    for evaluation in sets.evaluations:
        if evaluation.prompt is not None:
            yield evaluation.prompt, sets.places["evaluations"].place(evaluation.id)


def _near_duplicates(
    prompts: Sequence[EvaluationPrompt], trained: Sequence[tuple[tuple[Message, ...], str]]
) -> list[tuple[EvaluationPrompt, str, float]]:
    """For each prompt the most similar one that is trained on, where its ROUGE-L F1 is above the threshold."""
    index = RougeIndex("Any")
    for prompt, _ in trained:
        index.add(index.encode(conversation_text(prompt)))
    nearest = index.nearest([index.encode(prompt.turns[0]) for prompt in prompts])
    return [
        (prompt, trained[best.index][1], best.f1)
        for prompt, best in zip(prompts, nearest, strict=True)
        if best.index is not None and best.f1 > NEAR_DUPLICATE
    ]

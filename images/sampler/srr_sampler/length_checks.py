"""How long the run's sequences get, in tokens, and whether model and server take them (number rule 7).

Purpose: count with the run's own tokenizer before a GPU is spent; leave out, counted, rows that can never be used.
Must not: cut a row; guess where it can count. Neighbours: `prepare` calls this; `plan.lengths` chose the servers'
length without a tokenizer, as `serving.maxModelLen` or an estimate that holds at least `sft.maxLength`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfrewarding.contract.config import PrepareParameters
from selfrewarding.contract.program import BadConfiguration, BadData
from selfrewarding.data.chat import ChatEncoder, ChatTemplateError
from selfrewarding.data.few_shot import few_shot_prompt
from selfrewarding.data.judge_prompt import JudgePrompt, conversation_text
from selfrewarding.data.rows import Message, messages_json
from selfrewarding.data.seed_rows import Evaluation, Instruction, RankedPrompt
from srr_sampler.problems import Problems
from srr_sampler.seed_sets import SeedSets

SCORE_LEAD = "\nScore: "
"""What stands before the score of a structured judgement (number rule 4)."""
MOST_EXCLUDED = 0.5
"""With a larger share of a set too long, the settings do not fit the data: an error, no exclusion."""
TYPICAL = 0.9
"""The prompt that nine of ten seed prompts do not exceed stands for the prompts that are still to be written."""


@dataclass(frozen=True)
class Fitting:
    """The rows that fit, and the lengths for the report."""

    ranked: tuple[RankedPrompt, ...]
    held_out: tuple[RankedPrompt, ...]
    report: dict[str, Any]


class LengthChecks:
    """Counts with one tokenizer under the settings of one run."""

    def __init__(
        self,
        encoder: ChatEncoder,
        prompt: JudgePrompt,
        parameters: PrepareParameters,
        positions: int | None,
        problems: Problems,
        *,
        judge_encoder: ChatEncoder | None = None,
    ) -> None:
        self._encoder, self._judge_encoder = encoder, judge_encoder or encoder
        self._prompt, self._parameters = prompt, parameters
        self._positions, self._problems = positions, problems
        self._report: dict[str, Any] = {}

    def check(self, sets: SeedSets) -> Fitting:
        """Check all sets. What must be corrected goes to the problems."""
        parameters = self._parameters
        server, positions = parameters.max_model_len, self._positions
        if server is not None and positions is not None and server > positions:
            self._problems.add(
                BadConfiguration(
                    f"serving.maxModelLen is {server}, but the model takes {positions} tokens at most: set it to "
                    f"{positions} or less"
                )
            )
        self._trainable(sets)
        ranked = self._judgeable(sets, "ranked", sets.ranked)
        held_out = self._judgeable(sets, "heldOut", sets.held_out)
        self._generated(sets)
        return Fitting(ranked=ranked, held_out=held_out, report=self._report)

    def _trainable(self, sets: SeedSets) -> None:
        """SFT examples over `sft.maxLength` are left out by the trainer; here it shows whether that is most."""
        limit = self._parameters.sft.max_length
        rows: list[tuple[str, Instruction | Evaluation]] = [
            ("instructions", row) for row in sets.instructions
        ]
        rows += [("evaluations", row) for row in sets.evaluations]
        for name in ("instructions", "evaluations"):
            lengths = [
                (self._example(sets, name, row.id, row.as_row()["messages"]), row.id)
                for set_name, row in rows
                if set_name == name
            ]
            if not lengths:
                continue
            over = [found for found in lengths if found[0] > limit]
            self._report[name] = {**_spread([length for length, _ in lengths]), "overSftMaxLength": len(over)}
            longest, where = max(lengths)
            if len(over) > MOST_EXCLUDED * len(lengths):
                self._problems.add(
                    BadData(
                        f"{len(over)} of {len(lengths)} {name} are longer than sft.maxLength ({limit} tokens; the "
                        f"longest, {sets.places[name].place(where)}, has {longest}) and would be left out of "
                        "training: raise sft.maxLength or choose shorter rows"
                    )
                )
            elif self._positions is not None and self._positions < min(longest, limit):
                self._problems.add(
                    BadConfiguration(
                        f"sft.maxLength is {limit}, but the model takes {self._positions} tokens at most and "
                        f"{sets.places[name].place(where)} has {longest}: set sft.maxLength to {self._positions}"
                    )
                )

    def _judgeable(
        self, sets: SeedSets, name: str, prompts: Sequence[RankedPrompt]
    ) -> tuple[RankedPrompt, ...]:
        """The ranked prompts all of whose answers can be judged; for training the judgement must fit into SFT too."""
        if not prompts:
            return ()
        limit, reason = self._judging_limit(trained=name == "ranked")
        fitting, needed = [], []
        for row in prompts:
            tokens = max(
                self._judge_turn(sets, name, row.id, row.prompt, response.text) for response in row.responses
            )
            needed.append((tokens + self._judgement(), row.id))
            if needed[-1][0] <= limit:
                fitting.append(row)
        out = len(prompts) - len(fitting)
        self._report[name] = {
            **_spread([tokens for tokens, _ in needed]),
            "tooLongToJudge": out,
            "limit": limit,
        }
        if out > MOST_EXCLUDED * len(prompts):
            longest, where = max(needed)
            shortest = min(needed)[0]
            self._problems.add(
                BadConfiguration(
                    f"{out} of {len(prompts)} {name} prompts cannot be judged: judge prompt, answer and "
                    f"judge.maxTokens ({self._parameters.judge.max_tokens}) need {shortest} to {longest} "
                    f"tokens (the longest: {sets.places[name].place(where)}), but {reason} is {limit}: "
                    "raise it, or lower judge.maxTokens"
                )
            )
        return tuple(fitting)

    def _judging_limit(self, *, trained: bool) -> tuple[int, str]:
        parameters = self._parameters
        limits = [(parameters.sft.max_length, "sft.maxLength")] if trained else []
        if self._judge_encoder is not self._encoder:
            # A dedicated judge has a pool of its own, which is given at least sft.maxLength.
            return parameters.sft.max_length, "sft.maxLength"
        if self._positions is not None:
            limits.append((self._positions, "the model's longest sequence"))
        server = parameters.max_model_len
        limits.append(
            (server, "serving.maxModelLen") if server else (parameters.sft.max_length, "sft.maxLength")
        )
        return min(limits)

    def _generated(self, sets: SeedSets) -> None:
        """Answers and judgements of full length, and few-shot prompts, for prompts as long as the seed's usual ones."""
        parameters = self._parameters
        limits = [
            (self._positions, "the model's longest sequence"),
            (parameters.max_model_len, "serving.maxModelLen"),
        ]
        known = [(number, name) for number, name in limits if number is not None]
        usual = self._usual_prompt(sets)
        prompt = len(self._encode(sets, "instructions", usual.id, usual.prompt))
        answer = parameters.responses.max_tokens
        judged = (
            self._judge_turn(sets, "instructions", usual.id, usual.prompt, "") + answer + self._judgement()
        )
        needs = [
            ("responses", prompt + answer, f"a prompt ({prompt} tokens) and responses.maxTokens ({answer})")
        ]
        if self._judge_encoder is self._encoder:
            needs.append(
                (
                    "judging",
                    judged,
                    f"judge prompt, responses.maxTokens ({answer}) and judge.maxTokens ({parameters.judge.max_tokens})",
                )
            )
        writer = parameters.prompt_generation.writer
        if writer.endpoint is None and writer.model_uri is None:
            needs.append(self._few_shot(sets, usual))
        self._report["generated"] = {"prompt": prompt, **{name: tokens for name, tokens, _ in needs}}
        if not known:
            return
        limit, where = min(known)
        self._report["generated"]["limit"] = limit
        for name, tokens, parts in needs:
            if tokens > limit:
                self._problems.add(
                    BadConfiguration(
                        f"{name}: {parts} need {tokens} tokens, but {where} is {limit}: lower one of them by "
                        f"{tokens - limit}"
                        + (" or raise serving.maxModelLen" if where == "serving.maxModelLen" else "")
                    )
                )

    def _few_shot(self, sets: SeedSets, usual: Instruction) -> tuple[str, int, str]:
        generation = self._parameters.prompt_generation
        shots = generation.seed_shots + generation.generated_shots
        text = few_shot_prompt(
            [conversation_text(usual.prompt)] * shots, language=generation.filters.language
        ).text
        tokens = len(self._encode(sets, "instructions", usual.id, (Message("user", text),)))
        return (
            "promptGeneration",
            tokens + generation.max_tokens,
            f"{shots} examples ({tokens} tokens) and promptGeneration.maxTokens ({generation.max_tokens})",
        )

    def _usual_prompt(self, sets: SeedSets) -> Instruction:
        by_length = sorted(
            sets.instructions, key=lambda row: len(self._encoder.text(conversation_text(row.prompt)))
        )
        return by_length[math.ceil(TYPICAL * len(by_length)) - 1]

    def _judgement(self) -> int:
        """Tokens after the judge's turn: the judgement, and for a structured one the lead and the score."""
        judge = self._parameters.judge
        return judge.max_tokens + (
            len(self._judge_encoder.text(SCORE_LEAD)) + 1 if judge.format == "Structured" else 0
        )

    def _judge_turn(
        self, sets: SeedSets, name: str, identifier: str, prompt: Sequence[Message], answer: str
    ) -> int:
        turn = Message("user", self._prompt.render(prompt, answer))
        return len(self._encode(sets, name, identifier, (turn,), encoder=self._judge_encoder))

    def _encode(
        self,
        sets: SeedSets,
        name: str,
        identifier: str,
        messages: Sequence[Message],
        *,
        encoder: ChatEncoder | None = None,
    ) -> list[int]:
        try:
            return (encoder or self._encoder).prompt(messages_json(messages))
        except ChatTemplateError as error:
            raise _refused(sets, name, identifier, error) from None

    def _example(self, sets: SeedSets, name: str, identifier: str, messages: Sequence[dict[str, str]]) -> int:
        try:
            return len(self._encoder.example(messages).input_ids)
        except ChatTemplateError as error:
            raise _refused(sets, name, identifier, error) from None


def _refused(sets: SeedSets, name: str, identifier: str, error: ChatTemplateError) -> BadData:
    return BadData(
        f"{sets.places[name].place(identifier)}: {error}. Change the row's roles to what the model's chat "
        "template takes, or set spec.model.chatTemplate to one that takes them."
    )


def _spread(lengths: Sequence[int]) -> dict[str, int]:
    """Tokens: the median, the length that nine of ten do not exceed, the longest."""
    ordered = sorted(lengths)
    return {
        "rows": len(ordered),
        "median": ordered[(len(ordered) - 1) // 2],
        "p90": ordered[math.ceil(TYPICAL * len(ordered)) - 1],
        "longest": ordered[-1],
    }

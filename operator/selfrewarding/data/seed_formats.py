"""Readers of seed data files: one JSON object a line, in one of the formats of `seedData.*.format`.

==============  ===================================================================================================
format          row
==============  ===================================================================================================
PromptResponse  `{"prompt": text or messages, "response": text}`
Messages        `{"messages": [{"role", "content"}, …]}`, the last one from the assistant
SelfInstruct    `{"instruction", "instances": [{"input", "output"}], "is_classification"}`; classification is left out
OpenAssistant   a message tree as that project exports them: :mod:`selfrewarding.data.openassistant`
Ranked          `{"prompt", "responses": [{"text", "rank"}, …]}`, rank 0 best, equal ranks allowed but not only these;
                `category` (or `subset`): metrics are told for each as well
Evaluations     `{"messages": [judge's turn, judgement]}` or `{"prompt", "response", "judgement"}`
==============  ===================================================================================================

All may have `id` and `language` (`en`, `ko` …) too. Any defect is a :class:`DataError` with file, line and field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

from selfrewarding.api.data import Language
from selfrewarding.data.errors import DataError, shown
from selfrewarding.data.jsonl import Row
from selfrewarding.data.judge_prompt import JudgePrompt
from selfrewarding.data.judgements import parse_judgement
from selfrewarding.data.openassistant import read_trees
from selfrewarding.data.rows import (
    Fields,
    Identifiers,
    MessageFields,
    PromptFields,
    parse_prompt,
    parse_row,
    require_text,
)
from selfrewarding.data.seed_rows import (
    Evaluation,
    Instruction,
    RankedPrompt,
    RankedResponse,
    SeedRow,
    SeedSet,
)

_Kind = Literal["instructions", "ranked", "evaluations"]
_FORMATS: dict[_Kind, tuple[str, ...]] = {
    "instructions": ("PromptResponse", "Messages", "SelfInstruct", "OpenAssistant"),
    "ranked": ("Ranked", "OpenAssistant"),
    "evaluations": ("Evaluations",),
}


class _Common(Fields):
    id: str | int | None = None
    language: str | None = None


class _PromptResponseFields(_Common, PromptFields):
    response: str


class _MessagesFields(_Common):
    messages: list[MessageFields]


class _Instance(Fields):
    input: str
    output: str


class _SelfInstructFields(_Common):
    instruction: str
    instances: list[_Instance]
    is_classification: bool


class _RankedResponseFields(Fields):
    text: str
    rank: int


class _RankedFields(_Common, PromptFields):
    responses: list[_RankedResponseFields]
    category: str | None = None
    subset: str | None = None


class _JudgedFields(_Common, PromptFields):
    response: str
    judgement: str


def read_instructions(
    rows: Iterable[Row], file_format: str, *, language: Language = "Any", source: str
) -> SeedSet[Instruction]:
    """IFT rows: prompts with good answers. From trees: the first turn with the answer of rank 0.

    Args:
        rows: the file's rows.
        file_format: see the module.
        language: keep only rows of this language, where they say theirs.
        source: what errors about the file as a whole call it.

    Raises:
        DataError: a defective or duplicate row, no row at all, or a format that has no such rows.
    """
    if file_format == "OpenAssistant":
        trees = read_trees(rows, language=language, source=source)
        kept = tuple(tree.instruction() for tree in trees.rows if tree.has_best)
        skipped = trees.skipped + Counter(no_answer_of_rank_0=len(trees.rows) - len(kept))
        return _not_empty(SeedSet(kept, trees.read, +skipped), source)
    readers: dict[str, Callable[[Row, Identifiers], Instruction | str]] = {
        "PromptResponse": _prompt_response,
        "Messages": _messages,
        "SelfInstruct": _self_instruct,
    }
    return _read(rows, "instructions", readers, file_format=file_format, language=language, source=source)


def read_ranked(
    rows: Iterable[Row], file_format: str, *, language: Language = "Any", source: str
) -> SeedSet[RankedPrompt]:
    """Prompts with human-ranked answers; arguments and errors as for :func:`read_instructions`."""
    if file_format == "OpenAssistant":
        trees = read_trees(rows, language=language, source=source)
        kept = tuple(tree.ranked() for tree in trees.rows if tree.has_order)
        skipped = trees.skipped + Counter(no_two_different_ranks=len(trees.rows) - len(kept))
        return _not_empty(SeedSet(kept, trees.read, +skipped), source)
    return _read(
        rows, "ranked", {"Ranked": _ranked}, file_format=file_format, language=language, source=source
    )


def read_evaluations(
    rows: Iterable[Row],
    judge: JudgePrompt,
    *,
    minimum: int = 0,
    maximum: int = 5,
    decimals: bool = False,
    language: Language = "Any",
    source: str,
) -> SeedSet[Evaluation]:
    """A user's own EFT rows; each judgement must end in a score that the judge's own grammar takes.

    Raises:
        DataError: as :func:`read_instructions`, and for a judgement without a valid score line.
    """

    def reader(row: Row, ids: Identifiers) -> Evaluation:
        return _evaluation(row, ids, judge, (minimum, maximum, decimals))

    readers: dict[str, Callable[[Row, Identifiers], Evaluation | str]] = {"Evaluations": reader}
    return _read(rows, "evaluations", readers, file_format="Evaluations", language=language, source=source)


def _read(
    rows: Iterable[Row],
    kind: _Kind,
    readers: dict[str, Callable[[Row, Identifiers], SeedRow | str]],
    *,
    file_format: str,
    language: Language,
    source: str,
) -> SeedSet[SeedRow]:
    if file_format not in readers:
        raise DataError(
            file=source,
            field="format",
            found=file_format,
            expected=f"one of {', '.join(_FORMATS[kind])}",
            remedy=f"Rows of this format cannot serve as {kind}.",
        )
    ids = Identifiers()
    lines: dict[str, int] = {}
    kept: list[SeedRow] = []
    skipped: Counter[str] = Counter()
    read = 0
    for row in rows:
        read += 1
        if not row.value:
            raise row.error(
                found="an empty object", expected="a seed row", remedy="Delete the line or fill the row in."
            )
        result = readers[file_format](row, ids)
        if isinstance(result, str):
            skipped[result] += 1
            continue
        if (first := lines.setdefault(result.key, row.line)) != row.line:
            raise row.error(
                found=f"the same content as line {first}",
                expected="each row once",
                remedy="Delete one of the two: a duplicate counts double in training.",
            )
        if not speaks(row.value.get("language"), language):
            skipped["other_language"] += 1
            continue
        kept.append(result)
    return _not_empty(SeedSet(tuple(kept), read, skipped), source)


def _not_empty(seeds: SeedSet[SeedRow], source: str) -> SeedSet[SeedRow]:
    if seeds.rows:
        return seeds
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(seeds.skipped.items()))
    raise DataError(
        file=source,
        found=f"no usable row among {seeds.read}" + (f" ({reasons})" if reasons else ""),
        expected="at least one row",
        remedy="Check the file, its `format` and the `language` that is asked for.",
    )


_LANGUAGE_CODES = {"English": ("en", "english"), "Korean": ("ko", "korean")}


def speaks(stated: object, wanted: Language) -> bool:
    """Whether a row with this `language` (`en`, `en-GB`, `English`; None if it says nothing) is wanted."""
    if wanted == "Any" or not isinstance(stated, str) or not stated:
        return True
    return stated.casefold().replace("_", "-").partition("-")[0] in _LANGUAGE_CODES[wanted]


def _prompt_response(row: Row, ids: Identifiers) -> Instruction:
    fields = parse_row(row, _PromptResponseFields)
    prompt = parse_prompt(row, fields.prompt)
    return Instruction(ids.claim(row, fields.id), prompt, require_text(row, "response", fields.response))


def _messages(row: Row, ids: Identifiers) -> Instruction:
    fields = parse_row(row, _MessagesFields)
    if not fields.messages or fields.messages[-1].role != "assistant":
        last = len(fields.messages) - 1
        raise row.error(
            field=f"messages[{last}].role" if fields.messages else "messages",
            found=shown(fields.messages[-1].role) if fields.messages else "no messages",
            expected='"assistant" in the last message: the answer to learn',
            remedy="Add the answer or drop the row.",
        )
    prompt = parse_prompt(row, fields.messages[:-1], field="messages")
    answer = require_text(row, f"messages[{len(fields.messages) - 1}].content", fields.messages[-1].content)
    return Instruction(ids.claim(row, fields.id), prompt, answer)


def _self_instruct(row: Row, ids: Identifiers) -> Instruction | str:
    fields = parse_row(row, _SelfInstructFields)
    name = ids.claim(row, fields.id)
    if fields.is_classification:
        return "classification"
    if not fields.instances:
        raise row.error(
            field="instances",
            found="an empty list",
            expected="at least one instance with its output",
            remedy="Add the answer or drop the row.",
        )
    instance = fields.instances[0]
    require_text(row, "instruction", fields.instruction)
    text = f"{fields.instruction}\n\n{instance.input}" if instance.input.strip() else fields.instruction
    answer = require_text(row, "instances[0].output", instance.output)
    return Instruction(name, parse_prompt(row, text, field="instruction"), answer)


def _ranked(row: Row, ids: Identifiers) -> RankedPrompt:
    fields = parse_row(row, _RankedFields)
    prompt = parse_prompt(row, fields.prompt)
    if len(fields.responses) < 2:
        raise row.error(
            field="responses",
            found=f"{len(fields.responses)} of them",
            expected="at least two answers to rank",
            remedy="Add answers or drop the row.",
        )
    ranks: dict[str, int] = {}
    for index, response in enumerate(fields.responses):
        require_text(row, f"responses[{index}].text", response.text)
        if response.text.strip() in ranks:
            earlier = ranks[response.text.strip()]
            contradicts = fields.responses[earlier].rank != response.rank
            raise row.error(
                field=f"responses[{index}].text",
                found=f"the text of responses[{earlier}] again"
                + (", with another rank" if contradicts else ""),
                expected="each answer once, with one rank",
                remedy="Delete one of the two.",
            )
        ranks[response.text.strip()] = index
    if len({response.rank for response in fields.responses}) < 2:
        raise row.error(
            field="responses",
            found=f"rank {fields.responses[0].rank} for all {len(fields.responses)} answers",
            expected="at least two different ranks",
            remedy="Rank the answers (0 is best) or drop the row.",
        )
    return RankedPrompt(
        ids.claim(row, fields.id),
        prompt,
        tuple(RankedResponse(response.text, response.rank) for response in fields.responses),
        fields.category or fields.subset or None,
    )


def _evaluation(row: Row, ids: Identifiers, judge: JudgePrompt, scale: tuple[int, int, bool]) -> Evaluation:
    minimum, maximum, decimals = scale
    if "messages" in row.value:
        fields = parse_row(row, _MessagesFields)
        if [message.role for message in fields.messages] != ["user", "assistant"]:
            raise row.error(
                field="messages",
                found=f"the roles {shown(', '.join(message.role for message in fields.messages))}",
                expected="two messages: the judge's turn (user) and its judgement (assistant)",
                remedy="Write the judge prompt into the user's turn, or use the fields prompt, response and judgement.",
            )
        prompt = None
        turn = require_text(row, "messages[0].content", fields.messages[0].content)
        field, judgement = "messages[1].content", fields.messages[1].content
        name = ids.claim(row, fields.id)
    else:
        judged = parse_row(row, _JudgedFields)
        prompt = parse_prompt(row, judged.prompt)
        turn = judge.render(prompt, require_text(row, "response", judged.response))
        field, judgement = "judgement", judged.judgement
        name = ids.claim(row, judged.id)
    parsed = parse_judgement(judgement, minimum=minimum, maximum=maximum, decimals=decimals)
    if parsed.score is None:
        raise row.error(
            field=field,
            found=f"no score ({parsed.reason}) in {shown(judgement)}",
            expected=f"a justification that ends in a line `Score: <{minimum}–{maximum}>`",
            remedy="Put the score on a line of its own at the end.",
        )
    return Evaluation(name, turn, judgement.strip(), parsed.score, prompt)

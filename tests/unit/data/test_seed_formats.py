"""Seed files: every format, every defect with its line and field, and Open Assistant's trees."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from selfrewarding.data.errors import DataError
from selfrewarding.data.jsonl import Row, read_rows
from selfrewarding.data.judge_prompt import judge_prompt
from selfrewarding.data.rows import Message
from selfrewarding.data.seed_formats import read_evaluations, read_instructions, read_ranked, speaks
from selfrewarding.data.seed_rows import RankedResponse


def rows(*values: dict[str, Any]) -> list[Row]:
    return [Row("seeds.jsonl", line, value) for line, value in enumerate(values, 1)]


def instructions(file_format: str, *values: dict[str, Any], **options: Any) -> Any:
    return read_instructions(rows(*values), file_format, source="seeds.jsonl", **options)


def ranked(file_format: str, *values: dict[str, Any], **options: Any) -> Any:
    return read_ranked(rows(*values), file_format, source="seeds.jsonl", **options)


def evaluations(*values: dict[str, Any], **options: Any) -> Any:
    return read_evaluations(rows(*values), judge_prompt(), source="seeds.jsonl", **options)


WHY = {"role": "user", "content": "Why?"}
BECAUSE = {"role": "assistant", "content": "Because."}
ANSWERS = [{"text": "Because.", "rank": 0}, {"text": "No idea.", "rank": 1}]
TASK = {
    "id": "seed_task_0",
    "name": "x",
    "instruction": "Sort the words.",
    "instances": [{"input": "b a", "output": "a b"}],
    "is_classification": False,
}

INSTRUCTIONS: dict[str, tuple[str, dict[str, Any], tuple[Message, ...], str]] = {
    "prompt and response": (
        "PromptResponse",
        {"prompt": "Why?", "response": "Because."},
        (Message("user", "Why?"),),
        "Because.",
    ),
    "messages as prompt": (
        "PromptResponse",
        {"prompt": [WHY], "response": "Because."},
        (Message("user", "Why?"),),
        "Because.",
    ),
    "messages": ("Messages", {"messages": [WHY, BECAUSE]}, (Message("user", "Why?"),), "Because."),
    "a conversation": (
        "Messages",
        {"messages": [{"role": "system", "content": "Be brief."}, WHY, BECAUSE, WHY, BECAUSE]},
        (
            Message("system", "Be brief."),
            Message("user", "Why?"),
            Message("assistant", "Because."),
            Message("user", "Why?"),
        ),
        "Because.",
    ),
    "a seed task with input": ("SelfInstruct", TASK, (Message("user", "Sort the words.\n\nb a"),), "a b"),
    "a seed task without input": (
        "SelfInstruct",
        TASK | {"instances": [{"input": "", "output": "done"}]},
        (Message("user", "Sort the words."),),
        "done",
    ),
}


@pytest.mark.parametrize(
    ("file_format", "value", "prompt", "response"), INSTRUCTIONS.values(), ids=INSTRUCTIONS
)
def test_instructions_are_read_from_every_format(
    file_format: str, value: dict[str, Any], prompt: tuple[Message, ...], response: str
) -> None:
    (row,) = instructions(file_format, value).rows
    assert (row.prompt, row.response) == (prompt, response)
    assert row.as_row()["messages"][-1] == {"role": "assistant", "content": response}


def test_equal_content_has_one_key_whatever_the_format() -> None:
    keys = {
        instructions("PromptResponse", {"id": 7, "prompt": "Why?", "response": "Because."}).rows[0].key,
        instructions("Messages", {"messages": [WHY, BECAUSE]}).rows[0].key,
    }
    assert len(keys) == 1


def test_classification_tasks_are_left_out_and_counted() -> None:
    found = instructions("SelfInstruct", TASK, TASK | {"id": "seed_task_1", "is_classification": True})
    assert found.as_json() == {"read": 2, "kept": 1, "skipped": {"classification": 1}}


def test_ranked_rows_are_read() -> None:
    (row,) = ranked("Ranked", {"id": "r1", "prompt": "Why?", "responses": ANSWERS}).rows
    assert "category" not in row.as_row()
    assert row.responses == (RankedResponse("Because.", 0), RankedResponse("No idea.", 1))
    assert row.as_row()["responses"] == ANSWERS


@pytest.mark.parametrize("field", ["category", "subset"])
def test_the_category_of_a_ranked_row_is_kept_and_is_no_part_of_its_content(field: str) -> None:
    plain = {"id": "r1", "prompt": "Why?", "responses": ANSWERS}
    (row,) = ranked("Ranked", plain | {field: "Neighbor"}).rows
    (without,) = ranked("Ranked", plain).rows
    assert row.as_row()["category"] == "Neighbor"
    assert row.key == without.key
    assert row.measured_key != without.measured_key == without.key


JUDGEMENT = "It is right.\nScore: 4"


def test_evaluations_are_read_from_both_forms() -> None:
    turn = judge_prompt().render((Message("user", "Why?"),), "Because.")
    found = evaluations(
        {"prompt": "Why?", "response": "Because.", "judgement": JUDGEMENT + "\n"},
        {"messages": [{"role": "user", "content": "Grade it."}, {"role": "assistant", "content": JUDGEMENT}]},
    )
    first, second = found.rows
    assert (first.judge_turn, first.judgement, first.score) == (turn, JUDGEMENT, Fraction(4))
    assert (second.judge_turn, second.prompt) == ("Grade it.", None)
    assert [message["role"] for message in second.as_row()["messages"]] == ["user", "assistant"]


def test_evaluations_keep_to_the_judges_scale() -> None:
    row = {"prompt": "Why?", "response": "Because.", "judgement": "Fine.\nScore: 9"}
    with pytest.raises(DataError, match="out_of_range"):
        evaluations(row)
    assert evaluations(row, maximum=10).rows[0].score == 9


def test_languages_are_filtered_where_rows_say_theirs() -> None:
    found = instructions(
        "PromptResponse",
        {"prompt": "Why?", "response": "Because.", "language": "en"},
        {"prompt": "왜?", "response": "그래서.", "language": "ko"},
        {"prompt": "Pourquoi ?", "response": "Parce que."},
        language="Korean",
    )
    assert [row.response for row in found.rows] == ["그래서.", "Parce que."]
    assert found.as_json() == {"read": 3, "kept": 2, "skipped": {"other_language": 1}}


@pytest.mark.parametrize(
    ("stated", "wanted"), [("en", True), ("en-GB", True), ("EN_us", True), ("English", True), ("ko", False)]
)
def test_a_language_may_be_written_in_several_ways(stated: str, wanted: bool) -> None:
    assert speaks(stated, "English") is wanted


Reader = Callable[..., Any]
PR: Reader = lambda *values: instructions("PromptResponse", *values)  # noqa: E731
MESSAGES: Reader = lambda *values: instructions("Messages", *values)  # noqa: E731
TASKS: Reader = lambda *values: instructions("SelfInstruct", *values)  # noqa: E731
RANKED: Reader = lambda *values: ranked("Ranked", *values)  # noqa: E731
GOOD = {"prompt": "Why?", "response": "Because."}


def answers(*pairs: tuple[str, int]) -> dict[str, Any]:
    return {"prompt": "Why?", "responses": [{"text": text, "rank": rank} for text, rank in pairs]}


DEFECTS: dict[str, tuple[Reader, list[dict[str, Any]], int, str | None, str]] = {
    "no answer": (PR, [{"prompt": "Why?"}], 1, "response", "no such field"),
    "an empty answer": (PR, [GOOD, GOOD | {"response": " "}], 2, "response", "only spaces"),
    "an empty prompt": (PR, [GOOD | {"prompt": ""}], 1, "prompt", "an empty text"),
    "an empty row": (PR, [GOOD, {}], 2, None, "an empty object"),
    "a duplicate row": (PR, [GOOD, GOOD | {"id": 7}], 2, None, "the same content as line 1"),
    "an id twice": (
        PR,
        [GOOD | {"id": 1}, GOOD | {"id": 1, "prompt": "How?"}],
        2,
        "id",
        '"1" again (first on line 1)',
    ),
    "null for an answer": (PR, [GOOD | {"response": None}], 1, "response", "null"),
    "no messages": (MESSAGES, [{"messages": []}], 1, "messages", "no messages"),
    "no assistant at the end": (MESSAGES, [{"messages": [WHY]}], 1, "messages[0].role", '"user"'),
    "no prompt before the answer": (MESSAGES, [{"messages": [BECAUSE]}], 1, "messages", "no messages"),
    "an empty assistant": (
        MESSAGES,
        [{"messages": [WHY, {"role": "assistant", "content": ""}]}],
        1,
        "messages[1].content",
        "an empty text",
    ),
    "a message without content": (
        MESSAGES,
        [{"messages": [{"role": "user"}]}],
        1,
        "messages[0].content",
        "no such field",
    ),
    "a task without instance": (TASKS, [TASK | {"instances": []}], 1, "instances", "an empty list"),
    "a task without output": (
        TASKS,
        [TASK | {"instances": [{"input": "", "output": ""}]}],
        1,
        "instances[0].output",
        "an empty text",
    ),
    "a rank missing": (
        RANKED,
        [{"prompt": "Why?", "responses": [{"text": "a", "rank": 0}, {"text": "b"}]}],
        1,
        "responses[1].rank",
        "no such field",
    ),
    "null for a rank": (
        RANKED,
        [{"prompt": "Why?", "responses": [{"text": "a", "rank": None}, {"text": "b", "rank": 1}]}],
        1,
        "responses[0].rank",
        "null",
    ),
    "a fraction for a rank": (
        RANKED,
        [{"prompt": "Why?", "responses": [{"text": "a", "rank": 0.5}, {"text": "b", "rank": 1}]}],
        1,
        "responses[0].rank",
        "0.5",
    ),
    "one answer to rank": (RANKED, [answers(("a", 0))], 1, "responses", "1 of them"),
    "equal ranks only": (RANKED, [answers(("a", 1), ("b", 1))], 1, "responses", "rank 1 for all 2 answers"),
    "one answer under two ranks": (
        RANKED,
        [answers(("a", 0), ("b", 1), (" a", 2))],
        1,
        "responses[2].text",
        "the text of responses[0] again, with another rank",
    ),
    "an answer twice": (
        RANKED,
        [answers(("a", 0), ("a", 0), ("b", 1))],
        1,
        "responses[1].text",
        "the text of responses[0] again",
    ),
    "an empty ranked answer": (RANKED, [answers(("a", 0), ("", 1))], 1, "responses[1].text", "an empty text"),
    "a judgement without a score": (
        evaluations,
        [{"prompt": "Why?", "response": "a", "judgement": "It is right."}],
        1,
        "judgement",
        'no score (missing) in "It is right."',
    ),
    "a judgement message without a score": (
        evaluations,
        [{"messages": [WHY, {"role": "assistant", "content": "Score: 3.5"}]}],
        1,
        "messages[1].content",
        'no score (malformed) in "Score: 3.5"',
    ),
    "three messages in an evaluation": (
        evaluations,
        [{"messages": [WHY, BECAUSE, WHY]}],
        1,
        "messages",
        'the roles "user, assistant, user"',
    ),
    "an evaluation without an answer": (
        evaluations,
        [{"prompt": "Why?", "judgement": "x"}],
        1,
        "response",
        "no such field",
    ),
}


@pytest.mark.parametrize(("reader", "values", "line", "field", "found"), DEFECTS.values(), ids=DEFECTS)
def test_a_defective_row_is_an_error_with_its_line_and_field(
    reader: Reader, values: list[dict[str, Any]], line: int, field: str | None, found: str
) -> None:
    with pytest.raises(DataError) as caught:
        reader(*values)
    error = caught.value
    assert (error.file, error.line, error.field, error.found) == ("seeds.jsonl", line, field, found)


@pytest.mark.parametrize(
    ("read", "file_format", "expected"),
    [
        (instructions, "Ranked", "one of PromptResponse, Messages, SelfInstruct, OpenAssistant"),
        (instructions, "Evaluations", "one of PromptResponse, Messages, SelfInstruct, OpenAssistant"),
        (ranked, "Messages", "one of Ranked, OpenAssistant"),
    ],
)
def test_a_format_that_holds_no_such_rows_is_refused(read: Reader, file_format: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        read(file_format, GOOD)
    assert caught.value.expected == expected


@pytest.mark.parametrize("file_format", ["PromptResponse", "OpenAssistant"])
def test_a_file_without_rows_is_an_error(file_format: str) -> None:
    with pytest.raises(DataError, match="found no"):
        instructions(file_format)


def test_a_file_without_rows_of_the_language_says_what_was_left_out() -> None:
    with pytest.raises(DataError, match=r"no usable row among 1 \(1 other_language\)"):
        instructions("PromptResponse", GOOD | {"language": "ko"}, language="English")


def reply(text: str, rank: int | None, **changes: Any) -> dict[str, Any]:
    return {
        "text": text,
        "role": "assistant",
        "lang": "en",
        "deleted": False,
        "rank": rank,
        "replies": [],
    } | changes


def tree(identifier: str, *replies: dict[str, Any], text: str = "", **changes: Any) -> dict[str, Any]:
    prompt = {
        "text": text or f"Question {identifier}?",
        "role": "prompter",
        "lang": "en",
        "replies": list(replies),
    }
    return {"message_tree_id": identifier, "tree_state": "ready_for_export", "prompt": prompt | changes}


def test_a_tree_gives_its_best_answer_or_all_ranked_ones() -> None:
    value = tree("t", reply("second", 1), reply("best", 0), reply("unranked", None))
    (instruction,) = instructions("OpenAssistant", value).rows
    assert (instruction.id, instruction.response) == ("t", "best")
    (prompt,) = ranked("OpenAssistant", value).rows
    assert [(response.text, response.rank) for response in prompt.responses] == [("best", 0), ("second", 1)]


LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "a tree in the making": (
        tree("x", reply("a", 0), reply("b", 1)) | {"tree_state": "growing"},
        "tree_not_ready",
    ),
    "a deleted prompt": (tree("x", reply("a", 0), deleted=True), "prompt_deleted_or_rejected"),
    "a rejected prompt": (tree("x", reply("a", 0), review_result=False), "prompt_deleted_or_rejected"),
    "an assistant that begins": (tree("x", reply("a", 0), role="assistant"), "prompt_deleted_or_rejected"),
    "another language": (tree("x", reply("a", 0), lang="de"), "other_language"),
    "an empty prompt": (tree("x", reply("a", 0), text=" "), "empty_prompt"),
    "no reply": (tree("x"), "no_ranked_reply"),
    "no ranked reply": (tree("x", reply("a", None)), "no_ranked_reply"),
    "only a deleted reply": (tree("x", reply("a", 0, deleted=True)), "no_ranked_reply"),
    "only a rejected reply": (tree("x", reply("a", 0, review_result=False)), "no_ranked_reply"),
    "only an empty reply": (tree("x", reply(" ", 0)), "no_ranked_reply"),
    "only a reply in another language": (tree("x", reply("a", 0, lang="de")), "no_ranked_reply"),
    "the best reply deleted": (tree("x", reply("a", 0, deleted=True), reply("b", 1)), "no_answer_of_rank_0"),
}


@pytest.mark.parametrize(("value", "reason"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_trees_that_cannot_be_used_are_counted(value: dict[str, Any], reason: str) -> None:
    found = instructions("OpenAssistant", tree("good", reply("a", 0)), value, language="English")
    assert found.as_json() == {"read": 2, "kept": 1, "skipped": {reason: 1}}


def test_the_same_text_under_two_ranks_keeps_the_better_one() -> None:
    (row,) = ranked("OpenAssistant", tree("t", reply("a", 2), reply("a", 0), reply("b", 1))).rows
    assert [(response.text, response.rank) for response in row.responses] == [("a", 0), ("b", 1)]


BAD_TREES: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "a single message": ([{"message_id": "x", "text": "a", "role": "prompter"}], "message_tree_id"),
    "a reply without text": ([tree("t", {"role": "assistant", "rank": 0})], "prompt.replies[0].text"),
    "a rank below zero": ([tree("t", reply("a", -1))], "prompt.replies[0].rank"),
    "a rank that is a text": ([tree("t", reply("a", 0) | {"rank": "best"})], "prompt.replies[0].rank"),
    "a tree twice": ([tree("t", reply("a", 0)), tree("t", reply("a", 0))], "id"),
    "a tree twice under two ids": (
        [tree("t", reply("a", 0), text="Q"), tree("u", reply("a", 0), text="Q")],
        None,
    ),
}


@pytest.mark.parametrize(("values", "field"), BAD_TREES.values(), ids=BAD_TREES)
def test_what_is_no_tree_is_an_error(values: list[dict[str, Any]], field: str | None) -> None:
    with pytest.raises(DataError) as caught:
        instructions("OpenAssistant", *values)
    assert caught.value.field == field


def test_the_shipped_seed_rows_are_valid(repository: Path) -> None:
    folder = repository / "crds" / "examples" / "seeds"
    found = {
        "instructions.jsonl": read_instructions(
            read_rows(folder / "instructions.jsonl"), "PromptResponse", source="instructions.jsonl"
        ),
        "ranked.jsonl": read_ranked(read_rows(folder / "ranked.jsonl"), "Ranked", source="ranked.jsonl"),
    }
    for name, seeds in found.items():
        assert len(seeds.rows) == len((folder / name).read_text(encoding="utf-8").splitlines())


def test_rows_survive_being_written_as_json() -> None:
    row = instructions("Messages", {"messages": [WHY, BECAUSE]}).rows[0].as_row()
    assert json.loads(json.dumps(row)) == row

"""What rows have in common: chat messages, content keys, and turning a wrong field into a :class:`DataError`.

Formats of single files live with their readers (:mod:`seed_formats`, :mod:`openassistant`, :mod:`pairs` …).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from selfrewarding.data.errors import ascii_safe, shown
from selfrewarding.data.jsonl import Row

Role = Literal["system", "user", "assistant"]
JsonNumber = Annotated[float, Field(allow_inf_nan=False)]
"""A number as JSON has it (strict: a boolean or a text is none)."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def as_json(self) -> dict[str, str]:
        """The message as it stands in a row."""
        return {"role": self.role, "content": self.content}


class Fields(BaseModel):
    """Base of the row types at the border: strict types, further fields are allowed and ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class MessageFields(Fields):
    """A chat message as it stands in a row."""

    role: Role
    content: str


class PromptFields(Fields):
    """The `prompt` of a row: a text (one user turn) or a list of messages."""

    prompt: str | list[MessageFields]


FieldsType = TypeVar("FieldsType", bound=Fields)


def parse_row(row: Row, fields: type[FieldsType]) -> FieldsType:
    """Check a row against its type.

    Raises:
        DataError: the first wrong field, by its path, with what stands there.
    """
    try:
        return fields.model_validate(row.value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    # For a union (`prompt` is a text or messages) there is an error for each member: the deepest names the culprit, and
    # where they are equally deep all of them are what may stand there.
    places = [(_place(item["loc"], row.value, missing=item["type"] == "missing"), item) for item in errors]
    (path, value), first = max(places, key=lambda item: len(item[1]["loc"]))
    if first["type"] == "missing":
        raise row.error(
            field=path,
            found="no such field",
            expected=f"the field `{path}`",
            remedy=f"Add it; this row has {_names(row.value)}.",
        )
    expected = dict.fromkeys(_expectation(item) for (other, _), item in places if other == path)
    raise row.error(
        field=path, found=shown(value), expected=" or ".join(expected), remedy="Correct the field."
    )


def _names(value: dict[str, Any]) -> str:
    names = ", ".join(f"`{ascii_safe(name[:40])}`" for name in list(value)[:8])
    return names or "no fields"


def _place(location: tuple[int | str, ...], value: Any, *, missing: bool) -> tuple[str, Any]:
    """Path and value of an error; names of union members, which are in pydantic's location too, are left out."""
    path = ""
    for depth, part in enumerate(location):
        if isinstance(part, int) and isinstance(value, list):
            path += f"[{part}]"
            value = value[part]
        elif isinstance(part, str) and isinstance(value, dict) and part in value:
            path += f".{part}" if path else part
            value = value[part]
        elif missing and depth == len(location) - 1:
            path += f".{part}" if path else str(part)
    return path or "row", value


_EXPECTATIONS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "model_type": "an object",
    "dict_type": "an object",
    "bool_type": "true or false",
    "finite_number": "a finite number",
}


def _expectation(error: Any) -> str:
    if error["type"] == "literal_error":
        return f"one of {error['ctx']['expected']}"
    return _EXPECTATIONS.get(error["type"], str(error["msg"]).removeprefix("Input should be ").lower())


def parse_prompt(
    row: Row, prompt: str | Sequence[MessageFields], *, field: str = "prompt"
) -> tuple[Message, ...]:
    """The prompt of a row as messages: at least one, none of them empty, the last one the user's.

    Raises:
        DataError: the prompt is empty or does not end with the user.
    """
    if isinstance(prompt, str):
        messages: tuple[Message, ...] = (Message("user", prompt),)
    else:
        messages = tuple(Message(message.role, message.content) for message in prompt)
    if not messages:
        raise row.error(
            field=field,
            found="no messages",
            expected="at least the user's message",
            remedy="Add the prompt or drop the row.",
        )
    for index, message in enumerate(messages):
        if not message.content.strip():
            raise row.error(
                field=field if isinstance(prompt, str) else f"{field}[{index}].content",
                found="an empty text",
                expected="a text",
                remedy="Add the text or drop the row.",
            )
    if messages[-1].role != "user":
        raise row.error(
            field=f"{field}[{len(messages) - 1}].role",
            found=f'"{messages[-1].role}"',
            expected='"user" in the last message of a prompt',
            remedy="End the prompt with the user's turn; the answer goes into its own field.",
        )
    return messages


def content_key(content: Any) -> str:
    """The stable key of a row: sha256 over its content as canonical JSON (sorted names, no spaces, UTF-8)."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def messages_json(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as they stand in a row."""
    return [message.as_json() for message in messages]


def prompt_identity(messages: Sequence[Message]) -> str:
    """A digest that two prompts share if they are the same prompt to a reader (NFKC, case and spacing do not count)."""
    return content_key(
        [[message.role, normalised(message.content)] for message in messages if message.role != "system"]
    )


def normalised(text: str) -> str:
    """Text for comparing: NFKC, case-folded, spaces collapsed."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


class Identifiers:
    """The ids of the rows read so far; an id may stand once in a file."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}

    def claim(self, row: Row, value: str | int | None) -> str:
        """The row's id as text, `line-<n>` where it has none.

        Raises:
            DataError: an earlier row has this id.
        """
        name = f"line-{row.line}" if value is None else str(value)
        if name in self._lines:
            raise row.error(
                field="id",
                found=f"{shown(name)} again (first on line {self._lines[name]})",
                expected="each id once",
                remedy="Delete one of the two rows or give it an id of its own.",
            )
        self._lines[name] = row.line
        return name


def require_text(row: Row, field: str, text: str) -> str:
    """The text, which must hold more than spaces.

    Raises:
        DataError: it does not.
    """
    if text.strip():
        return text
    raise row.error(
        field=field,
        found="an empty text" if not text else "only spaces",
        expected="a text",
        remedy="Fill it in or drop the row.",
    )

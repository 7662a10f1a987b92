"""The one error for bad data: where it is, what was found, what is expected, what to do.

Must not print or exit; the command line and the stage programs decide how it is shown (exit code 2 or 3).
"""

from __future__ import annotations

_SHOWN = 80


class DataError(Exception):
    """Bad input data, described so that a person can repair it without reading code.

    Attributes:
        file: the file as the user named it, `-` for standard input.
        line: 1-based line, or None where the whole file is meant.
        field: dotted path within the row, such as `responses[2].rank`, or None where the whole row is meant.
        found: what stands there.
        expected: what should stand there.
        remedy: what the user can do about it.
    """

    def __init__(
        self,
        *,
        file: str,
        line: int | None = None,
        field: str | None = None,
        found: str,
        expected: str,
        remedy: str,
    ) -> None:
        self.file = file
        self.line = line
        self.field = field
        self.found = found
        self.expected = expected
        self.remedy = remedy
        super().__init__(file, line, field, found, expected, remedy)

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        field = "" if self.field is None else f"field `{self.field}`: "
        return f"{place}: {field}found {self.found}; expected {self.expected}. {self.remedy}"


def shown(value: object) -> str:
    """A short, printable, one-line form of a value for an error message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = ascii_safe(value[: _SHOWN + 1])
        return f'"{text[:_SHOWN]}…"' if len(value) > _SHOWN else f'"{text}"'
    if isinstance(value, dict):
        return f"an object with {len(value)} field{'' if len(value) == 1 else 's'}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a number of more than 80 digits"
    text = str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def ascii_safe(text: str) -> str:
    """Text with control characters and lone surrogates escaped, so that it can be printed on any terminal line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

"""Texts that models wrote, on a terminal: nothing in them moves the cursor, colours the screen or turns the line around.

Neighbours: `explain`, `measured_story` and `trace` print through this; `--json` gives texts as they are (JSON escapes
what must be).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.rule import Rule
    from rich.text import Text

SHOWN = 2000
"""Characters of a text that are shown without `--full`."""


def printable(text: str, *, full: bool = False) -> str:
    """The text with everything that a terminal would act on escaped, cut after `SHOWN` characters unless `full`."""
    left = 0 if full else len(text) - SHOWN
    cut = text[:SHOWN] if left > 0 else text
    safe = "".join(
        char
        if char.isprintable() or char in "\n\t"
        else char.encode("unicode_escape", "surrogatepass").decode()
        for char in cut
    )
    return f"{safe} … ({left:,} more characters: --full)" if left > 0 else safe


def quoted(text: str, *, full: bool = False, style: str = "") -> "Text":
    """A text for rich, in which square brackets are brackets."""
    from rich.text import Text

    return Text(printable(text, full=full), style=style, overflow="fold")


def heading(text: str, *, style: str = "rule.line") -> "Rule":
    """A line across the terminal with a text as it is: rich's own takes square brackets in it for markup."""
    from rich.rule import Rule

    return Rule(quoted(text), align="left", style=style)


def settled(settings: Mapping[str, Any]) -> str:
    """Settings on one line; what has parts is left to `--json`."""
    return ", ".join(
        f"{name} {value}" for name, value in settings.items() if not isinstance(value, dict | list)
    )


def print_judgement(console: "Console", judgement: Mapping[str, Any], *, full: bool) -> None:
    """One judgement of an answer, with its text."""
    score = judgement["score"]
    verdict = f"score {score:g}" if score is not None else f"invalid: {judgement['reason']}"
    where = f"judgement {judgement['sample']} (round {judgement['round']}, seed {judgement['seed']})"
    print_said(console, f"{where}: {verdict}", judgement["text"], full=full)


def print_said(console: "Console", what: str, text: str, *, full: bool) -> None:
    """What a judge wrote, indented below a line in bold."""
    console.print(quoted(f"\n  {what}", style="bold"))
    indented = printable(text, full=full).replace("\n", "\n  ")
    console.print(quoted(f"  {indented}", full=True))

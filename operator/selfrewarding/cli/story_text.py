"""Texts that models wrote, on a terminal: nothing in them moves the cursor, colours the screen or turns the line around.

Neighbours: `explain` and `trace` print through this; `--json` gives texts as they are (JSON escapes what must be).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

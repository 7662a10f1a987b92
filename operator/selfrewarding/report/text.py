"""Texts that models wrote, made fit for a page: escaped, cut, and with nothing invisible left in them.

Purpose: a model's text can neither become markup nor change how the text around it is read. Control and format
characters (bidirectional overrides, zero-width joins, tags, NUL) are shown as what they are; a run of equal ones is
shown once with its number.
Must not: let any text through that `markupsafe` has not escaped.
Neighbours: every template shows texts by `shown`; `<bdi>` around them isolates their direction.
"""

import re
import unicodedata

from markupsafe import Markup, escape

_VISIBLE = frozenset("\n\t\u200c\u200d")
"""Line breaks and tabs, and the joiners that Persian, Hindi and emoji are written with."""
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SUSPECT = re.compile(r"([^\n\t -~\u00a1-\u00ac\u00ae-\u02ff\u1100-\u115e\u3041-\u3096\uac00-\ud7a3])\1*")
"""Runs of one character, of those that are not at once known to be visible: most texts are passed over quickly."""
_MOST_NAMED = 200
"""A text with more runs of invisible characters is cut there: it is no text, and naming each would fill the page."""
_SHORT = 16
"""Hex digits of a row's key that are enough to name it."""


def shown(text: str, limit: int) -> Markup:
    """The text as markup, at most about `limit` characters of it; says how much is cut."""
    end = limit if len(text) > limit + limit // 10 else len(text)
    kept = text[:end]
    parts: list[str] = []
    at = named = 0
    for match in _SUSPECT.finditer(kept):
        if not _is_invisible(match[1]):
            continue
        if named == _MOST_NAMED:
            end, kept = match.start(), kept[: match.start()]
            break
        parts += [str(escape(kept[at : match.start()])), _named(match[1], len(match[0]))]
        at = match.end()
        named += 1
    parts.append(str(escape(kept[at:])))
    if end < len(text):
        parts.append(f'<span class="cut">… {len(text) - end:,} more characters are not shown</span>')
    return Markup("".join(parts))  # noqa: S704 - every part is escaped above, or made of numbers and Unicode's own names


def plain(text: str, limit: int) -> str:
    """A short text for a line of its own: white space folded, invisible characters gone, cut with an ellipsis."""
    kept = " ".join("".join(char if not _is_invisible(char) else "·" for char in text[: 4 * limit]).split())
    return kept if len(kept) <= limit and len(text) <= 4 * limit else f"{kept[:limit].rstrip()}…"


def short_key(key: str) -> str:
    """A row's key as far as people, and `srr explain`, need it; of a comparison's the opponent too."""
    found = re.fullmatch(r"([a-z]+/)?([0-9a-f]{20,})", key)
    return plain(key, 48) if found is None else f"{found[1] or ''}{found[2][:_SHORT]}"


def _is_invisible(char: str) -> bool:
    return char not in _VISIBLE and unicodedata.category(char) in _INVISIBLE


def _named(char: str, count: int) -> str:
    name = unicodedata.name(char, "control character").lower()
    times = f" ×{count:,}" if count > 1 else ""
    return f'<span class="unseen" title="{escape(name)}">U+{ord(char):04X}{times}</span>'

"""Which known prompt a longer text holds word for word, such as the judge's turn of an evaluation row.

Purpose: own EFT rows in the form of messages do not name the prompt that they judge; it stands somewhere in the judge's
turn. Prompts that measure must not be there. Compared as a reader would: NFKC, case and spacing do not count.
Must not: find very short prompts ("Why?"), which stand in any text. Time is linear in the texts' length: a window of the
text is looked up among the prompts' beginnings. Neighbours: Prepare's `seed_sets` and `evaluation_prompts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from selfrewarding.data.rows import normalised

SHORTEST = 24
"""Characters that a prompt must have to be looked for."""


class PromptFinder:
    """Looks for prompts in texts; a prompt's number is its place in `prompts`."""

    def __init__(self, prompts: Iterable[str]) -> None:
        self._by_beginning: dict[str, list[tuple[int, str]]] = {}
        for number, prompt in enumerate(prompts):
            text = normalised(prompt)
            if len(text) >= SHORTEST:
                self._by_beginning.setdefault(text[:SHORTEST], []).append((number, text))

    def find(self, text: str) -> int | None:
        """The first prompt that stands in the text, or None."""
        if not self._by_beginning:
            return None
        whole = normalised(text)
        for start in range(len(whole) - SHORTEST + 1):
            candidates: Sequence[tuple[int, str]] = self._by_beginning.get(
                whole[start : start + SHORTEST], ()
            )
            for number, prompt in candidates:
                if whole.startswith(prompt, start):
                    return number
        return None

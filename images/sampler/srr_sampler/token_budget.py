"""A number of tokens that requests may use, kept also while many of them are under way.

Purpose: a request sets aside the most that it may cost before it is sent, and gives back what it did not use when it is
answered: so the sum can never exceed the budget, whatever order answers come in.
Must not: know what the requests are for; forget what earlier attempts used (the caller says it).
Neighbours: `compare` asks a referee within it.
"""

import asyncio


class TokenBudget:
    """See the module.

    Args:
        limit: tokens, prompt and completion; None: no limit.
        used: by earlier attempts.
    """

    def __init__(self, limit: int | None, used: int = 0) -> None:
        self.limit = limit
        self.used = used
        self._set_aside = 0
        self._ended = False
        self._in_line = (
            asyncio.Lock()
        )  # first come, first served: who asked earlier is not overtaken by a cheaper one
        self._changed = asyncio.Condition()

    async def reserve(self, tokens: int) -> bool:
        """Set tokens aside; False if what is left does not hold them, also after all that is under way has come back.

        After the first False all others are False too, so that a budget ends in one place of the order.
        """
        if self.limit is None:
            return True
        async with self._in_line, self._changed:
            while not self._ended and self.used + self._set_aside + tokens > self.limit:
                if not self._set_aside:
                    self._ended = True
                    break
                await self._changed.wait()
            if not self._ended:
                self._set_aside += tokens
            return not self._ended

    async def settle(self, reserved: int, used: int) -> None:
        """An answer came (or never will): what was reserved for it, and what it used."""
        async with self._changed:
            self.used += used
            if self.limit is not None:
                self._set_aside -= reserved
            self._changed.notify_all()

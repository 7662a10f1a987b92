"""Problems found in one pass, so that a user corrects all of them before the next attempt and not one after the other.

Purpose: collect what checks that do not depend on each other found, and raise it as one stage failure.
Must not: swallow what nobody foresaw, or what may pass by itself (a store that does not answer).
Neighbours: `prepare` runs its checks inside; `contract.program` turns the failure into exit code and message.
"""

from types import TracebackType

from selfrewarding.contract.program import BadConfiguration, BadData, Retry, StageFailure, StoreUnavailable
from selfrewarding.data.errors import DataError
from selfrewarding.store.errors import StoreError
from selfrewarding.store.failures import stage_failure


class Problems:
    """Bad configuration and bad data met so far, in order."""

    def __init__(self) -> None:
        self._found: list[StageFailure] = []

    def collecting(self) -> "Collecting":
        """A context: a failure of its body that somebody must correct is kept, and the next check goes on."""
        return Collecting(self)

    def add(self, failure: StageFailure) -> None:
        """Keep a failure without ending a check."""
        self._found.append(failure)

    def stop_if_any(self) -> None:
        """Raise what was found: the failure itself if it is one, else all of them in one.

        Raises StoreUnavailable if anything is wrong with a store (then it is tried again, and the rest told again), BadData
        if only data is to be corrected, else BadConfiguration.
        """
        if not self._found:
            return
        if len(self._found) == 1:
            raise self._found[0]
        kind: type[StageFailure] = BadConfiguration
        if any(isinstance(failure, StoreUnavailable) for failure in self._found):
            kind = StoreUnavailable
        elif all(isinstance(failure, BadData) for failure in self._found):
            kind = BadData
        listed = "\n".join(f"{number}. {failure}" for number, failure in enumerate(self._found, 1))
        raise kind(f"{len(self._found)} problems:\n{listed}")


class Collecting:
    """See `Problems.collecting`. A class, and no generator: so a type checker knows that the body may end early."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, StageFailure | StoreError | DataError):
            return False
        if isinstance(error, StoreError) and error.retryable:
            return False  # it does not answer: each further question would wait as long
        failure = error if isinstance(error, StageFailure) else stage_failure(error)
        if failure is None or isinstance(failure, Retry):
            return False
        self._problems.add(failure)
        return True

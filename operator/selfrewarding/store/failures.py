"""Errors of the store and of data as stage failures: which exit code each one means."""

from selfrewarding.contract.program import BadConfiguration, BadData, Retry, StageFailure
from selfrewarding.data.errors import DataError
from selfrewarding.store.errors import StoreError


def stage_failure(error: Exception) -> StageFailure | None:
    """The stage failure that an error means, or None for one that nobody foresaw."""
    if isinstance(error, StoreError):
        return Retry(str(error)) if error.retryable else BadConfiguration(str(error))
    if isinstance(error, DataError):
        return BadData(str(error))
    return None

"""Errors of the store and of data as stage failures: which exit code each one means.

What is wrong with a bucket, a file in it, or the credentials is mended where those are, and not in the run's spec: such
a stage is tried until it works. Only an address that no store can have is the spec's own mistake.
"""

from selfrewarding.contract.program import BadConfiguration, BadData, StageFailure, StoreUnavailable
from selfrewarding.data.errors import DataError
from selfrewarding.store.errors import Misconfigured, StoreError, Unsuitable


def stage_failure(error: Exception) -> StageFailure | None:
    """The stage failure that an error means, or None for one that nobody foresaw."""
    if isinstance(error, StoreError):
        spec = isinstance(error, Misconfigured) and not isinstance(error, Unsuitable)
        return BadConfiguration(str(error)) if spec else StoreUnavailable(str(error))
    if isinstance(error, DataError):
        return BadData(str(error))
    return None

"""What commands read of the run that a test file made (its fixture `run`)."""

import pytest
from tests.support.lineage_run import RUN, FinishedRun

from selfrewarding.store.run_results import RunResults, results_of_run


@pytest.fixture
def results(run: FinishedRun) -> RunResults:
    """The finished stages."""
    return results_of_run(run.store, RUN)

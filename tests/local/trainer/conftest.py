import signal
from collections.abc import Iterator

import pytest
from tests.support.training_stage import Inputs, prepared_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """One tiny model, its instructions and its pairs, for all tests of a process; nobody changes them."""
    return prepared_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A stage program takes SIGTERM over; the test runner gets it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)

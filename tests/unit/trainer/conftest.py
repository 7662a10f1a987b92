import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).parent)
)  # for training_stage, which tests/local and tests/bench read too

from training_stage import Inputs, prepared_inputs


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

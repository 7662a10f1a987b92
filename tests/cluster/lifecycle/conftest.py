"""The scenarios of a file, played once for all its tests."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.faults.scenarios import Outcomes, scenario_of
from tests.cluster.lifecycle.scene import play


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    api_server: Any,
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcomes:
    """What became of a file's scenarios, as many as were asked for."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    own = [scenario_of(test.function) for test in tests if test.module is request.module]
    folder = tmp_path_factory.mktemp("lifecycle")
    return asyncio.run(play([*filter(None, own)], Path(api_server.kubeconfig), repository, folder))

"""What the fault tests share."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.faults.scenarios import Outcomes, play, scenario_of


@pytest.fixture(scope="session")
def api_server_kubeconfig(api_server: Any) -> Path:
    """Administrator's way to an API server with etcd and controller manager, and no node."""
    return Path(api_server.kubeconfig)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    api_server_kubeconfig: Path,
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcomes:
    """The scenarios of a module, as many as were asked for, played side by side."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    own = [scenario_of(test.function) for test in tests if test.module is request.module]
    folder = tmp_path_factory.mktemp("scenarios")
    return asyncio.run(play(filter(None, own), api_server_kubeconfig, repository, folder))

"""The operator installed once for a session: both runs of these tests go to it, as two users' runs would."""

from collections.abc import Iterator

import pytest
from tests.cluster.end_to_end.installation import Installed, install, packaged_model
from tests.cluster.end_to_end.watching import RUN_KIND
from tests.cluster.testbed.handle import Cluster


@pytest.fixture(scope="session")
def installed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """A cluster with our operator in it, and what its users have."""
    made = install(cluster, packaged_model(tmp_path_factory.mktemp("model")))
    yield made
    made.team("delete", RUN_KIND, "--all", "--wait", "--timeout=60s")

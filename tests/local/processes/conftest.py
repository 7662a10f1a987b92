"""A started local cluster on a temporary folder, and more of them on the same."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.local_cluster import SERVER, Local, Objects

from selfrewarding.local import processes
from selfrewarding.local.state import StateFolder


@pytest.fixture
def objects() -> Objects:
    """Makers of manifests."""
    return Objects()


@pytest.fixture
def server_script() -> str:
    """A server that answers on /health."""
    return SERVER


@pytest_asyncio.fixture
async def local(tmp_path: Path) -> AsyncIterator[Local]:
    """A started cluster; at the end nothing of it may live."""
    made = await Local(tmp_path).start()
    yield made
    made.cluster.kill()
    await made.cluster.stop()
    assert made.living() == {}


@pytest.fixture
def make_local(tmp_path: Path) -> Iterator[Callable[..., Awaitable[Local]]]:
    """More starts on the same folder, as after a crash, or clusters with other settings."""

    async def make(**settings: Any) -> Local:
        return await Local(tmp_path, **settings).start()

    yield make
    left = processes.kill_survivors(StateFolder.of(tmp_path / "artifacts", "default", "demo").root, [])
    assert left == 0

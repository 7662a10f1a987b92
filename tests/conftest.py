"""What all tests share: no network hub, no colours, where the repository is, and a clock that can jump."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from tests.support.virtual_time import VirtualTimeLoop

REPOSITORY = Path(__file__).resolve().parents[1]

# No time limit for one example: machines are noisy. CI draws the same examples each time; a developer's runs differ.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that an async test runs on; `virtual_time` marks those whose waits take no time."""
    if item.get_closest_marker("virtual_time") is not None:
        return {"virtual time": VirtualTimeLoop}
    return {"real time": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(autouse=True)
def _stable_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take from a test what differs between machines: hubs, terminal, AWS and cluster settings."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    for name in (
        "FORCE_COLOR",
        "GITHUB_ACTIONS",
        "KUBECONFIG",
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)

"""What the fault tests share."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def api_server_kubeconfig(api_server: Any) -> Path:
    """Administrator's way to an API server with etcd and controller manager, and no node."""
    return Path(api_server.kubeconfig)

"""A client of the API server, from a kubeconfig or from the pod's service account.

Must not: make requests or be known outside this package but as a handle. Neighbour: `calls` uses it.
"""

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from selfrewarding import __version__
from selfrewarding.cluster.protocol import ClusterError

_DEFAULT = Path("~/.kube/config")
_RENEW_EVERY = 300.0
"""Seconds between two readings of a kubeconfig's credentials."""


class NoCluster(ClusterError):
    """No way to a cluster is configured, or the one that is cannot be used."""


async def make_client(kubeconfig: Path | None = None, environ: Mapping[str, str] | None = None) -> ApiClient:
    """A client for `kubeconfig`, else for $KUBECONFIG, else as the pod's service account, else for ~/.kube/config.

    Close it when done. Raises NoCluster.
    """
    env = os.environ if environ is None else environ
    configuration = Configuration()
    path = kubeconfig or (Path(env["KUBECONFIG"]) if env.get("KUBECONFIG") else None)
    try:
        if path is None and env.get("KUBERNETES_SERVICE_HOST"):
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            path = (path or _DEFAULT).expanduser()
            await _load(path, configuration)
            configuration.refresh_api_key_hook = _renewal(path)  # type: ignore[assignment]
    except (ConfigException, OSError, ValueError) as error:
        place = f'the kubeconfig "{path}"' if path else "the pod's service account"
        raise NoCluster(
            f"There is no way to a cluster by {place}: {error}. Set KUBECONFIG to a file that kubectl can use, or run "
            "in a pod with a service account."
        ) from error
    configuration.retries = None  # the next pass is the retry
    client = ApiClient(configuration)
    client.user_agent = f"selfrewarding-operator/{__version__}"
    return client


async def _load(path: Path, configuration: Configuration) -> None:
    await load_kube_config(  # type: ignore[no-untyped-call]
        config_file=str(path), client_configuration=configuration, persist_config=False
    )


def _renewal(path: Path) -> Callable[[Configuration], Awaitable[None]]:
    """Read the kubeconfig's credentials again from time to time: tokens of exec plugins live for minutes."""
    renewed = time.monotonic()

    async def renew(configuration: Configuration) -> None:
        nonlocal renewed
        if time.monotonic() < renewed + _RENEW_EVERY:
            return
        renewed = time.monotonic()
        await _load(path, configuration)

    return renew

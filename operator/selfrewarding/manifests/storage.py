"""How a pod reaches the artifact store: address, region, certificate authority, credentials.

Credentials are references to the user's Secret or ServiceAccount; their values never pass through the operator.
"""

from dataclasses import dataclass, field
from typing import Any

from selfrewarding.api.data import ArtifactsSpec
from selfrewarding.contract import environment

CA_PATH = "/etc/selfrewarding-ca"
CA_VOLUME = "ca"

_REQUIRED = {"AWS_ACCESS_KEY_ID": False, "AWS_SECRET_ACCESS_KEY": False, "AWS_SESSION_TOKEN": True}
"""boto3's names of the Secret's keys, and whether a key may be absent."""


@dataclass(frozen=True)
class StoreAccess:
    """What a pod template takes up to reach the store."""

    env: list[dict[str, Any]] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    service_account: str | None = None


def store_access(artifacts: ArtifactsSpec) -> StoreAccess:
    """Environment, mounts and volumes for programs that read or write the store."""
    env: list[dict[str, Any]] = [
        {"name": environment.S3_ADDRESSING, "value": artifacts.addressing.lower()},
    ]
    if artifacts.endpoint:
        env.append({"name": environment.S3_ENDPOINT, "value": artifacts.endpoint})
    if artifacts.region:
        env.append({"name": "AWS_REGION", "value": artifacts.region})
    if secret := artifacts.credentials.secret_name:
        env += [
            {"name": name, "valueFrom": {"secretKeyRef": _key(secret, name, optional=optional)}}
            for name, optional in _REQUIRED.items()
        ]
        # With keys at hand nobody needs to wait for a cloud's metadata server that may not be there.
        env.append({"name": "AWS_EC2_METADATA_DISABLED", "value": "true"})
    mounts, volumes = [], []
    if ca := artifacts.ca_bundle:
        env.append({"name": "AWS_CA_BUNDLE", "value": f"{CA_PATH}/{ca.key}"})
        mounts = [{"name": CA_VOLUME, "mountPath": CA_PATH, "readOnly": True}]
        volumes = [{"name": CA_VOLUME, "configMap": {"name": ca.config_map_name}}]
    return StoreAccess(env, mounts, volumes, artifacts.credentials.service_account_name)


def streamer_env(artifacts: ArtifactsSpec) -> list[dict[str, Any]]:
    """The same address in the names that vLLM's Run:ai streamer reads (vLLM docs, "Loading models with Run:ai Model
    Streamer")."""
    env = []
    if artifacts.endpoint:
        env.append({"name": "AWS_ENDPOINT_URL", "value": artifacts.endpoint})
    if artifacts.addressing != "Auto":
        virtual = "1" if artifacts.addressing == "Virtual" else "0"
        env.append({"name": "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "value": virtual})
    return env


def _key(secret: str, key: str, *, optional: bool) -> dict[str, Any]:
    return {"name": secret, "key": key} | ({"optional": True} if optional else {})

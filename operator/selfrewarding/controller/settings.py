"""The operator's settings, from environment variables named SRR_….

Must not: have a setting that nothing reads. Neighbours: `app` wires by them, `srr operator --help` lists them.
"""

import contextlib
import platform
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from selfrewarding.manifests import Images

PREFIX = "SRR_"
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
Port = Annotated[int, Field(ge=1, le=65535)]


class InvalidSettings(Exception):
    """The environment does not hold usable settings; the text says which variable, and what to do."""


class OperatorSettings(BaseSettings):
    """Settings of `srr operator`; each is the environment variable SRR_ plus its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, env_ignore_empty=True)

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to serve, separated by commas; empty: all."""
    trainer_image: str | None = None
    """Image of the training stages; default: the one of this release."""
    sampler_image: str | None = None
    """Image of all other stages; default: the one of this release."""
    vllm_image: str | None = None
    """Image of the vLLM servers on GPUs; default: the one that this release was tested with."""
    vllm_cpu_image: str | None = None
    """Image of the vLLM servers without GPUs; default: the one of this release."""
    leader_election: bool = True
    """Whether replicas agree by a Lease which of them works."""
    lease_namespace: str | None = None
    """Namespace of the Lease; default: the pod's own."""
    lease_name: str = "selfrewarding-operator"
    """Name of the Lease."""
    pod_name: str = Field(default_factory=platform.node)
    """Who this process is, in the Lease and in events; default: the host's name."""
    health_port: Port = 8080
    """Port of /healthz (liveness) and /readyz (readiness)."""
    metrics_port: Port = 9090
    """Port of /metrics (Prometheus)."""
    log_format: Literal["json", "text"] = "json"
    """Form of the log lines."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is logged."""
    pass_concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Runs that are looked at at the same time."""

    @field_validator("namespaces", mode="before")
    @classmethod
    def _comma_list(cls, value: Any) -> Any:
        return (
            tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
            if isinstance(value, str)
            else value
        )

    @field_validator("log_level", mode="before")
    @classmethod
    def _capitals(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _own_namespace(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("lease_namespace"):
            with contextlib.suppress(OSError):  # not in a pod
                values = values | {"lease_namespace": _SERVICE_ACCOUNT_NAMESPACE.read_text().strip()}
        return values

    @model_validator(mode="after")
    def _lease_has_a_place(self) -> "OperatorSettings":
        if self.leader_election and not self.lease_namespace:
            raise ValueError(
                "SRR_LEASE_NAMESPACE is not set, and this is no pod with a namespace of its own: set it, or set "
                "SRR_LEADER_ELECTION=false for a single process"
            )
        return self

    @property
    def images(self) -> Images:
        """Default images of the pods."""
        given = {
            "trainer": self.trainer_image,
            "sampler": self.sampler_image,
            "vllm": self.vllm_image,
            "vllm_cpu": self.vllm_cpu_image,
        }
        return Images(**{name: image for name, image in given.items() if image})


def read_settings() -> OperatorSettings:
    """The settings of this process's environment. Raises InvalidSettings."""
    try:
        return OperatorSettings()
    except ValidationError as error:
        raise InvalidSettings("\n".join(_sentence(one) for one in error.errors(include_url=False))) from error


def _sentence(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return f"{message}."
    name = PREFIX + str(error["loc"][0]).upper()
    return f'{name} is "{error["input"]}": {message[:1].lower()}{message[1:]}. Correct it, or unset it for the default.'

"""What a tracker's process is given, and how it says what went wrong.

Neighbours: `sending` starts the process, `__main__` is it, `mlflow_tracker` and `wandb_tracker` do its work.
"""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from selfrewarding.api.tracking import MlflowSpec, WandbSpec
from selfrewarding.contract.config import RunRef
from selfrewarding.contract.redaction import without_user_info
from selfrewarding.tracking.points import Point

SECRETS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY")
_SHOWN = 400


class Job(BaseModel):
    """The points of a run for one tracker."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: RunRef
    settings: dict[str, Any]
    """What of the spec is worth finding a run by: preset, seed, iterations, model."""
    ended: bool
    """No further iteration follows."""
    points: list[tuple[str, int, float, float]]
    mlflow: MlflowSpec | None = None
    wandb: WandbSpec | None = None

    def all_points(self) -> list[Point]:
        """The points."""
        return [Point(*values) for values in self.points]

    @property
    def title(self) -> str:
        """The run's name for people."""
        return f"{self.run.namespace}/{self.run.name}"


def told(error: BaseException | str, environment: Mapping[str, str] = os.environ) -> str:
    """One line about a failure, without a secret in it."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    for name in SECRETS:
        secret = environment.get(name)
        if secret:
            text = text.replace(secret, "…")
    return without_user_info(" ".join(text.split()))[:_SHOWN]

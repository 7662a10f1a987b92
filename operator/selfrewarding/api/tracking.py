"""Where a run's numbers go besides its own report: MLflow, TensorBoard, Weights & Biases."""

from pydantic import Field

from selfrewarding.api.base import ApiModel
from selfrewarding.api.data import HttpUri, SecretName


class MlflowSpec(ApiModel):
    """An MLflow tracking server: one MLflow run for this run, one step for each iteration."""

    uri: HttpUri
    """Address of the tracking server."""
    experiment: str | None = Field(default=None, min_length=1, max_length=250)
    """Experiment's name; absent: the run's namespace."""
    secret_name: SecretName | None = None
    """Secret in the run's namespace with MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD."""


class WandbSpec(ApiModel):
    """A project of Weights & Biases."""

    project: str = Field(min_length=1, max_length=128)
    """Project's name."""
    entity: str | None = Field(default=None, min_length=1, max_length=128)
    """Team or user; absent: the key's own."""
    base_url: HttpUri | None = None
    """Address of a server of one's own; absent: the public one."""
    secret_name: SecretName
    """Secret in the run's namespace with WANDB_API_KEY."""


class TrackingSpec(ApiModel):
    """Where the numbers of each iteration are sent besides the report. A tracker that fails never fails the run."""

    mlflow: MlflowSpec | None = None
    """An MLflow server."""
    tensor_board: bool = False
    """Write TensorBoard's event files to `runs/<namespace>/<name>/tensorboard` in the artifact store."""
    wandb: WandbSpec | None = None
    """A Weights & Biases project."""

"""Kubernetes objects of stages and serving pools, as plain dicts: typed facts in, objects out.

Pure: reads no clock, no environment, no cluster; equal arguments give equal objects, which the golden files under
tests/golden/manifests show. Objects are create-only, and a pod's names, labels, mounts and environment are what the
local backend and the Kubernetes adapter rely on.
"""

from selfrewarding.api.run import RawObject
from selfrewarding.contract.stages import TRAINING
from selfrewarding.manifests.batch import batch_objects
from selfrewarding.manifests.config import serve_config, served_name, stage_config
from selfrewarding.manifests.context import Images, RunContext
from selfrewarding.manifests.errors import InvalidOption, InvalidPodTemplate, ManifestError, MissingResult
from selfrewarding.manifests.inference import inference_objects
from selfrewarding.manifests.names import (
    holder_name,
    run_label,
    service_name,
    stage_name,
)
from selfrewarding.manifests.retirement import retirement_job
from selfrewarding.manifests.training import training_objects
from selfrewarding.plan.stage import Holder, Stage

__all__ = [
    "Images",
    "InvalidOption",
    "InvalidPodTemplate",
    "ManifestError",
    "MissingResult",
    "RunContext",
    "holder_name",
    "holder_objects",
    "retirement_job",
    "run_label",
    "serve_config",
    "served_name",
    "service_name",
    "stage_config",
    "stage_name",
    "stage_objects",
]


def stage_objects(context: RunContext, stage: Stage, attempt: int) -> list[RawObject]:
    """ConfigMap, then Job, Indexed Job or PyTorchJob of an attempt of a stage. Raises ManifestError."""
    make = training_objects if stage.kind in TRAINING else batch_objects
    return make(context, stage, attempt)


def holder_objects(context: RunContext, holder: Holder, iteration: int, attempt: int) -> list[RawObject]:
    """ConfigMap, Service, NetworkPolicy, then Deployment of an attempt of a serving pool. Raises ManifestError."""
    return inference_objects(context, holder, iteration, attempt)

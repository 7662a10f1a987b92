"""What all objects share: metadata with labels and owner, and the ConfigMap that carries a configuration.

Neighbours: `pod` makes templates, `batch`, `training` and `inference` make the objects around them.
"""

import json
from collections.abc import Mapping

from pydantic import BaseModel

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject
from selfrewarding.contract.keys import artifact_label, short
from selfrewarding.manifests.context import RunContext
from selfrewarding.manifests.names import run_label
from selfrewarding.plan.stage import Holder, Stage

CONFIG_FILE = "config.json"
QUEUE = "kueue.x-k8s.io/queue-name"
DEADLINE_MARGIN = 3600
"""The planner ends a stage at its deadline; so many seconds later Kubernetes does, should no operator run."""


def stage_labels(context: RunContext, stage: Stage, attempt: int) -> dict[str, str]:
    """Labels of a stage's objects and pods."""
    return {
        labels.MANAGED_BY: labels.FIELD_MANAGER,
        labels.RUN: run_label(context.name),
        labels.STAGE: stage.kind.value,
        labels.ITERATION: str(stage.iteration),
        labels.ATTEMPT: str(attempt),
        labels.KEY: stage.short,
        labels.ARTIFACT: artifact_label(context.spec.artifacts.uri, stage.key),
    }


def holder_labels(context: RunContext, holder: Holder, iteration: int, attempt: int) -> dict[str, str]:
    """Labels of a serving pool's objects and pods."""
    return {
        labels.MANAGED_BY: labels.FIELD_MANAGER,
        labels.RUN: run_label(context.name),
        labels.HOLDER: holder.name,
        labels.ITERATION: str(iteration),
        labels.ATTEMPT: str(attempt),
        labels.KEY: short(holder.model.key),
    }


def metadata(
    context: RunContext, name: str, own: Mapping[str, str], *, queued: bool = False
) -> dict[str, object]:
    """`metadata` of an object: it goes when its run goes; `queued` puts it into the run's Kueue queue."""
    queue = (
        {QUEUE: context.spec.scheduling.queue_name} if queued and context.spec.scheduling.queue_name else {}
    )
    return {
        "name": name,
        "namespace": context.namespace,
        "labels": {**own, **queue},
        "ownerReferences": [
            {
                "apiVersion": labels.API_VERSION,
                "kind": labels.KIND,
                "name": context.name,
                "uid": context.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def last_deadline(context: RunContext) -> int:
    """`activeDeadlineSeconds` of an attempt: the second line behind the planner."""
    return context.spec.limits.stage_deadline_seconds + DEADLINE_MARGIN


def config_map(context: RunContext, name: str, own: Mapping[str, str], document: BaseModel) -> RawObject:
    """The immutable ConfigMap with a configuration; absent fields are left out."""
    content = document.model_dump(mode="json", by_alias=True, exclude_none=True)
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(context, name, own),
        "immutable": True,
        "data": {CONFIG_FILE: text},
    }

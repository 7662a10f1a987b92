"""The Job that clears a deleted run's artifacts away (`retention.onDelete: Delete`).

Pods reach the store, the operator does not: so it is a pod of the sampler's image that deletes. The Job has no owner,
since it works while its run is being deleted; it goes by `plan.retirement`'s hand, or by its time to live.
"""

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject
from selfrewarding.contract import environment
from selfrewarding.contract.config import RetireConfig
from selfrewarding.manifests.batch import COMMAND, CONTAINER
from selfrewarding.manifests.context import RunContext
from selfrewarding.manifests.names import retirement_name, run_label
from selfrewarding.manifests.overrides import with_users_template
from selfrewarding.manifests.pod import (
    TERMINATION_PATH,
    container,
    disk_request,
    home_env,
    pod_template,
    resources,
    tmp_mount,
    variables,
)
from selfrewarding.manifests.quantities import GIB
from selfrewarding.manifests.storage import store_access
from selfrewarding.plan.retirement import KEY, RUN_SECONDS, STAGE

LIFE_SECONDS = 3600
"""A finished Job that nobody deletes goes by itself after this time."""


def retirement_job(context: RunContext, attempt: int) -> RawObject:
    """The Job of an attempt. Raises InvalidPodTemplate."""
    spec, own = context.spec.sampler, _labels(context, attempt)
    config = RetireConfig(contract=context.contract, run=context.run, store=context.spec.artifacts.uri)
    tmp, store = tmp_mount(1), store_access(context.spec.artifacts)
    template = pod_template(
        context,
        labels=own,
        containers=[
            container(
                name=CONTAINER,
                image=spec.image or context.images.sampler,
                command=(*COMMAND, "retire"),
                env=[
                    *variables(
                        {
                            environment.RETIRE: config.model_dump_json(by_alias=True, exclude_none=True),
                            environment.TERMINATION: TERMINATION_PATH,
                        }
                    ),
                    *home_env(),
                    *store.env,
                ],
                mounts=[tmp.mount, *store.mounts],
                resources=resources(
                    spec.resources, cpu="100m", memory=GIB, memory_request=GIB // 4, disk=disk_request()
                ),
            )
        ],
        mounts=[tmp],
        store=store,
        gpu=False,
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": retirement_name(context, attempt),
            "namespace": context.namespace,
            "labels": own,
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": RUN_SECONDS,
            "ttlSecondsAfterFinished": LIFE_SECONDS,
            "template": with_users_template(template, spec.pod_template, "sampler.podTemplate", CONTAINER),
        },
    }


def _labels(context: RunContext, attempt: int) -> dict[str, str]:
    return {
        labels.MANAGED_BY: labels.FIELD_MANAGER,
        labels.RUN: run_label(context.name),
        labels.RUN_UID: context.uid,
        labels.STAGE: STAGE,
        labels.ITERATION: "0",
        labels.ATTEMPT: str(attempt),
        labels.KEY: KEY,
    }

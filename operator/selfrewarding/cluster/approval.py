"""A person's approval of a held model, written to the run in a cluster with the person's own rights.

Must not: decide what may be approved (`plan.approval` does). Neighbours: `cli.approve` calls this; the operator reads the
annotation in its next pass.
"""

from pathlib import Path

from kubernetes.aio.config import ConfigException, list_kube_config_contexts

from selfrewarding.api import labels
from selfrewarding.api.run import ModelStatus
from selfrewarding.cluster.calls import Call, Calls
from selfrewarding.cluster.client import make_client
from selfrewarding.cluster.kinds import RUN
from selfrewarding.cluster.protocol import Conflict
from selfrewarding.cluster.run_objects import read_status
from selfrewarding.plan.approval import approval_of, held_model

_TRIES = 5
"""The operator may write the status between reading and writing; what is held is looked at again then."""
_MERGE_PATCH = "application/merge-patch+json"


async def approve(
    namespace: str, name: str, iteration: int | None, *, kubeconfig: Path | None = None
) -> ModelStatus:
    """Approve the model that the gate of a run holds; returns it.

    Raises NothingHeld, ClusterError (NoCluster where there is no way to one).
    """
    async with await make_client(kubeconfig) as client:
        return await approve_with(Calls(client), namespace, name, iteration)


async def approve_with(calls: Calls, namespace: str, name: str, iteration: int | None) -> ModelStatus:
    """As `approve`, with a way to the API server that is there."""
    for attempt in range(1, _TRIES + 1):
        run = await calls.ask(Call(verb="get", resource=RUN, namespace=namespace, name=name))
        metadata = run["metadata"]
        held = held_model(read_status(run.get("status") or {}), metadata.get("annotations") or {}, iteration)
        change = {
            # What was looked at is what is approved: anything newer is refused with a conflict.
            "resourceVersion": metadata["resourceVersion"],
            "annotations": {labels.APPROVE: approval_of(held)},
        }
        try:
            await calls.ask(
                Call(
                    verb="patch", resource=RUN, namespace=namespace, name=name, query={"fieldManager": "srr"},
                    body={"metadata": change}, content_type=_MERGE_PATCH,
                )
            )  # fmt: skip
        except Conflict:
            if attempt == _TRIES:
                raise
        else:
            return held
    raise AssertionError("the last try returns or raises")


def current_namespace(kubeconfig: Path | None = None) -> str:
    """Namespace of the kubeconfig's current context, `default` where it names none."""
    try:
        _, current = list_kube_config_contexts(None if kubeconfig is None else str(kubeconfig))  # type: ignore[no-untyped-call]
    except (ConfigException, OSError, ValueError):
        return "default"  # the client says what is wrong with it
    return str(((current or {}).get("context") or {}).get("namespace") or "default")

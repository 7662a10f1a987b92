"""Actions of a decision as calls to the cluster.

Must not: choose or reorder actions. Neighbours: `plan` makes the actions, `manifests` the objects, `reconcile` calls.
"""

from selfrewarding.api.run import SelfRewardingRun
from selfrewarding.cluster.protocol import Cluster
from selfrewarding.manifests import RunContext, holder_objects, stage_objects
from selfrewarding.plan.actions import Action, Delete, ScaleHolder, StartHolder, StartStage


async def execute(cluster: Cluster, run: SelfRewardingRun, context: RunContext, action: Action) -> None:
    """Carry one action out. Each is idempotent: a pass that is repeated does nothing twice.

    Raises ClusterError, ManifestError.
    """
    match action:
        case StartStage():
            for manifest in stage_objects(context, action.stage, action.attempt):
                await cluster.create(run, manifest)
        case StartHolder():
            for manifest in holder_objects(context, action.holder, action.iteration, action.attempt):
                await cluster.create(run, manifest)
        case ScaleHolder():
            await cluster.scale(run, action.name, action.replicas)
        case Delete():
            await cluster.delete(run, action.kind, action.name, action.uid)

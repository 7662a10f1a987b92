"""Stages that stand beside a run's graph: Resolve, which asks the store what is there, and Report.

Nothing that the run computes reads them. Neighbours: `graph` has all other stages; `view` decides when one of these is due.
"""

from collections.abc import Sequence

from selfrewarding.api.run import SelfRewardingRunSpec
from selfrewarding.contract.config import ReportParameters, ResolveParameters
from selfrewarding.contract.keys import stage_key
from selfrewarding.contract.stages import StageKind, report_role
from selfrewarding.plan.stage import Graph, Stage, measures_baseline


def resolve_stage(stages: Sequence[Stage], *, spec: SelfRewardingRunSpec, contract: int) -> Stage:
    """The Resolve that asks the store for these stages (at most 64). No parents: it must work whatever is gone."""
    parameters = ResolveParameters(stages=[(stage.kind, stage.key) for stage in stages])
    key = stage_key(
        kind=StageKind.RESOLVE,
        iteration=0,
        contract=contract,
        seed=spec.seed,
        parameters=parameters,
        data={},
        parents={},
        roll_backs=0,
    )
    return Stage(kind=StageKind.RESOLVE, iteration=0, key=key, parameters=parameters)


def report_stage(
    graph: Graph,
    finished: Sequence[Stage],
    *,
    run_uid: str,
    decided: str,
    uncalibrated: str | None = None,
    spec: SelfRewardingRunSpec,
    contract: int,
) -> Stage:
    """The Report of a run whose stages `finished` are done. It computes nothing that others read: it is in no graph.

    For its roles see `report_role`.
    """
    parameters = ReportParameters(run_uid=run_uid, decided=decided, uncalibrated=uncalibrated)
    parents: dict[str, Stage] = {}
    for stage in finished:
        of_baseline = measures_baseline(stage)
        role = report_role(stage.kind, stage.iteration, of_baseline=of_baseline, taken=parents)
        parents[role] = stage
    key = stage_key(
        kind=StageKind.REPORT,
        iteration=finished[-1].iteration,
        contract=contract,
        seed=spec.seed,
        parameters=parameters,
        data={},
        parents={role: stage.key for role, stage in parents.items()},
        roll_backs=0,
    )
    return Stage(
        kind=StageKind.REPORT,
        iteration=finished[-1].iteration,
        key=key,
        parameters=parameters,
        parents={"prepare": graph.prepare, **parents},
    )

"""A run as it would go, before anything of it has run: its stages and the context that their objects are made from."""

from selfrewarding.api.run import StageSummary
from selfrewarding.cli.run_file import RunFile
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.keys import SHORT, digest
from selfrewarding.contract.stages import StageKind
from selfrewarding.manifests import RunContext
from selfrewarding.plan.graph import outline
from selfrewarding.plan.stage import Stage


def sketch(run: RunFile) -> tuple[RunContext, list[Stage]]:
    """The stages in the order in which they run; every stage counts as done, with a made-up digest."""
    stages = [
        stage for stage in outline(run.spec, contract=CONTRACT_VERSION).stages if stage.kind != StageKind.GATE
    ]
    context = RunContext(
        namespace=run.metadata.namespace or "default",
        name=run.metadata.name,
        uid="00000000-0000-0000-0000-000000000000",
        spec=run.spec,
        results={
            stage.short: StageSummary(
                stage=stage.kind, iteration=stage.iteration, digest=digest(stage.key)[:SHORT]
            )
            for stage in stages
        },
        contract=CONTRACT_VERSION,
    )
    return context, stages

"""Every example of the repository through the real planner: its objects can be made and are what Kubernetes knows."""

from pathlib import Path

import pytest
import yaml
from kubernetes.client import V1PodTemplateSpec
from manifest_scenarios import IMAGES, LLAMA2_70B, UID, key

from selfrewarding.api.presets import effective
from selfrewarding.api.run import RawObject, StageSummary
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.stages import StageKind
from selfrewarding.manifests import RunContext, holder_objects, stage_objects
from selfrewarding.plan.aside import resolve_stage
from selfrewarding.plan.graph import outline
from selfrewarding.plan.stage import Holder, Stage

EXAMPLES = sorted((Path(__file__).parents[3] / "crds" / "examples").glob("*.yaml"))


def everything(run: RawObject) -> list[RawObject]:
    """The objects of every stage and pool of a run, each stage done before the next."""
    spec = effective(run["spec"])
    graph = outline(spec, contract=CONTRACT_VERSION)
    stages: list[Stage] = list(graph.stages)
    stages.append(resolve_stage(stages[1:64], spec=spec, contract=CONTRACT_VERSION))
    context = RunContext(
        namespace="default",
        name=run["metadata"]["name"],
        uid=UID,
        spec=spec,
        results={
            stage.short: StageSummary(
                stage=stage.kind,
                iteration=stage.iteration,
                digest=key(stage.key)[:16],
                counts=LLAMA2_70B if stage.kind is StageKind.PREPARE else {},
            )
            for stage in stages
        },
        contract=CONTRACT_VERSION,
        images=IMAGES,
    )
    holders: dict[str, Holder] = {
        holder.name: holder for stage in stages for holder in stage.holders.values()
    }
    made = [one for stage in stages for one in stage_objects(context, stage, 1)]
    return made + [one for holder in holders.values() for one in holder_objects(context, holder, 1, 1)]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_all_objects_of_an_example_can_be_made(file: Path) -> None:
    for run in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        objects = everything(run)
        names = [(one["kind"], one["metadata"]["name"]) for one in objects]
        assert len(set(names)) == len(names)
        assert {"PyTorchJob", "Job", "Deployment"} <= {kind for kind, _ in names}
        for one in objects:
            replicas = one.get("spec", {}).get("pytorchReplicaSpecs", {"": one.get("spec", {})})
            for replica in replicas.values():
                if "template" in replica:
                    V1PodTemplateSpec.model_validate(replica["template"])


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5

"""The card in a model's folder: it says where to read on."""

import pytest

from selfrewarding.api.algorithm import DpoSpec, SftSpec
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.config import (
    Execution,
    ModelRef,
    PreferenceOptimizeParameters,
    RunRef,
    SftParameters,
    StageConfig,
)
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from srr_trainer.card import model_card

SFT = SftSpec()


@pytest.mark.parametrize(
    ("parameters", "iteration", "model"),
    [
        (SftParameters(kind="TrainBaseline", sft=SFT), 1, "Baseline"),
        (SftParameters(kind="SupervisedFineTune", sft=SFT), 1, "M1"),
        (PreferenceOptimizeParameters(dpo=DpoSpec()), 3, "M3"),
    ],
)
def test_the_card_in_the_models_folder_names_the_one_that_is_kept_up_to_date(
    parameters: SftParameters | PreferenceOptimizeParameters, iteration: int, model: str
) -> None:
    config = StageConfig(
        contract=CONTRACT_VERSION,
        run=RunRef(namespace="lab", name="demo", uid="u"),
        kind=StageKind(parameters.kind),
        iteration=iteration,
        key="a" * 64,
        store="s3://runs/demo",
        seed=7,
        models={"base": ModelRef(name="M0", uri="s3://models/m0")},
        parameters=parameters,
        execution=Execution(deadline_seconds=60),
    )
    result = StageResult(
        contract=CONTRACT_VERSION,
        kind=config.kind,
        iteration=iteration,
        key=config.key,
        metrics={"loss": 1.25},
        seconds=1,
        pod="p",
    )
    card = model_card(config, result)
    assert f"`runs/lab/demo/cards/{model}.md`" in card
    assert card.index("cards/") < card.index("| loss | 1.25 |"), "before the numbers that it qualifies"

"""TRL knows every setting that we give it; tests/unit/trainer says what they are, without TRL."""

from tests.support.training_stage import cpu
from tests.unit.trainer.test_trainer_settings import arguments
from trl import DPOConfig, SFTConfig

from selfrewarding.api.algorithm import DpoSpec, SftSpec
from srr_trainer.settings import dpo_arguments, sft_arguments


def test_rule_07_trls_defaults_are_overridden_where_they_differ_from_the_paper() -> None:
    names = ("max_length", "num_train_epochs", "lr_scheduler_type", "bf16", "gradient_checkpointing")
    assert set(names) <= set(arguments(SftSpec(), cpu()))
    assert {"disable_dropout", "beta", "loss_type", "label_smoothing"} <= set(dpo_arguments(DpoSpec()))
    for config, ours in ((SFTConfig, sft_arguments(SftSpec())), (DPOConfig, dpo_arguments(DpoSpec()))):
        known = set(config.__dataclass_fields__)
        assert set(arguments(SftSpec(), cpu())) | set(ours) <= known, "TRL does not know a setting any more"

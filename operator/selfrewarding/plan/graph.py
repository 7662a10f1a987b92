"""The stages of a run and what each depends on, derived from the effective spec alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from selfrewarding.api.execution import ServingPoolSpec
from selfrewarding.contract.config import Parameters
from selfrewarding.contract.keys import short
from selfrewarding.contract.stages import StageKind


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model by name: one that the run makes (`stage`), or a fixed one (`uri`)."""

    name: str
    """M0, Baseline, M1, …, Judge, PromptWriter, Reference."""
    key: str
    """Key of the training stage that makes it, or digest of the address of a fixed one; 64 hex digits."""
    uri: str | None = None
    stage: "Stage | None" = None


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A serving pool for one model: it holds GPUs over all neighbouring stages that use it (survival rule 4)."""

    pool: str
    """policy, judge or writer."""
    model: Model
    spec: ServingPoolSpec
    max_model_len: int

    @property
    def name(self) -> str:
        """Label HOLDER; also the served model name's tail."""
        return f"{short(self.model.key)}-{self.pool}"

    @property
    def gpus(self) -> int:
        """GPUs that all replicas hold."""
        return 0 if self.spec.device == "Cpu" else self.spec.replicas * self.spec.tensor_parallel_size


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage with its key."""

    kind: StageKind
    iteration: int
    key: str
    """64 hex digits."""
    parameters: Parameters
    parents: Mapping[str, "Stage"] = field(default_factory=dict)
    """Stages that it reads, by role: prepare, evaluations, prompts, rollout, preferences."""
    models: Mapping[str, Model] = field(default_factory=dict)
    """Models that it reads from the store, by role: base, reference."""
    holders: Mapping[str, Holder] = field(default_factory=dict)
    """Serving pools that it asks, by role: policy, judge, writer."""
    shards: int = 1
    gpus: int = 0
    """GPUs of its own pods, without its holders'."""

    @property
    def short(self) -> str:
        """The key as it stands in labels and status."""
        return short(self.key)

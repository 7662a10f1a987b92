"""Stages, models and serving pools as values: what `graph` builds and everything else reads.

Must not: know how a run's spec becomes stages. Neighbours: `graph` builds these; `manifests` turns them into objects.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from selfrewarding.api.execution import ServingPoolSpec
from selfrewarding.contract.config import Parameters
from selfrewarding.contract.keys import short
from selfrewarding.contract.stages import TRAINING, StageKind


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model by name: one that the run makes (`stage`), or a fixed one (`uri`)."""

    name: str
    """M0, Baseline, M1, …, Judge, PromptWriter, Reference; M2.1 is the first candidate for M2."""
    key: str
    """Key of the stage that makes it, digest of that and the folder of a candidate, or digest of the address of a fixed
    one; 64 hex digits."""
    uri: str | None = None
    stage: "Stage | None" = field(default=None, compare=False, repr=False)
    """The stage whose result holds it; for an M0 from a hub this is Prepare, which keeps a copy."""
    folder: str | None = None
    """A candidate's folder among the files of its training; None: the stage's model."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A serving pool for one model: it holds GPUs over all neighbouring stages that use it (survival rule 4)."""

    pool: str
    """policy, judge, writer or referee."""
    model: Model
    spec: ServingPoolSpec
    max_model_len: int
    """Longest sequence in tokens; see `lengths`."""

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
    """One stage with its key. Stages are equal if their keys are: a key stands for all that the stage reads."""

    kind: StageKind = field(compare=False)
    iteration: int = field(compare=False)
    """0 for Prepare and Resolve, which belong to no iteration."""
    key: str
    """64 hex digits."""
    parameters: Parameters = field(compare=False, repr=False)
    parents: Mapping[str, "Stage"] = field(default_factory=dict, compare=False, repr=False)
    """Stages that it reads, by role: prepare, evaluations, model, prompts, rollout, preferences, initial, trained,
    candidate-1, …"""
    models: Mapping[str, Model] = field(default_factory=dict, compare=False, repr=False)
    """Models that it reads from the store, by role: base, reference."""
    holders: Mapping[str, Holder] = field(default_factory=dict, compare=False, repr=False)
    """Serving pools that it asks, by role: policy, judge, writer, referee."""
    shards: int = field(default=1, compare=False)
    """Pods of an Indexed Job."""
    gpus: int = field(default=0, compare=False)
    """GPUs of its own pods, without its holders'."""

    @property
    def short(self) -> str:
        """The key as it stands in labels and status."""
        return short(self.key)

    @property
    def trains(self) -> bool:
        """Whether it runs as a PyTorchJob."""
        return self.kind in TRAINING

    @property
    def uses_accelerators(self) -> bool:
        """Whether it trains or asks a server: of such stages only one runs at a time."""
        return self.trains or bool(self.holders)


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """The stages that make and measure one model, in the order in which they run."""

    number: int
    stages: tuple[Stage, ...]
    trained: Stage
    """The stage that makes M_number: the training, or the choice among its candidates."""
    base: Stage | None
    """The stage that made the model which this iteration started from; None for the first."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """All stages of a run. Without Prepare's digests only Prepare itself is known."""

    prepare: Stage
    iterations: tuple[Iteration, ...] = ()

    @property
    def stages(self) -> Iterator[Stage]:
        """Every stage in the order in which they run."""
        yield self.prepare
        for iteration in self.iterations:
            yield from iteration.stages

    def find(self, short_key: str) -> Stage | None:
        """The stage with this short key."""
        return next((stage for stage in self.stages if stage.short == short_key), None)


def measures_baseline(stage: Stage) -> bool:
    """Whether an Evaluate is of the baseline, which is measured beside M1 to be compared with."""
    measured = stage.parents.get("model")
    of_baseline = measured is not None and measured.kind is StageKind.TRAIN_BASELINE
    return stage.kind is StageKind.EVALUATE and of_baseline

"""What the objects of a run are made from: its identity, its effective spec, the results so far and the images.

Holds facts only. Neighbours: every other module here takes a `RunContext`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selfrewarding import __version__
from selfrewarding.api.run import AlarmStatus, ModelStatus, SelfRewardingRunSpec, StageSummary
from selfrewarding.contract.config import RunRef
from selfrewarding.contract.stages import StageKind


@dataclass(frozen=True, kw_only=True)
class Images:
    """Default images; `serving.image`, `training.image` and `sampler.image` go before them."""

    trainer: str = f"selfrewarding/trainer:{__version__}"
    sampler: str = f"selfrewarding/sampler:{__version__}"
    vllm: str = "vllm/vllm-openai:v0.33.0"
    vllm_cpu: str = f"selfrewarding/vllm-cpu:{__version__}"


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A run, as its objects need it."""

    namespace: str
    name: str
    uid: str
    spec: SelfRewardingRunSpec
    """The effective spec: with the preset filled in."""
    results: Mapping[str, StageSummary] = field(default_factory=dict)
    """Summaries of the finished stages by short key (`status.results`)."""
    models: Sequence[ModelStatus] = ()
    """`status.models`, for the report."""
    alarms: Sequence[AlarmStatus] = ()
    """`status.alarms`, for the report."""
    contract: int
    """`status.pinned.contract`."""
    images: Images = Images()

    @property
    def run(self) -> RunRef:
        """The run as configurations name it."""
        return RunRef(namespace=self.namespace, name=self.name, uid=self.uid)

    @property
    def prepared(self) -> StageSummary | None:
        """What Prepare found out, or None while it is not done."""
        return next((one for one in self.results.values() if one.stage == StageKind.PREPARE), None)

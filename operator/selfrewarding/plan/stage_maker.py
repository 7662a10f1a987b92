"""A stage with its key: what every stage of a graph is made by.

Must not: know which stages there are. Neighbours: `graph` and `measuring` say what each stage reads; `key_views` what keys
see of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from selfrewarding.api.run import SelfRewardingRunSpec
from selfrewarding.contract.config import Parameters
from selfrewarding.contract.keys import stage_key
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.key_views import as_in_keys
from selfrewarding.plan.stage import Holder, Model, Stage


@dataclass(kw_only=True)
class StageMaker:
    """Makes the stages of one run."""

    spec: SelfRewardingRunSpec
    contract: int
    prepare: Stage
    data: Mapping[str, str]
    """Prepare's digests by the name of what was digested."""
    roll_backs: int = 0
    """Gates that rolled back so far; the stages after them are others than before."""

    def make(
        self,
        kind: StageKind,
        iteration: int,
        parameters: Parameters,
        *,
        data: tuple[str, ...] = (),
        parents: Mapping[str, Stage] | None = None,
        models: Mapping[str, Model] | None = None,
        holders: Mapping[str, Holder] | None = None,
        shards: int = 1,
        gpus: int = 0,
    ) -> Stage:
        """A stage with its key. Prepare, a parent of all, stands in keys by its digests: its own key names the run."""
        parents = parents or {}
        key = stage_key(
            kind=kind,
            iteration=iteration,
            contract=self.contract,
            seed=self.spec.seed,
            parameters=as_in_keys(parameters),
            data={name: self.data.get(name, "") for name in data},
            parents={role: stage.key for role, stage in parents.items() if stage is not self.prepare},
            roll_backs=self.roll_backs,
        )
        return Stage(
            kind=kind,
            iteration=iteration,
            key=key,
            parameters=parameters,
            parents={"prepare": self.prepare, **parents},
            models=models or {},
            holders=holders or {},
            shards=shards,
            gpus=gpus,
        )

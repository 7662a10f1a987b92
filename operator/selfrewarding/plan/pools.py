"""The models of a run and the serving pools that hold them, from the effective spec.

Must not: know which stage asks which pool when. Neighbours: `graph` and `measuring` give pools to stages; `lengths` says how
long each pool's sequences get; `manifests` turns a pool into objects.
"""

from collections.abc import Callable

from selfrewarding.api.evaluation import HeadToHeadSpec
from selfrewarding.api.execution import ServingPoolSpec
from selfrewarding.api.run import SelfRewardingRunSpec
from selfrewarding.contract.keys import digest
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan import lengths
from selfrewarding.plan.stage import Holder, Model, Stage

_FROM_HUB = "hf://"


def model_name(stage: Stage) -> str:
    """The name of the model that a stage makes: Baseline, M1, M2, …"""
    return "Baseline" if stage.kind is StageKind.TRAIN_BASELINE else f"M{stage.iteration}"


def fixed_model(name: str, uri: str) -> Model:
    """A model that the run does not make."""
    return Model(name=name, key=digest({"uri": uri}), uri=uri)


class Pools:
    """Every model with its pool. `positions` is the model's own limit in tokens, where Prepare has told it."""

    def __init__(self, spec: SelfRewardingRunSpec, prepare: Stage, positions: int | None) -> None:
        self._spec = spec
        self._prepare = prepare
        self._positions = positions

    def m0(self) -> Model:
        """The model that the run starts from; Prepare keeps a copy of one from a hub."""
        model = fixed_model("M0", self._spec.model.uri)
        if self._spec.model.uri.startswith(_FROM_HUB):
            return Model(name=model.name, key=model.key, stage=self._prepare)
        return model

    @staticmethod
    def made(stage: Stage) -> Model:
        """The model that a stage makes."""
        return Model(name=model_name(stage), key=stage.key, stage=stage)

    def policy(self, stage: Stage) -> Holder:
        """The pool of the model that a stage makes."""
        return self._serving(self.made(stage))

    def candidate(self, optimize: Stage, number: int, folder: str) -> Holder:
        """The pool of a model that a training saved on its way."""
        key = digest({"stage": optimize.key, "folder": folder})
        model = Model(name=f"M{optimize.iteration}.{number}", key=key, stage=optimize, folder=folder)
        return self._serving(model)

    def judge(self) -> dict[str, Holder]:
        """The pool of the dedicated judge, by its role; none where the model judges itself."""
        uri, serving = self._spec.judge.model_uri, self._spec.serving
        return (
            {} if uri is None else {"judge": self._fixed("judge", "Judge", uri, serving.judge, lengths.judge)}
        )

    def writer(self, uri: str) -> Holder:
        """The pool of a fixed prompt writer."""
        return self._fixed("writer", "PromptWriter", uri, self._spec.serving.prompt_writer, lengths.writer)

    def comparing(self, compared: HeadToHeadSpec, newest: Holder) -> dict[str, Holder]:
        """Who compares: a fixed judge, an endpoint, or the newest model itself."""
        if compared.judge.model_uri is not None:
            return {"referee": self._referee(compared.judge.model_uri)}
        return {} if compared.judge.endpoint is not None else {"policy": newest}

    def _referee(self, uri: str) -> Holder:
        """The fixed judge of comparisons: the dedicated judge's own pool where it is the same model."""
        if uri == self._spec.judge.model_uri:
            return self.judge()["judge"]
        return self._fixed("referee", "Referee", uri, self._spec.serving.referee, lengths.referee)

    def _fixed(
        self,
        pool: str,
        name: str,
        uri: str,
        own: ServingPoolSpec | None,
        longest: Callable[[SelfRewardingRunSpec, ServingPoolSpec], int],
    ) -> Holder:
        """A pool for a model that the run does not make; without settings of its own (`own`) it has the policy's."""
        spec = own or self._spec.serving
        return Holder(
            pool=pool, model=fixed_model(name, uri), spec=spec, max_model_len=longest(self._spec, spec)
        )

    def _serving(self, model: Model) -> Holder:
        return Holder(
            pool="policy",
            model=model,
            spec=self._spec.serving,
            max_model_len=lengths.policy(self._spec, self._positions),
        )

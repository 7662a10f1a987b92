"""The stages that measure models: Evaluate and Compare of every iteration, Answer and Select of early stopping.

Must not: know how a model is made. Neighbours: `graph` asks for these after each training; `pools` says who is asked.
"""

from collections.abc import Mapping

from selfrewarding.api.algorithm import DpoSpec
from selfrewarding.api.evaluation import HELD_OUT_SET, HeadToHeadSpec, Opponent
from selfrewarding.api.run import SelfRewardingRunSpec
from selfrewarding.contract.artifacts import candidate_folder
from selfrewarding.contract.config import (
    AnswerParameters,
    CompareParameters,
    EvaluateParameters,
    SelectParameters,
)
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.key_views import as_answered, as_asked, as_chosen_by, as_compared
from selfrewarding.plan.pools import Pools
from selfrewarding.plan.stage import Stage
from selfrewarding.plan.stage_maker import StageMaker

_ROLES: dict[Opponent, str] = {"Previous": "previous", "M1": "initial", "Baseline": "baseline"}


class Measuring:
    """What is measured, on what, by whom; and which Evaluate answered for a model, by the key of what made it."""

    def __init__(self, spec: SelfRewardingRunSpec, maker: StageMaker, pools: Pools) -> None:
        self._spec = spec
        self._maker = maker
        self._pools = pools
        self._evaluates: dict[str, Stage] = {}

    @property
    def compared(self) -> HeadToHeadSpec | None:
        """How models are compared, where there is a prompt to compare them on."""
        compared = self._spec.evaluation.head_to_head
        on_nothing = (
            compared is not None and compared.set == HELD_OUT_SET and not self._maker.data.get("heldOut")
        )
        return None if on_nothing else compared

    @property
    def prompt_sets(self) -> tuple[str, ...]:
        """`evaluation.prompts` among the digests of keys, where there are any."""
        return ("evaluationPrompts",) if self._spec.evaluation.prompts else ()

    @property
    def dpo(self) -> DpoSpec:
        """DPO's settings; nobody saves candidates where there is nothing that they could be compared on."""
        if self.compared is not None:
            return self._spec.dpo
        return self._spec.dpo.model_copy(update={"early_stopping": None})

    def measure(self, number: int, trained: Stage, opponents: Mapping[Opponent, Stage | None]) -> list[Stage]:
        """Evaluate and Compare of the model that `trained` makes; `opponents` made those that it can be compared with."""
        if not (self._maker.data.get("heldOut") or self._spec.evaluation.prompts):
            return []  # there is nothing that a model could be measured on
        evaluate = self.evaluate(number, trained)
        return [evaluate, *self._compare(number, trained, opponents, evaluate)]

    def evaluate(self, number: int, trained: Stage) -> Stage:
        """The judge's metrics, and answers to the evaluation prompts; a dedicated judge answers nothing itself."""
        evaluation = self._spec.evaluation
        answers = bool(evaluation.prompts or evaluation.head_to_head)
        judge = self._pools.judge() if self._maker.data.get("heldOut") else {}
        policy = {"policy": self._pools.policy(trained)} if answers or not judge else {}
        self._evaluates[trained.key] = self._maker.make(
            StageKind.EVALUATE,
            number,
            EvaluateParameters(judge=as_asked(self._spec.judge), evaluation=as_answered(evaluation)),
            data=("heldOut", *self.prompt_sets),
            parents={"model": trained},
            holders=judge | policy,
        )
        return self._evaluates[trained.key]

    def _compare(
        self, number: int, trained: Stage, opponents: Mapping[Opponent, Stage | None], evaluate: Stage
    ) -> list[Stage]:
        """The model against earlier ones. M1 may be the previous one too: it has both roles then, and Compare, which asks
        about it once, tells both numbers."""
        compared = self.compared
        if compared is None:
            return []
        parents: dict[str, Stage] = {}
        for name, role in _ROLES.items():
            opponent = opponents.get(name)
            if name not in compared.against or opponent is None or opponent is trained:
                continue
            parents[role] = self._evaluates[opponent.key]
        if not parents:
            return []
        return [
            self._maker.make(
                StageKind.COMPARE,
                number,
                CompareParameters(
                    head_to_head=as_compared(compared), bootstrap=self._spec.evaluation.bootstrap
                ),
                parents={"answers": evaluate, **parents},
                holders=self._pools.comparing(compared, self._pools.policy(trained)),
            )
        ]

    def select(self, number: int, optimize: Stage) -> list[Stage]:
        """The candidates of a training answer one after the other, then one of them is chosen; it is M_number."""
        compared, stopping = self.compared, self.dpo.early_stopping
        if compared is None or stopping is None or self._spec.preferences.rule == "PositiveOnly":
            return []
        evaluation = as_chosen_by(self._spec.evaluation)
        folders = [candidate_folder(one, stopping.candidates) for one in range(1, stopping.candidates + 1)]
        servers = [
            self._pools.candidate(optimize, one, folder) for one, folder in enumerate(folders, start=1)
        ]
        answers = [
            self._maker.make(
                StageKind.ANSWER,
                number,
                AnswerParameters(folder=folder, evaluation=evaluation),
                data=("evaluationPrompts" if evaluation.prompts else "heldOut",),
                parents={"model": optimize},
                holders={"policy": server},
            )
            for folder, server in zip(folders, servers, strict=True)
        ]
        select = self._maker.make(
            StageKind.SELECT,
            number,
            SelectParameters(
                head_to_head=as_compared(compared),
                bootstrap=self._spec.evaluation.bootstrap,
                folders=folders,
            ),
            parents={"trained": optimize}
            | {f"candidate-{one}": stage for one, stage in enumerate(answers, start=1)},
            holders=self._pools.comparing(compared, servers[-1]),
        )
        return [*answers, select]

"""The stages of a run and what each depends on, from the effective spec, Prepare's digests and the gates so far.

Purpose: `build_graph` gives every stage its key, its parents, its models and the serving pools that it asks.
Must not: know whether a stage has run, or what runs in a cluster.
Neighbours: `stage` has the types; `measuring` the stages that measure models; `aside` those that no other reads; `decide`
walks the graph; `manifests` makes objects of its stages; `srr plan` shows it.
"""

from collections.abc import Mapping
from typing import Literal

from selfrewarding.api.algorithm import DpoSpec
from selfrewarding.api.evaluation import Opponent
from selfrewarding.api.run import SelfRewardingRunSpec, StageSummary
from selfrewarding.contract.config import (
    BuildEvaluationsParameters,
    BuildPreferencesParameters,
    GeneratePromptsParameters,
    PreferenceOptimizeParameters,
    PrepareParameters,
    RolloutParameters,
    SftParameters,
)
from selfrewarding.contract.keys import digest, stage_key
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan import lengths
from selfrewarding.plan.key_views import as_asked, as_in_keys
from selfrewarding.plan.measuring import Measuring
from selfrewarding.plan.pools import Pools, fixed_model
from selfrewarding.plan.stage import Graph, Holder, Iteration, Stage
from selfrewarding.plan.stage_maker import StageMaker

GateOutcome = Literal["Promoted", "RolledBack"]
"""What a gate decided for good; a gate that holds or stops decides again when the spec changes."""


def build_graph(
    spec: SelfRewardingRunSpec,
    *,
    run_uid: str,
    contract: int,
    prepare: StageSummary | None = None,
    gates: Mapping[str, GateOutcome] | None = None,
) -> Graph:
    """The stages of a run.

    `spec` is the effective spec (preset filled in); `prepare` is Prepare's summary, whose `data` digests all other keys
    need; `gates` maps keys of training stages (64 hex digits) to what their gates decided so far: a model without one
    counts as promoted.
    """
    prepare_stage = _prepare_stage(spec, run_uid=run_uid, contract=contract)
    if prepare is None:
        return Graph(prepare=prepare_stage)
    return _Builder(spec, prepare_stage, prepare, contract, gates or {}).graph()


def outline(spec: SelfRewardingRunSpec, *, contract: int) -> Graph:
    """The whole graph of a run whose data nobody has read yet, for `srr plan` and `srr render`.

    Its keys rest on invented digests: they tell the stages of this graph apart and mean nothing beyond it.
    """
    sets = {"instructions", "model"}
    sets |= {"evaluations"} if spec.seed_data.evaluations else {"ranked"}
    seeds = spec.seed_data
    if seeds.ranked or seeds.held_out.source or seeds.instructions.format == "OpenAssistant":
        sets.add("heldOut")
    invented = {name: digest(name)[:12] for name in sets}
    summary = StageSummary(stage=StageKind.PREPARE, iteration=0, digest=digest("outline")[:16], data=invented)
    return build_graph(spec, run_uid="outline", contract=contract, prepare=summary)


def _prepare_stage(spec: SelfRewardingRunSpec, *, run_uid: str, contract: int) -> Stage:
    compared = spec.evaluation.head_to_head
    parameters = PrepareParameters(
        model=spec.model,
        seed_data=spec.seed_data,
        sft=spec.sft,
        prompt_generation=spec.prompt_generation,
        responses=spec.responses,
        judge=as_asked(spec.judge),
        dpo=spec.dpo,
        prompt_sets=spec.evaluation.prompts,
        answer_tokens=lengths.earlier_answer(spec),
        referee_uri=compared.judge.model_uri if compared is not None else None,
        max_model_len=spec.serving.max_model_len,
        planned_len=lengths.policy(spec, None) if spec.evaluation.prompts else None,
        run_uid=run_uid,
    )
    key = stage_key(
        kind=StageKind.PREPARE,
        iteration=0,
        contract=contract,
        seed=spec.seed,
        parameters=as_in_keys(parameters),
        data={},
        parents={},
        roll_backs=0,
    )
    return Stage(kind=StageKind.PREPARE, iteration=0, key=key, parameters=parameters)


class _Builder:
    """Builds the iterations one after the other: each starts from the last model that was promoted."""

    def __init__(
        self,
        spec: SelfRewardingRunSpec,
        prepare: Stage,
        summary: StageSummary,
        contract: int,
        gates: Mapping[str, GateOutcome],
    ) -> None:
        self._spec = spec
        self._prepare = prepare
        self._gates = gates
        self._maker = StageMaker(spec=spec, contract=contract, prepare=prepare, data=summary.data)
        self._pools = Pools(spec, prepare, summary.counts.get("maxPositions"))
        self._measuring = Measuring(spec, self._maker, self._pools)
        self._baseline: Stage | None = None

    def graph(self) -> Graph:
        """All iterations."""
        iterations: list[Iteration] = []
        base: Stage | None = None
        initial: Stage | None = None
        for number in range(1, self._spec.iterations + 1):
            if initial is None or base is None:
                stages = self._first_iteration()
                base = initial = trained = stages[-1]
                before = None
            else:
                stages = self._later_iteration(number, base, initial)
                trained, before = stages[-1], base
            opponents: dict[Opponent, Stage | None] = {
                "Previous": before,
                "M1": initial,
                "Baseline": self._baseline,
            }
            measured = self._measuring.measure(number, trained, opponents)
            iterations.append(
                Iteration(number=number, stages=(*stages, *measured), trained=trained, base=before)
            )
            if self._gates.get(trained.key) == "RolledBack":
                self._maker.roll_backs += 1
            else:
                base = trained
        return Graph(prepare=self._prepare, iterations=tuple(iterations))

    def _first_iteration(self) -> list[Stage]:
        """M1: supervised fine-tuning on IFT and EFT, whose examples a baseline or the dedicated judge writes."""
        if self._spec.seed_data.evaluations is not None:
            return [self._fine_tune(self._prepare)]
        if self._spec.judge.model_uri is not None:
            evaluations = self._build_evaluations(None)
            return [evaluations, self._fine_tune(evaluations)]
        baseline = self._baseline = self._maker.make(
            StageKind.TRAIN_BASELINE,
            1,
            SftParameters(
                kind="TrainBaseline", sft=self._spec.sft, chat_template=self._spec.model.chat_template
            ),
            data=("instructions", "model"),
            models={"base": self._pools.m0()},
            gpus=self._training_gpus(),
        )
        evaluations = self._build_evaluations(baseline)
        compared, measured = self._measuring.compared, []
        if compared is not None and "Baseline" in compared.against:
            # While its server is up: the next stage trains on.
            measured = [self._measuring.evaluate(1, baseline)]
        return [baseline, evaluations, *measured, self._fine_tune(evaluations)]

    def _later_iteration(self, number: int, base: Stage, initial: Stage) -> list[Stage]:
        """M_t: prompts, answers, judgements and pairs by M_(t-1), then DPO from it."""
        prompts = self._generate_prompts(number, base)
        rollout = self._maker.make(
            StageKind.ROLLOUT,
            number,
            RolloutParameters(responses=self._spec.responses, judge=as_asked(self._spec.judge)),
            parents={"model": base, "prompts": prompts},
            holders={"policy": self._pools.policy(base)} | self._pools.judge(),
            shards=self._spec.sampler.parallelism,
        )
        preferences = self._maker.make(
            StageKind.BUILD_PREFERENCES,
            number,
            BuildPreferencesParameters(
                preferences=self._spec.preferences,
                scoring=self._spec.judge.scoring,
                maximum_score=self._spec.judge.scores.maximum,
                min_valid=self._spec.judge.min_valid,
            ),
            parents={"rollout": rollout},
        )
        optimize = self._optimize(number, base, initial, preferences)
        return [prompts, rollout, preferences, optimize, *self._measuring.select(number, optimize)]

    def _build_evaluations(self, baseline: Stage | None) -> Stage:
        parents = {} if baseline is None else {"model": baseline}
        policy = {} if baseline is None else {"policy": self._pools.policy(baseline)}
        return self._maker.make(
            StageKind.BUILD_EVALUATIONS,
            1,
            BuildEvaluationsParameters(evaluations=self._spec.evaluations, judge=as_asked(self._spec.judge)),
            data=("ranked",),
            parents=parents,
            holders=policy or self._pools.judge(),
        )

    def _fine_tune(self, evaluations: Stage) -> Stage:
        own = evaluations is self._prepare
        return self._maker.make(
            StageKind.SUPERVISED_FINE_TUNE,
            1,
            SftParameters(
                kind="SupervisedFineTune", sft=self._spec.sft, chat_template=self._spec.model.chat_template
            ),
            data=("instructions", "model", *(["evaluations"] if own else [])),
            parents={"evaluations": evaluations},
            models={"base": self._pools.m0()},
            gpus=self._training_gpus(),
        )

    def _generate_prompts(self, number: int, base: Stage) -> Stage:
        """A fixed writer does not read the current model, so neither its pool nor its key names it."""
        writer = self._spec.prompt_generation.writer
        parents: dict[str, Stage] = {}
        holders: dict[str, Holder] = {}
        if writer.model_uri is not None:
            holders["writer"] = self._pools.writer(writer.model_uri)
        elif writer.endpoint is None:
            parents["model"] = base
            holders["policy"] = self._pools.policy(base)
        return self._maker.make(
            StageKind.GENERATE_PROMPTS,
            number,
            GeneratePromptsParameters(prompt_generation=self._spec.prompt_generation),
            # Examples are drawn from the instructions; no new prompt may come close to the others.
            data=("instructions", "ranked", "heldOut", *self._measuring.prompt_sets),
            parents=parents,
            holders=holders,
        )

    def _optimize(self, number: int, base: Stage, initial: Stage, preferences: Stage) -> Stage:
        positive_only = self._spec.preferences.rule == "PositiveOnly"
        parents = {"model": base, "preferences": preferences}
        models = {"base": self._pools.made(base)}
        reference = self._spec.dpo.reference
        if positive_only:
            pass  # supervised: nothing to be held to
        elif reference == "Previous":
            models["reference"] = self._pools.made(base)
        elif reference == "Initial":
            parents["initial"] = initial
            models["reference"] = self._pools.made(initial)
        else:
            models["reference"] = fixed_model("Reference", reference)
        return self._maker.make(
            StageKind.PREFERENCE_OPTIMIZE,
            number,
            PreferenceOptimizeParameters(
                # Settings that are not read must not change the key: no DPO is done on positive examples alone.
                dpo=DpoSpec() if positive_only else self._measuring.dpo,
                positive_only=positive_only,
                sft=self._spec.sft if positive_only else None,
                chat_template=self._spec.model.chat_template,
            ),
            parents=parents,
            models=models,
            gpus=self._training_gpus(),
        )

    def _training_gpus(self) -> int:
        training = self._spec.training
        return training.nodes * training.gpus_per_node if training.device == "Cuda" else 0

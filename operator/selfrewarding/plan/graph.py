"""The stages of a run and what each depends on, from the effective spec, Prepare's digests and the gates so far.

Purpose: `build_graph` gives every stage its key, its parents, its models and the serving pools that it asks.
Must not: know whether a stage has run, or what runs in a cluster.
Neighbours: `stage` has the types; `decide` walks the graph; `manifests` makes objects of its stages; `srr plan` shows
it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from selfrewarding.api.algorithm import DpoSpec
from selfrewarding.api.run import SelfRewardingRunSpec, StageSummary
from selfrewarding.contract.config import (
    BuildEvaluationsParameters,
    BuildPreferencesParameters,
    EvaluateParameters,
    GeneratePromptsParameters,
    Parameters,
    PreferenceOptimizeParameters,
    PrepareParameters,
    ResolveParameters,
    RolloutParameters,
    SftParameters,
)
from selfrewarding.contract.keys import digest, stage_key
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan import lengths
from selfrewarding.plan.stage import Graph, Holder, Iteration, Model, Stage

__all__ = ["GateOutcome", "Graph", "Holder", "Iteration", "Model", "Stage", "build_graph", "fixed_model", "model_name",
           "outline", "resolve_stage"]  # fmt: skip

GateOutcome = Literal["Promoted", "RolledBack"]
"""What a gate decided for good; a gate that holds or stops decides again when the spec changes."""

_FROM_HUB = "hf://"


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


def resolve_stage(stages: Sequence[Stage], *, spec: SelfRewardingRunSpec, contract: int) -> Stage:
    """The Resolve that asks the store for these stages (at most 64). No parents: it must work whatever is gone."""
    parameters = ResolveParameters(stages=[(stage.kind, stage.key) for stage in stages])
    key = stage_key(
        kind=StageKind.RESOLVE,
        iteration=0,
        contract=contract,
        seed=spec.seed,
        parameters=parameters,
        data={},
        parents={},
        roll_backs=0,
    )
    return Stage(kind=StageKind.RESOLVE, iteration=0, key=key, parameters=parameters)


def fixed_model(name: str, uri: str) -> Model:
    """A model that the run does not make."""
    return Model(name=name, key=digest({"uri": uri}), uri=uri)


def _prepare_stage(spec: SelfRewardingRunSpec, *, run_uid: str, contract: int) -> Stage:
    parameters = PrepareParameters(
        model=spec.model,
        seed_data=spec.seed_data,
        sft=spec.sft,
        prompt_generation=spec.prompt_generation,
        responses=spec.responses,
        judge=spec.judge,
        dpo=spec.dpo,
        max_model_len=spec.serving.max_model_len,
        run_uid=run_uid,
    )
    key = stage_key(
        kind=StageKind.PREPARE,
        iteration=0,
        contract=contract,
        seed=spec.seed,
        parameters=_as_in_keys(parameters),
        data={},
        parents={},
        roll_backs=0,
    )
    return Stage(kind=StageKind.PREPARE, iteration=0, key=key, parameters=parameters)


def _as_in_keys(parameters: Parameters) -> Parameters:
    """Parameters as keys see them: how an external prompt writer is reached does not change what it writes."""
    if not isinstance(parameters, PrepareParameters | GeneratePromptsParameters):
        return parameters
    prompts = parameters.prompt_generation
    if prompts.writer.endpoint is None:
        return parameters
    endpoint = prompts.writer.endpoint.model_copy(update={"api_key_secret_name": None, "max_concurrency": 0})
    writer = prompts.writer.model_copy(update={"endpoint": endpoint})
    return parameters.model_copy(update={"prompt_generation": prompts.model_copy(update={"writer": writer})})


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
        self._data = summary.data
        self._positions = summary.counts.get("maxPositions")
        self._contract = contract
        self._gates = gates
        self._roll_backs = 0

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
            measured = [self._evaluate(number, trained)] if self._data.get("heldOut") else []
            iterations.append(
                Iteration(number=number, stages=(*stages, *measured), trained=trained, base=before)
            )
            if self._gates.get(trained.key) == "RolledBack":
                self._roll_backs += 1
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
        baseline = self._stage(
            StageKind.TRAIN_BASELINE,
            1,
            SftParameters(
                kind="TrainBaseline", sft=self._spec.sft, chat_template=self._spec.model.chat_template
            ),
            data=("instructions", "model"),
            models={"base": self._m0()},
            gpus=self._training_gpus(),
        )
        evaluations = self._build_evaluations(baseline)
        return [baseline, evaluations, self._fine_tune(evaluations)]

    def _later_iteration(self, number: int, base: Stage, initial: Stage) -> list[Stage]:
        """M_t: prompts, answers, judgements and pairs by M_(t-1), then DPO from it."""
        prompts = self._generate_prompts(number, base)
        rollout = self._stage(
            StageKind.ROLLOUT,
            number,
            RolloutParameters(responses=self._spec.responses, judge=self._spec.judge),
            parents={"model": base, "prompts": prompts},
            holders={"policy": self._policy(base)} | self._judge_holder(),
            shards=self._spec.sampler.parallelism,
        )
        preferences = self._stage(
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
        return [prompts, rollout, preferences, self._optimize(number, base, initial, preferences)]

    def _build_evaluations(self, baseline: Stage | None) -> Stage:
        parents = {} if baseline is None else {"model": baseline}
        policy = {} if baseline is None else {"policy": self._policy(baseline)}
        return self._stage(
            StageKind.BUILD_EVALUATIONS,
            1,
            BuildEvaluationsParameters(evaluations=self._spec.evaluations, judge=self._spec.judge),
            data=("ranked",),
            parents=parents,
            holders=policy or self._judge_holder(),
        )

    def _fine_tune(self, evaluations: Stage) -> Stage:
        own = evaluations is self._prepare
        return self._stage(
            StageKind.SUPERVISED_FINE_TUNE,
            1,
            SftParameters(
                kind="SupervisedFineTune", sft=self._spec.sft, chat_template=self._spec.model.chat_template
            ),
            data=("instructions", "model", *(["evaluations"] if own else [])),
            parents={"evaluations": evaluations},
            models={"base": self._m0()},
            gpus=self._training_gpus(),
        )

    def _generate_prompts(self, number: int, base: Stage) -> Stage:
        """A fixed writer does not read the current model, so neither its pool nor its key names it."""
        writer = self._spec.prompt_generation.writer
        parents: dict[str, Stage] = {}
        holders: dict[str, Holder] = {}
        if writer.model_uri is not None:
            pool = self._spec.serving.prompt_writer or self._spec.serving
            holders["writer"] = Holder(
                pool="writer",
                model=fixed_model("PromptWriter", writer.model_uri),
                spec=pool,
                max_model_len=lengths.writer(self._spec, pool),
            )
        elif writer.endpoint is None:
            parents["model"] = base
            holders["policy"] = self._policy(base)
        return self._stage(
            StageKind.GENERATE_PROMPTS,
            number,
            GeneratePromptsParameters(prompt_generation=self._spec.prompt_generation),
            data=("instructions",),
            parents=parents,
            holders=holders,
        )

    def _optimize(self, number: int, base: Stage, initial: Stage, preferences: Stage) -> Stage:
        positive_only = self._spec.preferences.rule == "PositiveOnly"
        parents = {"model": base, "preferences": preferences}
        models = {"base": self._made(base)}
        reference = self._spec.dpo.reference
        if positive_only:
            pass  # supervised: nothing to be held to
        elif reference == "Previous":
            models["reference"] = self._made(base)
        elif reference == "Initial":
            parents["initial"] = initial
            models["reference"] = self._made(initial)
        else:
            models["reference"] = fixed_model("Reference", reference)
        return self._stage(
            StageKind.PREFERENCE_OPTIMIZE,
            number,
            PreferenceOptimizeParameters(
                # Settings that are not read must not change the key: no DPO is done on positive examples alone.
                dpo=DpoSpec() if positive_only else self._spec.dpo,
                positive_only=positive_only,
                sft=self._spec.sft if positive_only else None,
                chat_template=self._spec.model.chat_template,
            ),
            parents=parents,
            models=models,
            gpus=self._training_gpus(),
        )

    def _evaluate(self, number: int, trained: Stage) -> Stage:
        return self._stage(
            StageKind.EVALUATE,
            number,
            EvaluateParameters(judge=self._spec.judge, evaluation=self._spec.evaluation),
            data=("heldOut",),
            parents={"model": trained},
            holders=self._judge_holder() or {"policy": self._policy(trained)},
        )

    def _stage(
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
            contract=self._contract,
            seed=self._spec.seed,
            parameters=_as_in_keys(parameters),
            data={name: self._data.get(name, "") for name in data},
            parents={role: stage.key for role, stage in parents.items() if stage is not self._prepare},
            roll_backs=self._roll_backs,
        )
        return Stage(
            kind=kind,
            iteration=iteration,
            key=key,
            parameters=parameters,
            parents={"prepare": self._prepare, **parents},
            models=models or {},
            holders=holders or {},
            shards=shards,
            gpus=gpus,
        )

    def _m0(self) -> Model:
        model = fixed_model("M0", self._spec.model.uri)
        if self._spec.model.uri.startswith(_FROM_HUB):
            return Model(name=model.name, key=model.key, stage=self._prepare)
        return model

    def _made(self, stage: Stage) -> Model:
        return Model(name=model_name(stage), key=stage.key, stage=stage)

    def _policy(self, stage: Stage) -> Holder:
        return Holder(
            pool="policy",
            model=self._made(stage),
            spec=self._spec.serving,
            max_model_len=lengths.policy(self._spec, self._positions),
        )

    def _judge_holder(self) -> dict[str, Holder]:
        if self._spec.judge.model_uri is None:
            return {}
        pool = self._spec.serving.judge or self._spec.serving
        holder = Holder(
            pool="judge",
            model=fixed_model("Judge", self._spec.judge.model_uri),
            spec=pool,
            max_model_len=lengths.judge(self._spec, pool),
        )
        return {"judge": holder}

    def _training_gpus(self) -> int:
        training = self._spec.training
        return training.nodes * training.gpus_per_node if training.device == "Cuda" else 0


def model_name(stage: Stage) -> str:
    """The name of the model that a training stage makes: Baseline, M1, M2, …"""
    return "Baseline" if stage.kind is StageKind.TRAIN_BASELINE else f"M{stage.iteration}"

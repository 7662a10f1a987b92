"""The stages of a run and what each depends on, from the effective spec, Prepare's digests and the gates so far.

Purpose: `build_graph` gives every stage its key, its parents, its models and the serving pools that it asks.
Must not: know whether a stage has run, or what runs in a cluster.
Neighbours: `stage` has the types; `decide` walks the graph; `manifests` makes objects of its stages; `srr plan` shows
it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from selfrewarding.api.algorithm import DpoSpec, EndpointSpec, JudgeSpec
from selfrewarding.api.evaluation import HELD_OUT_SET, EvaluationSpec, HeadToHeadSpec, PromptSetSpec
from selfrewarding.api.run import SelfRewardingRunSpec, StageSummary
from selfrewarding.contract.artifacts import candidate_folder
from selfrewarding.contract.config import (
    AnswerParameters,
    BuildEvaluationsParameters,
    BuildPreferencesParameters,
    CompareParameters,
    EvaluateParameters,
    GeneratePromptsParameters,
    Parameters,
    PreferenceOptimizeParameters,
    PrepareParameters,
    ReportParameters,
    ResolveParameters,
    RolloutParameters,
    SelectParameters,
    SftParameters,
)
from selfrewarding.contract.keys import digest, stage_key
from selfrewarding.contract.stages import StageKind, report_role
from selfrewarding.plan import lengths
from selfrewarding.plan.stage import Graph, Holder, Iteration, Model, Stage

__all__ = ["GateOutcome", "Graph", "Holder", "Iteration", "Model", "Stage", "build_graph", "fixed_model", "model_name",
           "outline", "report_stage", "resolve_stage"]  # fmt: skip

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


def report_stage(
    graph: Graph,
    finished: Sequence[Stage],
    *,
    run_uid: str,
    decided: str,
    uncalibrated: str | None = None,
    spec: SelfRewardingRunSpec,
    contract: int,
) -> Stage:
    """The Report of a run whose stages `finished` are done. It computes nothing that others read: it is in no graph.

    For its roles see `report_role`.
    """
    parameters = ReportParameters(run_uid=run_uid, decided=decided, uncalibrated=uncalibrated)
    parents: dict[str, Stage] = {}
    for stage in finished:
        of_baseline = _measures_baseline(stage)
        role = report_role(stage.kind, stage.iteration, of_baseline=of_baseline, taken=parents)
        parents[role] = stage
    key = stage_key(
        kind=StageKind.REPORT,
        iteration=finished[-1].iteration,
        contract=contract,
        seed=spec.seed,
        parameters=parameters,
        data={},
        parents={role: stage.key for role, stage in parents.items()},
        roll_backs=0,
    )
    return Stage(
        kind=StageKind.REPORT,
        iteration=finished[-1].iteration,
        key=key,
        parameters=parameters,
        parents={"prepare": graph.prepare, **parents},
    )


def _measures_baseline(stage: Stage) -> bool:
    measured = stage.parents.get("model")
    of_baseline = measured is not None and measured.kind is StageKind.TRAIN_BASELINE
    return stage.kind is StageKind.EVALUATE and of_baseline


def fixed_model(name: str, uri: str) -> Model:
    """A model that the run does not make."""
    return Model(name=name, key=digest({"uri": uri}), uri=uri)


def _prepare_stage(spec: SelfRewardingRunSpec, *, run_uid: str, contract: int) -> Stage:
    compared = spec.evaluation.head_to_head
    parameters = PrepareParameters(
        model=spec.model,
        seed_data=spec.seed_data,
        sft=spec.sft,
        prompt_generation=spec.prompt_generation,
        responses=spec.responses,
        judge=_as_asked(spec.judge),
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
        parameters=_as_in_keys(parameters),
        data={},
        parents={},
        roll_backs=0,
    )
    return Stage(kind=StageKind.PREPARE, iteration=0, key=key, parameters=parameters)


def _as_in_keys(parameters: Parameters) -> Parameters:
    """Parameters as keys see them: how an external endpoint is reached does not change what it says."""
    match parameters:
        case (
            PrepareParameters(prompt_generation=prompts)
            | GeneratePromptsParameters(prompt_generation=prompts)
        ):
            if prompts.writer.endpoint is None:
                return parameters
            writer = prompts.writer.model_copy(update={"endpoint": _as_addressed(prompts.writer.endpoint)})
            return parameters.model_copy(
                update={"prompt_generation": prompts.model_copy(update={"writer": writer})}
            )
        case CompareParameters(head_to_head=compared) | SelectParameters(head_to_head=compared) if (
            compared.judge.endpoint is not None
        ):
            judge = compared.judge.model_copy(update={"endpoint": _as_addressed(compared.judge.endpoint)})
            return parameters.model_copy(
                update={"head_to_head": compared.model_copy(update={"judge": judge})}
            )
        case EvaluateParameters(evaluation=evaluation) | AnswerParameters(evaluation=evaluation) if (
            evaluation.prompts
        ):
            sets = [_as_named(one) for one in evaluation.prompts]
            return parameters.model_copy(
                update={"evaluation": evaluation.model_copy(update={"prompts": sets})}
            )
        case _:
            return parameters


def _as_addressed(endpoint: EndpointSpec) -> EndpointSpec:
    return endpoint.model_copy(update={"api_key_secret_name": None, "max_concurrency": 0})


def _as_named(prompts: PromptSetSpec) -> PromptSetSpec:
    """A set whose rows are in keys by their digest: wherever they come from."""
    return PromptSetSpec(name=prompts.name, uri="s3://prepared")


def _as_asked(judge: JudgeSpec) -> JudgeSpec:
    """The judge as stages ask it: what it must reach decides nothing about its judgements."""
    return judge.model_copy(update={"calibration": None})


def _as_compared(compared: HeadToHeadSpec) -> HeadToHeadSpec:
    """How answers are compared; with whose is said by Compare's parents."""
    return compared.model_copy(update={"against": HeadToHeadSpec().against})


def _as_answered(evaluation: EvaluationSpec) -> EvaluationSpec:
    """What Evaluate reads: how many held-out prompts it answers. Who compares the answers, against whom, and on which of
    `evaluation.prompts`, all of which it answers, is Compare's."""
    compared = evaluation.head_to_head
    asked = None
    if compared is not None and compared.set == HELD_OUT_SET:
        asked = HeadToHeadSpec(prompts=compared.prompts)
    return evaluation.model_copy(update={"head_to_head": asked})


def _as_chosen_by(evaluation: EvaluationSpec) -> EvaluationSpec:
    """What Answer reads: the set that is compared on, how much of it, and how it is answered."""
    compared = evaluation.head_to_head or HeadToHeadSpec()
    sets = [one for one in evaluation.prompts or [] if one.name == compared.set]
    return EvaluationSpec(
        prompts=sets or None,
        answers=evaluation.answers,
        head_to_head=HeadToHeadSpec(set=compared.set, prompts=compared.prompts),
    )


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
        self._baseline: Stage | None = None
        self._evaluates: dict[str, Stage] = {}

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
            measured = self._measure(number, trained, before, initial)
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
        baseline = self._baseline = self._stage(
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
        compared, measured = self._compared, []
        if compared is not None and "Baseline" in compared.against:
            # While its server is up: the next stage trains on.
            measured = [self._evaluate(1, baseline)]
        return [baseline, evaluations, *measured, self._fine_tune(evaluations)]

    def _later_iteration(self, number: int, base: Stage, initial: Stage) -> list[Stage]:
        """M_t: prompts, answers, judgements and pairs by M_(t-1), then DPO from it."""
        prompts = self._generate_prompts(number, base)
        rollout = self._stage(
            StageKind.ROLLOUT,
            number,
            RolloutParameters(responses=self._spec.responses, judge=_as_asked(self._spec.judge)),
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
        optimize = self._optimize(number, base, initial, preferences)
        return [prompts, rollout, preferences, optimize, *self._select(number, optimize)]

    def _build_evaluations(self, baseline: Stage | None) -> Stage:
        parents = {} if baseline is None else {"model": baseline}
        policy = {} if baseline is None else {"policy": self._policy(baseline)}
        return self._stage(
            StageKind.BUILD_EVALUATIONS,
            1,
            BuildEvaluationsParameters(evaluations=self._spec.evaluations, judge=_as_asked(self._spec.judge)),
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
            # Examples are drawn from the instructions; no new prompt may come close to the others.
            data=("instructions", "ranked", "heldOut", *self._prompt_sets),
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
                dpo=DpoSpec() if positive_only else self._dpo,
                positive_only=positive_only,
                sft=self._spec.sft if positive_only else None,
                chat_template=self._spec.model.chat_template,
            ),
            parents=parents,
            models=models,
            gpus=self._training_gpus(),
        )

    @property
    def _dpo(self) -> DpoSpec:
        """DPO's settings; nobody saves candidates where there is nothing that they could be compared on."""
        if self._compared is not None:
            return self._spec.dpo
        return self._spec.dpo.model_copy(update={"early_stopping": None})

    def _select(self, number: int, optimize: Stage) -> list[Stage]:
        """The candidates of a training answer one after the other, then one of them is chosen; it is M_number."""
        compared, stopping = self._compared, self._dpo.early_stopping
        if compared is None or stopping is None or self._spec.preferences.rule == "PositiveOnly":
            return []
        evaluation = _as_chosen_by(self._spec.evaluation)
        folders = [candidate_folder(one, stopping.candidates) for one in range(1, stopping.candidates + 1)]
        servers = [self._candidate(optimize, one, folder) for one, folder in enumerate(folders, start=1)]
        answers = [
            self._stage(
                StageKind.ANSWER,
                number,
                AnswerParameters(folder=folder, evaluation=evaluation),
                data=("evaluationPrompts" if evaluation.prompts else "heldOut",),
                parents={"model": optimize},
                holders={"policy": server},
            )
            for folder, server in zip(folders, servers, strict=True)
        ]
        select = self._stage(
            StageKind.SELECT,
            number,
            SelectParameters(
                head_to_head=_as_compared(compared),
                bootstrap=self._spec.evaluation.bootstrap,
                folders=folders,
            ),
            parents={"trained": optimize}
            | {f"candidate-{one}": stage for one, stage in enumerate(answers, start=1)},
            holders=self._comparing(compared, servers[-1]),
        )
        return [*answers, select]

    def _candidate(self, optimize: Stage, number: int, folder: str) -> Holder:
        """The pool of a model that a training saved on its way."""
        key = digest({"stage": optimize.key, "folder": folder})
        model = Model(name=f"M{optimize.iteration}.{number}", key=key, stage=optimize, folder=folder)
        return self._serving(model)

    @property
    def _has_prompts(self) -> bool:
        """Whether there is anything that a model could be measured on."""
        return bool(self._data.get("heldOut") or self._spec.evaluation.prompts)

    @property
    def _compared(self) -> HeadToHeadSpec | None:
        """How models are compared, where there is a prompt to compare them on."""
        compared = self._spec.evaluation.head_to_head
        on_nothing = compared is not None and compared.set == HELD_OUT_SET and not self._data.get("heldOut")
        return None if on_nothing else compared

    @property
    def _prompt_sets(self) -> tuple[str, ...]:
        """`evaluation.prompts` among the digests of keys, where there are any."""
        return ("evaluationPrompts",) if self._spec.evaluation.prompts else ()

    def _measure(self, number: int, trained: Stage, before: Stage | None, initial: Stage) -> list[Stage]:
        if not self._has_prompts:
            return []
        evaluate = self._evaluate(number, trained)
        return [evaluate, *self._compare(number, trained, before, initial, evaluate)]

    def _evaluate(self, number: int, trained: Stage) -> Stage:
        """The judge's metrics, and answers to the evaluation prompts; a dedicated judge answers nothing itself."""
        evaluation = self._spec.evaluation
        answers = bool(evaluation.prompts or evaluation.head_to_head)
        judge = self._judge_holder() if self._data.get("heldOut") else {}
        policy = {"policy": self._policy(trained)} if answers or not judge else {}
        self._evaluates[trained.key] = self._stage(
            StageKind.EVALUATE,
            number,
            EvaluateParameters(judge=_as_asked(self._spec.judge), evaluation=_as_answered(evaluation)),
            data=("heldOut", *self._prompt_sets),
            parents={"model": trained},
            holders=judge | policy,
        )
        return self._evaluates[trained.key]

    def _compare(
        self, number: int, trained: Stage, before: Stage | None, initial: Stage, evaluate: Stage
    ) -> list[Stage]:
        """The model against earlier ones, each of them once."""
        compared = self._compared
        if compared is None:
            return []
        opponents = {"Previous": before, "M1": initial, "Baseline": self._baseline}
        roles = {"Previous": "previous", "M1": "initial", "Baseline": "baseline"}
        parents: dict[str, Stage] = {}
        for name, role in roles.items():
            opponent = opponents[name]
            if name not in compared.against or opponent is None or opponent is trained:
                continue
            answers = self._evaluates[opponent.key]
            if answers not in parents.values():
                parents[role] = answers
        if not parents:
            return []
        return [
            self._stage(
                StageKind.COMPARE,
                number,
                CompareParameters(
                    head_to_head=_as_compared(compared), bootstrap=self._spec.evaluation.bootstrap
                ),
                parents={"answers": evaluate, **parents},
                holders=self._comparing(compared, self._policy(trained)),
            )
        ]

    def _comparing(self, compared: HeadToHeadSpec, newest: Holder) -> dict[str, Holder]:
        """Who compares: a fixed judge, an endpoint, or the newest model itself."""
        if compared.judge.model_uri is not None:
            return {"referee": self._referee(compared.judge.model_uri)}
        return {} if compared.judge.endpoint is not None else {"policy": newest}

    def _referee(self, uri: str) -> Holder:
        """The fixed judge of comparisons: the dedicated judge's own pool where it is the same model."""
        if uri == self._spec.judge.model_uri:
            return self._judge_holder()["judge"]
        pool = self._spec.serving.referee or self._spec.serving
        return Holder(
            pool="referee",
            model=fixed_model("Referee", uri),
            spec=pool,
            max_model_len=lengths.referee(self._spec, pool),
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
        return self._serving(self._made(stage))

    def _serving(self, model: Model) -> Holder:
        return Holder(
            pool="policy",
            model=model,
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
    """The name of the model that a stage makes: Baseline, M1, M2, …"""
    return "Baseline" if stage.kind is StageKind.TRAIN_BASELINE else f"M{stage.iteration}"

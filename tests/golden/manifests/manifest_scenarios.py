"""Runs that the manifests are made for: stages and pools by hand, with keys that no change of the planner moves."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from selfrewarding.api.evaluation import HeadToHeadSpec
from selfrewarding.api.presets import effective
from selfrewarding.api.run import RawObject, SelfRewardingRunSpec, StageSummary
from selfrewarding.contract.config import (
    AnswerParameters,
    BuildEvaluationsParameters,
    BuildPreferencesParameters,
    CompareParameters,
    EvaluateParameters,
    GeneratePromptsParameters,
    PreferenceOptimizeParameters,
    PrepareParameters,
    ReportParameters,
    ResolveParameters,
    RolloutParameters,
    SelectParameters,
    SftParameters,
)
from selfrewarding.contract.stages import StageKind
from selfrewarding.manifests import Images, RunContext, holder_objects, retirement_job, stage_objects
from selfrewarding.plan.stage import Holder, Model, Stage

UID = "5f0c8ad2-7f0a-4b7e-9a6e-0d1b4f6e2c11"
IMAGES = Images(
    trainer="images/trainer:test",
    sampler="images/sampler:test",
    vllm="images/vllm:test",
    vllm_cpu="images/vllm-cpu:test",
)
SMOLLM2 = {"modelBytes": 538090408, "parameters": 134515008, "maxPositions": 8192, "instructions": 84}
LLAMA2_70B = {
    "modelBytes": 137953316864,
    "parameters": 68976648192,
    "maxPositions": 4096,
    "instructions": 3200,
}

BASE: dict[str, Any] = {
    "model": {"uri": "s3://models/m0"},
    "artifacts": {"uri": "s3://runs/demo"},
    "seedData": {
        "instructions": {"uri": "s3://data/instructions.jsonl", "format": "PromptResponse"},
        "ranked": {"uri": "s3://data/ranked.jsonl", "format": "Ranked"},
    },
}


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """All stages of a run's first two iterations, each done, and its pools."""

    context: RunContext
    stages: Mapping[StageKind, Stage]
    holders: Mapping[str, Holder] = field(default_factory=dict)

    def objects(self, kind: StageKind, attempt: int = 1) -> list[RawObject]:
        return stage_objects(self.context, self.stages[kind], attempt)

    def workload(self, kind: StageKind, attempt: int = 1) -> RawObject:
        return self.objects(kind, attempt)[-1]

    def pool(self, name: str = "policy", iteration: int = 2, attempt: int = 1) -> dict[str, RawObject]:
        made = holder_objects(self.context, self.holders[name], iteration, attempt)
        return {one["kind"]: one for one in made}

    def everything(self) -> list[RawObject]:
        """Every object of every stage and pool."""
        made = [one for kind in self.stages for one in self.objects(kind)]
        return made + [one for name in self.holders for one in self.pool(name).values()]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for name, value in above.items():
        old = result.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[name] = merged(old, value) if both else value
    return result


def plan(
    block: Mapping[str, Any] | None = None,
    *,
    name: str = "demo",
    uid: str = UID,
    counts: Mapping[str, int] = SMOLLM2,
    salt: str = "",
) -> Plan:
    """The plan of a run with these fields of its spec; `salt` makes other keys of the same run."""
    spec = effective(merged(BASE, block or {}))
    stages, holders = _stages(spec, salt)
    results = {
        stage.short: StageSummary(
            stage=stage.kind,
            iteration=stage.iteration,
            digest=key(f"result of {stage.key}")[:16],
            counts=dict(counts) if stage.kind is StageKind.PREPARE else {},
        )
        for stage in stages.values()
    }
    context = RunContext(
        namespace="training", name=name, uid=uid, spec=spec, results=results, contract=1, images=IMAGES
    )
    return Plan(context, stages, holders)


def _stages(spec: SelfRewardingRunSpec, salt: str) -> tuple[dict[StageKind, Stage], dict[str, Holder]]:
    stages: dict[StageKind, Stage] = {}

    def add(kind: StageKind, iteration: int, parameters: Any, **more: Any) -> Stage:
        prepare = stages.get(StageKind.PREPARE)
        own = more.pop("parents", {})
        stage = Stage(
            kind=kind,
            iteration=iteration,
            key=key(f"{salt}{kind}-{iteration}"),
            parameters=parameters,
            parents={**({"prepare": prepare} if prepare else {}), **own},
            **more,
        )
        stages[kind] = stage
        return stage

    def pool(name: str, model: Model, pool_spec: Any) -> Holder:
        return Holder(pool=name, model=model, spec=pool_spec, max_model_len=pool_spec.max_model_len or 4096)

    add(
        StageKind.PREPARE,
        0,
        PrepareParameters(
            model=spec.model,
            seed_data=spec.seed_data,
            sft=spec.sft,
            prompt_generation=spec.prompt_generation,
            responses=spec.responses,
            judge=spec.judge,
            dpo=spec.dpo,
            referee_uri=spec.evaluation.head_to_head.judge.model_uri
            if spec.evaluation.head_to_head
            else None,
            run_uid=UID,
        ),
    )
    m0 = Model(name="M0", key=key(spec.model.uri), uri=spec.model.uri)
    template = spec.model.chat_template
    baseline = add(
        StageKind.TRAIN_BASELINE,
        1,
        SftParameters(kind="TrainBaseline", sft=spec.sft, chat_template=template),
        models={"base": m0},
    )
    fixed = {
        "judge": (spec.judge.model_uri, spec.serving.judge or spec.serving, "Judge"),
        "writer": (
            spec.prompt_generation.writer.model_uri,
            spec.serving.prompt_writer or spec.serving,
            "PromptWriter",
        ),
        "referee": (
            spec.evaluation.head_to_head.judge.model_uri if spec.evaluation.head_to_head else None,
            spec.serving.referee or spec.serving,
            "Referee",
        ),
    }
    holders = {
        role: pool(role, Model(name=name, key=key(uri), uri=uri), pool_spec)
        for role, (uri, pool_spec, name) in fixed.items()
        if uri
    }
    judge = {"judge": holders["judge"]} if "judge" in holders else {}
    first = pool("policy", Model(name="Baseline", key=baseline.key, stage=baseline), spec.serving)
    evaluations = add(
        StageKind.BUILD_EVALUATIONS,
        1,
        BuildEvaluationsParameters(evaluations=spec.evaluations, judge=spec.judge),
        holders=judge or {"policy": first},
    )
    sft = add(
        StageKind.SUPERVISED_FINE_TUNE,
        1,
        SftParameters(kind="SupervisedFineTune", sft=spec.sft, chat_template=template),
        parents={"evaluations": evaluations},
        models={"base": m0},
    )
    m1 = Model(name="M1", key=sft.key, stage=sft)
    policy = {"policy": pool("policy", m1, spec.serving)}
    external = spec.prompt_generation.writer.endpoint is not None
    prompts = add(
        StageKind.GENERATE_PROMPTS,
        2,
        GeneratePromptsParameters(prompt_generation=spec.prompt_generation),
        holders={} if external else {"writer": holders["writer"]} if "writer" in holders else policy,
    )
    rollout = add(
        StageKind.ROLLOUT,
        2,
        RolloutParameters(responses=spec.responses, judge=spec.judge),
        parents={"model": sft, "prompts": prompts},
        holders={**policy, **judge},
        shards=spec.sampler.parallelism,
    )
    preferences = add(
        StageKind.BUILD_PREFERENCES,
        2,
        BuildPreferencesParameters(
            preferences=spec.preferences, scoring=spec.judge.scoring, maximum_score=5, min_valid=1
        ),
        parents={"rollout": rollout},
    )
    dpo = add(
        StageKind.PREFERENCE_OPTIMIZE,
        2,
        PreferenceOptimizeParameters(dpo=spec.dpo, chat_template=template),
        parents={"model": sft, "preferences": preferences},
        models={"base": m1, "reference": m1},
    )
    evaluate = add(
        StageKind.EVALUATE,
        2,
        EvaluateParameters(judge=spec.judge, evaluation=spec.evaluation),
        parents={"model": dpo},
        holders=judge or {"policy": pool("policy", Model(name="M2", key=dpo.key, stage=dpo), spec.serving)},
    )
    compared = spec.evaluation.head_to_head or HeadToHeadSpec()
    judged_elsewhere = {"referee": holders["referee"]} if "referee" in holders else {}
    add(
        StageKind.COMPARE,
        2,
        CompareParameters(head_to_head=compared, bootstrap=1000),
        parents={"answers": evaluate, "previous": evaluate},
        holders=judged_elsewhere or ({} if compared.judge.endpoint else policy),
    )
    asked = ResolveParameters(stages=[(stage.kind, stage.key) for stage in list(stages.values())[1:]])
    stages[StageKind.RESOLVE] = Stage(
        kind=StageKind.RESOLVE, iteration=0, key=key(f"{salt}Resolve"), parameters=asked
    )
    told = {f"{stage.kind}-{stage.iteration}": stage for stage in (sft, rollout, dpo, evaluate)}
    add(StageKind.REPORT, 2, ReportParameters(run_uid=UID), parents=told)
    first_candidate = Model(name="M2.1", key=key(f"{dpo.key} 1"), stage=dpo, folder="candidates/1")
    answer = add(
        StageKind.ANSWER,
        2,
        AnswerParameters(folder="candidates/1", evaluation=spec.evaluation),
        parents={"model": dpo},
        holders={"policy": pool("policy", first_candidate, spec.serving)},
    )
    add(
        StageKind.SELECT,
        2,
        SelectParameters(head_to_head=compared, bootstrap=1000, folders=["candidates/1", "model"]),
        parents={"trained": dpo, "candidate-1": answer},
        holders=judged_elsewhere or ({} if compared.judge.endpoint else policy),
    )
    return stages, {**policy, **holders}


CPU: dict[str, Any] = {
    "artifacts": {
        "endpoint": "https://s3.example",
        "addressing": "Path",
        "credentials": {"secretName": "s3"},
    },
    "sft": {"batchSize": 4, "maxLength": 768},
    "dpo": {"batchSize": 4, "maxLength": 512},
    "judge": {"format": "Structured"},
    "serving": {
        "device": "Cpu",
        "maxModelLen": 1024,
        "maxNumSeqs": 24,
        "kvCache": "1Gi",
        "resources": {"cpu": "2", "memory": "6Gi"},
    },
    "training": {"device": "Cpu", "microBatchSize": 2, "resources": {"cpu": "2", "memory": "8Gi"}},
}

PAPER: dict[str, Any] = {
    "preset": "paper-2401.10020",
    "artifacts": {
        "region": "eu-central-1",
        "credentials": {"serviceAccountName": "runs-writer"},
        "caBundle": {"configMapName": "site-ca"},
    },
    "serving": {"replicas": 2, "tensorParallelSize": 8, "load": "Streamer"},
    "training": {"nodes": 2, "gpusPerNode": 8, "deepspeed": {"zeroStage": 3, "offloadOptimizer": True}},
    "scheduling": {
        "queueName": "research",
        "priorityClassName": "training",
        "nodeSelector": {"accelerator": "h200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
}

JUDGE: dict[str, Any] = {
    "judge": {
        "modelUri": "hf://org/judge@main",
        "format": "Structured",
        "scores": {"minimum": 1, "maximum": 50},
    },
    "serving": {
        "replicas": 2,
        "judge": {
            "tensorParallelSize": 4,
            "extraArgs": {"quantization": "fp8", "enable_expert_parallel": ""},
        },
    },
}

WRITER: dict[str, Any] = {
    "promptGeneration": {
        "writer": {
            "endpoint": {
                "url": "https://writer.example/v1",
                "model": "large-chat",
                "apiKeySecretName": "writer-key",
            }
        }
    }
}

MEASURED: dict[str, Any] = {
    "evaluation": {
        "prompts": [{"name": "chat", "uri": "s3://data/chat.jsonl"}],
        "headToHead": {
            "set": "chat",
            "judge": {
                "endpoint": {
                    "url": "https://judge.example/v1",
                    "model": "large-judge",
                    "apiKeySecretName": "judge-key",
                },
                "tokenBudget": 1000000,
            },
        },
    },
    "tracking": {
        "mlflow": {"uri": "https://mlflow.example", "secretName": "mlflow"},
        "wandb": {"project": "loops", "secretName": "wandb"},
    },
}

TEMPLATES: dict[str, Any] = {
    "training": {
        "podTemplate": {
            "metadata": {
                "labels": {"team": "alignment"},
                "annotations": {"sidecar.istio.io/inject": "false"},
            },
            "spec": {
                "hostNetwork": True,
                "runtimeClassName": "nvidia",
                "containers": [
                    {
                        "name": "pytorch",
                        "env": [
                            {"name": "NCCL_DEBUG", "value": "INFO"},
                            {"name": "NCCL_IB_HCA", "value": "mlx5"},
                        ],
                        "resources": {"limits": {"rdma/hca": "1"}, "requests": {"rdma/hca": "1"}},
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    }
                ],
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "scratch", "persistentVolumeClaim": {"claimName": "fast"}},
                ],
            },
        }
    },
    "serving": {
        "podTemplate": {
            "spec": {
                "initContainers": [
                    {"name": "fetch-model", "env": [{"name": "HF_HOME", "value": "/model/hub"}]}
                ],
                "volumes": [{"name": "cache", "hostPath": {"path": "/var/cache/vllm", "type": "Directory"}}],
            }
        }
    },
    "sampler": {
        "podTemplate": {"spec": {"nodeSelector": {"pool": "cpu"}, "terminationGracePeriodSeconds": 60}}
    },
}


def _named(made: Plan, *kinds: StageKind, pools: tuple[str, ...] = ()) -> list[RawObject]:
    return [one for kind in kinds for one in made.objects(kind)] + [
        one for name in pools for one in made.pool(name).values()
    ]


SCENARIOS: dict[str, Callable[[], list[RawObject]]] = {
    "cpu-quickstart": lambda: _named(
        plan(CPU, name="quickstart"),
        StageKind.PREPARE,
        StageKind.ROLLOUT,
        StageKind.PREFERENCE_OPTIMIZE,
        StageKind.EVALUATE,
        pools=("policy",),
    ),
    "paper-2-nodes-8-gpus": lambda: _named(
        plan(PAPER, name="paper", counts=LLAMA2_70B),
        StageKind.RESOLVE,
        StageKind.SUPERVISED_FINE_TUNE,
        pools=("policy",),
    ),
    "dedicated-judge": lambda: _named(
        plan(JUDGE), StageKind.BUILD_EVALUATIONS, StageKind.ROLLOUT, pools=("policy", "judge")
    ),
    "external-writer": lambda: _named(plan(WRITER), StageKind.GENERATE_PROMPTS),
    "indexed-rollout": lambda: _named(plan({"sampler": {"parallelism": 4}}), StageKind.ROLLOUT),
    "measured": lambda: _named(plan(MEASURED), StageKind.EVALUATE, StageKind.COMPARE, StageKind.REPORT),
    "retirement": lambda: [retirement_job(plan(CPU, name="quickstart").context, 1)],
    "pod-templates": lambda: _named(
        plan(TEMPLATES), StageKind.PREFERENCE_OPTIMIZE, StageKind.ROLLOUT, pools=("policy",)
    ),
}
"""Objects by the name of their golden file."""

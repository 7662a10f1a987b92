"""Values of the chart that a person reads the outcome of in a review: name of the golden file to values."""

from typing import Any

SCENARIOS: dict[str, dict[str, Any]] = {
    "default": {},
    "two-namespaces": {"watchNamespaces": ["team-a", "team-b"], "replicas": 1},
    "everything-set": {
        "replicas": 3,
        "image": {
            "repository": "registry.example.com/selfrewarding/operator",
            "digest": "sha256:" + "0123456789abcdef" * 4,
            "pullPolicy": "Always",
        },
        "imagePullSecrets": ["registry"],
        "images": {
            "trainer": "registry.example.com/trainer:1",
            "sampler": "registry.example.com/sampler:1",
            "vllm": "registry.example.com/vllm:1",
            "vllmCpu": "registry.example.com/vllm-cpu:1",
        },
        "crds": {"keep": False},
        "serviceAccount": {"name": "trainer-of-models", "annotations": {"example.com/role": "operator"}},
        "log": {"format": "text", "level": "DEBUG"},
        "networkPolicy": {
            "enabled": True,
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        },
        "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]
                }
            }
        },
        "podAnnotations": {"example.com/team": "research"},
        "podLabels": {"team": "research"},
        "extraEnv": [{"name": "SRR_PASS_CONCURRENCY", "value": "16"}],
    },
    "least": {
        "replicas": 1,
        "crds": {"enabled": False},
        "serviceAccount": {"create": False},
        "rbac": {"create": False},
        "metrics": {"service": False},
    },
}  # fmt: skip

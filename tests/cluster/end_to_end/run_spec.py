"""The run of the end-to-end tests: the quickstart in small, on S3, with DeepSpeed in two pods and GPUs to queue for.

Nothing in it is special to tests but its size and the extended resource: pods ask the scheduler for `nvidia.com/gpu`, of
which the node pretends to have eight, and compute on its CPU. Serving takes all eight and a trainer pod four, so a
hand-over that is too early would leave pods unscheduled.
"""

from typing import Any

from tests.support.small_run import REPOSITORY, shrunk

NODE_GPUS = 8
MODELS, DATA, RUNS = "models", "data", "runs"
"""Buckets, as the quickstart names them."""
SECRET = "s3"
CHECKPOINT_SECONDS = 5
"""A whole checkpoint must be there when the trainer is killed; the trainer itself keeps 20 times the save's time."""


def small_run(name: str, *, prefix: str, endpoint: str) -> dict[str, Any]:
    """The object to apply; its artifacts go to `s3://runs/<prefix>`."""
    run = shrunk(REPOSITORY / "crds/examples/quickstart.yaml")
    run["metadata"] = {"name": name}
    spec = run["spec"]
    spec["artifacts"] |= {
        "uri": f"s3://{RUNS}/{prefix}",
        "endpoint": endpoint,
        "region": "us-east-1",
        "addressing": "Path",
    }
    spec["serving"] |= {
        # The node's two cores are promised to nobody: requests are small, threads are many.
        "resources": {"cpu": "500m", "memory": "6Gi"},
        "podTemplate": _pod("vllm", gpus=NODE_GPUS, threads=2),
    }
    spec["training"] |= {
        "nodes": 2,
        "resources": {"cpu": "250m", "memory": "6Gi"},
        "checkpoint": {"intervalSeconds": CHECKPOINT_SECONDS},
        "podTemplate": _pod("pytorch", gpus=NODE_GPUS // 2, threads=1),
    }
    spec["sampler"] = {"resources": {"cpu": "100m"}}
    return run


def _pod(container: str, *, gpus: int, threads: int) -> dict[str, Any]:
    devices = {"nvidia.com/gpu": str(gpus)}
    return {
        "spec": {
            "containers": [
                {
                    "name": container,
                    "resources": {"requests": devices, "limits": devices},
                    "env": [{"name": "OMP_NUM_THREADS", "value": str(threads)}],
                }
            ]
        }
    }

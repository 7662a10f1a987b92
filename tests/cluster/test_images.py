"""The images in the cluster's store, each in a pod as the operator makes them: `restricted`, root file system read-only.

There is nothing to fetch from: the node has no way out of its network namespace.
"""

import re
import shutil
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.testbed import images
from tests.cluster.testbed.handle import Cluster
from tests.cluster.testbed.kubectl import Kubectl

from selfrewarding import __version__

pytestmark = pytest.mark.usefixtures("built")
# torch alone takes this long to import while other pods have the cores.
PATIENCE_S = 240


@pytest.fixture(scope="module")
def sources(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the images are built from, as it was when these tests began: a developer goes on writing meanwhile."""
    copy = tmp_path_factory.mktemp("repository")
    for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore"):
        shutil.copy(repository / name, copy)
    for name in ("operator", "images", "requirements"):
        shutil.copytree(repository / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def built(cluster: Cluster, sources: Path) -> None:
    images.build(cluster, [], print, repository=sources)


def pod(name: str, image: str, command: list[str], env: dict[str, str], tmp: bool) -> dict[str, Any]:
    """A pod with the security settings of `manifests/pod.py`, and /tmp writable only where `tmp` says so."""
    container = {
        "name": "main",
        "image": f"selfrewarding/{image}:{__version__}",
        "command": command,
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "resources": {"limits": {"memory": "4Gi"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}] if tmp else [],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}] if tmp else [],
        },
    }


class Pods:
    """Runs programs of images in pods; no user is named, so it is the image's own that Kubernetes checks."""

    def __init__(self, kube: Kubectl) -> None:
        self._kube = kube
        self._number = 0

    def run(self, image: str, *command: str, phase: str = "Succeeded", tmp: bool = True, **env: str) -> str:
        """What the program prints; the pod must end in that phase."""
        self._number += 1
        name = f"{image}-{self._number}"
        self._kube.apply(pod(name, image, list(command), env, tmp))
        end = time.monotonic() + PATIENCE_S
        while (seen := self._kube.get("pod", name)["status"].get("phase")) not in {"Succeeded", "Failed"}:
            assert time.monotonic() < end, self._kube("describe", "pod", name)
            time.sleep(0.5)
        log = self._kube.logs(name)
        assert seen == phase, f"{name} ended as {seen}:\n{log}"
        self._kube.delete("pod", name, wait=False)
        return log

    def python(self, image: str, script: str, **settings: Any) -> str:
        return self.run(image, "python", "-c", textwrap.dedent(script), **settings)


@pytest.fixture
def pods(namespace: Kubectl) -> Pods:
    return Pods(namespace)


def test_operator_starts_without_a_place_to_write(pods: Pods) -> None:
    assert "Usage: srr operator" in pods.run("operator", "srr", "operator", "--help", tmp=False)


def test_sampler_starts_and_says_what_it_misses(pods: Pods) -> None:
    assert "SRR_STAGE_CONFIG" in pods.run("sampler", "python", "-m", "srr_sampler", phase="Failed")


def test_sampler_finds_all_that_its_stages_import(pods: Pods) -> None:
    script = """
        import importlib, pkgutil, srr_sampler
        names = [module.name for module in pkgutil.iter_modules(srr_sampler.__path__) if module.name != "__main__"]
        for name in names:
            importlib.import_module(f"srr_sampler.{name}")
        print(len(names), "modules")
    """
    assert "modules" in pods.python("sampler", script)


def test_what_a_report_needs_works_where_nothing_but_tmp_can_be_written(pods: Pods) -> None:
    """A chart, TensorBoard's file and the real clients of MLflow and W&B, which start processes of their own."""
    script = """
        import os, pathlib, tempfile
        folder = pathlib.Path(tempfile.mkdtemp())
        os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")
        from selfrewarding.report.drawing import single_axes, svg_of
        picture = svg_of("chart", lambda figure: single_axes(figure).plot([1, 2, 3]))
        print("chart", picture.startswith("<svg") and "path" in picture)

        from selfrewarding.api.presets import effective
        from selfrewarding.contract.config import RunRef, Story
        from selfrewarding.store import open_store
        from selfrewarding.tracking.points import Point
        from selfrewarding.tracking.sending import send
        spec = effective({
            "model": {"uri": "s3://models/base"}, "artifacts": {"uri": "s3://runs/demo"},
            "seedData": {"instructions": {"uri": "s3://data/rows.jsonl", "format": "PromptResponse"},
                         "ranked": {"uri": "s3://data/ranked.jsonl", "format": "Ranked"}},
        })
        store = open_store((folder / "artifacts").as_uri())
        story = Story(spec=spec, tracking={"tensorBoard": True, "mlflow": {"uri": "http://127.0.0.1:9"}})
        run = RunRef(namespace="lab", name="demo", uid="u")
        print("untold", send(store, run, story, [Point("evaluate/spearman", 1, 0.5, 1.0)]))
        written = [entry.key for entry in store.list("runs/lab/demo/tensorboard")]
        print("tensorboard", len(written), b"evaluate/spearman" in store.read(written[0]))

        import wandb
        offline = wandb.init(mode="offline", project="p", dir=folder)
        offline.log({"evaluate/spearman": 0.5}, step=1)
        offline.finish()
        print("wandb", len(list(folder.glob("wandb/offline-run-*/*.wandb"))))
    """
    log = pods.python("sampler", script)
    assert "chart True" in log
    assert "tensorboard 1 True" in log
    assert "wandb 1" in log
    (untold,) = [line for line in log.splitlines() if line.startswith("untold")]
    assert untold.count("MLflow: ") == 1
    assert "Connection" in untold, "the client came as far as asking a server, and no one listens there"
    assert "Read-only file system" not in log


def test_trainer_starts_under_torchrun_and_says_what_it_misses(pods: Pods) -> None:
    log = pods.run("trainer", "torchrun", "-m", "srr_trainer", phase="Failed")
    assert "SRR_STAGE_CONFIG" in log
    assert "Read-only file system" not in log


def test_vllm_server_starts_as_far_as_its_help(pods: Pods) -> None:
    log = pods.run("vllm-cpu", "python3", "-m", "vllm.entrypoints.openai.api_server", "--help")
    assert "--served-model-name" in log or "--help=" in log
    assert "Read-only file system" not in log


def test_vllm_finds_its_kernels(pods: Pods) -> None:
    script = """
        from vllm.platforms import current_platform
        print("platform", current_platform.device_type)
        import torch
        current_platform.import_kernels()
        print("kernels", hasattr(torch.ops._C, "rms_norm"))
    """
    log = pods.python("vllm-cpu", script)
    assert "platform cpu" in log
    assert "kernels True" in log


def test_deepspeeds_operators_load_where_there_is_no_compiler(pods: Pods) -> None:
    """And the compiled AdamW steps as torch's does."""
    script = """
        import shutil, time, torch
        from deepspeed.ops.adam import DeepSpeedCPUAdam
        from deepspeed.ops.op_builder import CPUAdamBuilder, ShareMemCommBuilder
        print("compilers", [name for name in ("g++", "c++", "gcc", "cc", "nvcc") if shutil.which(name)])
        began = time.monotonic()
        for builder in (CPUAdamBuilder(), ShareMemCommBuilder()):
            print("loaded", builder.load().__file__)
        print("seconds", round(time.monotonic() - began, 2))
        torch.manual_seed(0)
        start, gradient = torch.randn(10_000), torch.randn(10_000)
        ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
        settings = dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
        both = [(ours, DeepSpeedCPUAdam([ours], adamw_mode=True, **settings)), (theirs, torch.optim.AdamW([theirs], **settings))]
        for step in range(3):
            for parameter, optimizer in both:
                parameter.grad = gradient * (step + 1)
                optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        print("steps", "equal")
    """
    log = pods.python("trainer", script, DS_ACCELERATOR="cpu")
    assert "compilers []" in log
    assert log.count("loaded /opt/venv/") == 2
    assert "steps equal" in log
    print(next(line for line in log.splitlines() if line.startswith("seconds")))


def test_the_compiled_adam_is_also_taken_beside_a_gpu(pods: Pods) -> None:
    """No GPU is here; but which operator DeepSpeed takes for the kind of accelerator it decides without one."""
    script = """
        from deepspeed.accelerator import get_accelerator
        from srr_trainer.operators import use_compiled_cpu_adam
        print("accelerator", get_accelerator().device_name())
        print("used", use_compiled_cpu_adam())
        from deepspeed.ops.op_builder import CPUAdamBuilder
        print("loaded", CPUAdamBuilder().load().__file__)
    """
    log = pods.python("trainer", script, DS_ACCELERATOR="cuda")
    assert "accelerator cuda" in log
    assert "used True" in log
    assert "loaded /opt/venv/" in log


@pytest.mark.parametrize("image", images.NAMES)
def test_the_image_runs_as_65532_and_owns_nothing(pods: Pods, image: str) -> None:
    """No file that the user could change even if the root file system could be written; sources are compiled."""
    script = """
        import os, pathlib, pwd, stat, sys
        print("user", os.getuid(), os.getgid(), pwd.getpwuid(os.getuid()).pw_name)
        print("python", sys.version_info[:2], sys.prefix)
        open_to_all = []
        for folder, folders, files in os.walk("/opt"):
            for name in {*folders, *files} - {".lock"}:  # uv's, and empty
                status = os.lstat(os.path.join(folder, name))
                if not stat.S_ISLNK(status.st_mode) and (status.st_mode & 0o002 or status.st_uid == os.getuid()):
                    open_to_all.append(os.path.join(folder, name))
        print("open", open_to_all[:5])
        packages = pathlib.Path(sys.prefix, "lib/python3.11/site-packages")
        sources = [path for path in packages.glob("*/__init__.py") if path.stat().st_size]
        plain = [path.parent.name for path in sources if not list((path.parent / "__pycache__").glob("__init__.*.pyc"))]
        print("not compiled", plain)
    """
    log = pods.python(image, script, tmp=False)
    assert "user 65532 65532 srr" in log
    assert "python (3, 11) /opt/venv" in log
    assert "open []" in log
    assert "not compiled []" in log


def test_a_change_of_code_builds_one_small_layer(cluster: Cluster, sources: Path) -> None:
    changed = sources / "images" / "sampler" / "srr_sampler" / "__main__.py"
    before = changed.read_text()
    lines: list[str] = []
    try:
        changed.write_text(before + "\n# changed\n")
        began = time.monotonic()
        images.build(cluster, ["sampler"], lines.append, repository=sources)
        print(f"code-only rebuild: {time.monotonic() - began:.1f} s ({lines[-1]})")
    finally:
        changed.write_text(before)
        images.build(cluster, ["sampler"], print, repository=sources)
    (line,) = lines
    # Of what is downloaded, all was there.
    assert re.fullmatch(r"image sampler +\S+ s  code \S+ s", line)


def test_what_is_there_is_not_built_again(cluster: Cluster, sources: Path) -> None:
    lines: list[str] = []
    images.build(cluster, [], lines.append, repository=sources)
    assert [line.split()[1] for line in lines] == list(images.NAMES)
    assert all(line.endswith("already there") for line in lines)


def test_layers_of_older_images_are_dropped(cluster: Cluster) -> None:
    store = images._store(cluster)
    named = {digest for name, digest in store.items() if not name.startswith("sha256:")}
    assert named == set(store.values())

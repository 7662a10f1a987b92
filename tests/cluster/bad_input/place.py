"""Where one case plays: a namespace and a corner of the S3 server of its own, and a run in it.

What a cluster's people do to break and to mend things is here; what is broken, and what must follow, is in `cases`.
Neighbours: `end_to_end/installation.py` installs the operator, `end_to_end/run_spec.py` has the run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tests.cluster.end_to_end.installation import Installed, restricted_namespace, store_secret
from tests.cluster.end_to_end.run_spec import DATA, MODELS, RUNS, SECRET, small_run
from tests.cluster.end_to_end.watching import RUN_KIND
from tests.cluster.testbed.handle import NODE_NAME
from tests.cluster.testbed.kubectl import Kubectl
from tests.support.builders import merged
from tests.support.small_run import REPOSITORY

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

RUN = "run"
MODEL = "tiny"
"""Folder of the model in the bucket of models; `conftest` puts it there."""
S3_PORT = 7070
SEEDS = REPOSITORY / "crds/examples/seeds"


@dataclass(frozen=True)
class Place:
    """A namespace of a case's own, with all that a good run needs but what the case spoils."""

    installed: Installed
    name: str

    @cached_property
    def kube(self) -> Kubectl:
        """kubectl for the namespace."""
        return self.installed.team.of(self.name)

    @property
    def s3(self) -> "S3Client":
        """The S3 server, with its owner's keys."""
        return self.installed.s3

    @property
    def corner(self) -> str:
        """This case's folder in the bucket of data."""
        return f"bad-input/{self.name}"

    def make(self) -> None:
        """Make the namespace."""
        self.kube.apply(restricted_namespace(self.name))
        self.kube.wait("serviceaccount/default", "create", 30)

    def close(self) -> None:
        """Delete the run and the namespace, without waiting for it."""
        self.kube.delete(RUN_KIND, RUN, wait=False)
        self.kube.delete("namespace", self.name, wait=False)

    def explain(self) -> str:
        """All that a person would look at."""
        return replace(self.installed, team=self.kube).explain(RUN)

    # ------------------------------------------------------------------ the run

    def run(self, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A run that would succeed here, with changes to its spec."""
        run = small_run(RUN, prefix=self.corner, endpoint=self.installed.cluster.s3_endpoint)
        spec = merged(run["spec"], {"model": {"uri": f"s3://{MODELS}/{MODEL}"}})
        # Many runs at once on a small node: what a pod asks for is not what it uses.
        spec = merged(spec, {"sampler": {"resources": {"cpu": "10m", "memory": "512Mi"}}})
        # A token of the tiny model is a byte: texts are long.
        spec = merged(spec, {"sft": {"maxLength": 4096}, "serving": {"maxModelLen": 8192}})
        run["spec"] = merged(spec, changes or {})
        return run

    def start(self, run: Mapping[str, Any]) -> None:
        """`kubectl apply` a run."""
        self.kube.apply(run)

    def edit(self, changes: Mapping[str, Any]) -> None:
        """Edit the spec of the run."""
        self.kube("patch", RUN_KIND, RUN, "--type=merge", "--patch", json.dumps({"spec": changes}))

    # ------------------------------------------------------------------ the namespace

    def secret(self, **keys: str) -> None:
        """The Secret of the store, with other or more keys; an empty one is left out."""
        manifest = store_secret(self.installed.cluster)
        manifest["stringData"] = {
            name: text for name, text in (manifest["stringData"] | keys).items() if text
        }
        self.kube.delete("secret", SECRET)
        self.kube.apply(manifest)

    def quota(self, hard: Mapping[str, str]) -> None:
        """A ResourceQuota, or another one in its place."""
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "team"},
            "spec": {"hard": hard},
        }
        self.kube.apply(quota)

    def service(self, address: str | None = None, port: int = S3_PORT) -> str:
        """The Service `s3`, which leads to an address (none: to nobody); where pods find it."""
        ports = [{"name": "s3", "port": S3_PORT, "protocol": "TCP"}]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s3"},
            "spec": {"ports": ports},
        }
        self.kube.apply(service)
        if address is not None:
            self.kube.apply(
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {"name": "s3", "labels": {"kubernetes.io/service-name": "s3"}},
                    "addressType": "IPv4",
                    "ports": [{"name": "s3", "port": port, "protocol": "TCP"}],
                    "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
                }
            )
        return f"http://s3.{self.name}.svc.cluster.local:{S3_PORT}"

    def good_service(self) -> None:
        """The Service `s3` leads to the S3 server."""
        self.service(self.installed.cluster.address)

    # ------------------------------------------------------------------ the store

    def upload(self, name: str, text: str, *, to: str = DATA) -> str:
        """Put a file into this case's corner; its address."""
        self.s3.put_object(Bucket=to, Key=f"{self.corner}/{name}", Body=text.encode())
        return f"s3://{to}/{self.corner}/{name}"

    def copy_model(self, to: str, folder: str) -> None:
        """Copy the good model to a folder of a bucket."""
        for item in self.s3.list_objects_v2(Bucket=MODELS, Prefix=f"{MODEL}/")["Contents"]:
            key = f"{folder}/{item['Key'].removeprefix(f'{MODEL}/')}"
            self.s3.copy_object(Bucket=to, Key=key, CopySource={"Bucket": MODELS, "Key": item["Key"]})

    def own_bucket(self) -> str:
        """A bucket for this case alone: its name, whether or not it is there."""
        return f"bad-input-{self.name}"

    def make_bucket(self) -> None:
        """Make it."""
        self.s3.create_bucket(Bucket=self.own_bucket())

    def forget_store(self) -> None:
        """Delete what this case left on the S3 server."""
        for name in (RUNS, DATA):
            for page in self.s3.get_paginator("list_objects_v2").paginate(
                Bucket=name, Prefix=f"{self.corner}/"
            ):
                for item in page.get("Contents", []):
                    self.s3.delete_object(Bucket=name, Key=item["Key"])
        there = {one["Name"] for one in self.s3.list_buckets()["Buckets"]}
        if self.own_bucket() in there:
            for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.own_bucket()):
                for item in page.get("Contents", []):
                    self.s3.delete_object(Bucket=self.own_bucket(), Key=item["Key"])
            self.s3.delete_bucket(Bucket=self.own_bucket())

    # ------------------------------------------------------------------ the node

    def offer_gpus(self, number: int) -> None:
        """Let the node have so many GPUs."""
        status = {"status": {field: {"nvidia.com/gpu": str(number)} for field in ("capacity", "allocatable")}}
        self.kube(
            "patch", "node", NODE_NAME, "--subresource=status", "--type=merge", "--patch", json.dumps(status)
        )


def seed_rows(name: str) -> list[str]:
    """Lines of one of the quickstart's seed files."""
    return (SEEDS / name).read_text(encoding="utf-8").splitlines()

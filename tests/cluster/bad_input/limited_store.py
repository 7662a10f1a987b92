"""A second S3 gateway over the cluster's buckets that knows a user besides their owner, who may do what policies allow.

The cluster's own gateway knows one user, whom no policy binds. Must not: keep anything when it ends but the log.
Neighbour: `cases` has a bucket that this user may read only.
"""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import Any

from tests.cluster.bad_input.place import Place
from tests.cluster.end_to_end import bucket
from tests.cluster.end_to_end.installation import Installed
from tests.cluster.testbed import binaries, parts, processes
from tests.cluster.testbed.handle import Cluster, TestbedError

PORT = 7071
USER = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests-only"}
_PART = "versitygw-with-users"
_READ = ("s3:GetObject", "s3:ListBucket")
_WRITE = ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")


def endpoint(cluster: Cluster) -> str:
    """Where it is, for pods and for this machine."""
    return f"http://{cluster.address}:{PORT}"


def allow(place: Place, *, writing: bool) -> None:
    """Let the user read the place's own bucket, or read and write it, by a bucket policy."""
    name = place.own_bucket()
    actions = [*_READ, *(_WRITE if writing else ())]
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"AWS": [USER["AWS_ACCESS_KEY_ID"]]},
        "Action": actions,
        "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    cluster = place.installed.cluster  # only this gateway knows whom the policy names
    bucket.client(cluster, endpoint(cluster)).put_bucket_policy(Bucket=name, Policy=json.dumps(policy))


class LimitedStore:
    """The gateway, for as long as the block lasts."""

    def __init__(self, installed: Installed) -> None:
        self._cluster = installed.cluster
        self._users = self._cluster.state / "s3-users"

    def __enter__(self) -> "LimitedStore":
        cluster = self._cluster
        shutil.rmtree(self._users, ignore_errors=True)
        self._users.mkdir()
        command = [word.replace(":7070", f":{PORT}") for word in parts.versitygw(cluster)]
        backend = command.index("posix")
        command[backend:backend] = ["--iam-dir", str(self._users), "--health", "/healthz"]
        processes.start(cluster, _PART, command, parts.environment(cluster, "versitygw"))
        self._wait()
        keys = cluster.s3_settings()
        create = [
            *(str(binaries.path("versitygw")), "admin", "--endpoint-url", endpoint(cluster)),
            *("--access", keys["AWS_ACCESS_KEY_ID"], "--secret", keys["AWS_SECRET_ACCESS_KEY"]),
            *("create-user", "--role", "user"),
            *("--access", USER["AWS_ACCESS_KEY_ID"], "--secret", USER["AWS_SECRET_ACCESS_KEY"]),
        ]
        subprocess.run(create, check=True, capture_output=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes.stop(self._cluster, [_PART])
        shutil.rmtree(self._users, ignore_errors=True)

    def _wait(self) -> None:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{endpoint(self._cluster)}/healthz", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise TestbedError(f"the S3 gateway with users does not answer: see {self._cluster.logs}/{_PART}.log")

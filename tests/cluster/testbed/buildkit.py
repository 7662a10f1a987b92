"""BuildKit on a cluster's own containerd: what it builds is at once in the store that kubelet takes images from.

`daemon` runs buildkitd for as long as somebody builds. Its steps run on the caller's network, not the node's, since builds
fetch packages and the node has no way out. Must not know which images there are; `images.py` does.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.testbed import binaries
from tests.cluster.testbed.handle import Cluster, TestbedError

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_START_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Build:
    """One call of BuildKit: a Dockerfile's stage (none: the last one) under names in the image store."""

    context: Path
    dockerfile: Path
    names: Sequence[str]
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    """Stages that are there as images already: they are taken from the store, not built again."""


@dataclass(frozen=True)
class Daemon:
    """A running buildkitd."""

    address: str
    log: Path

    def build(self, wanted: Build) -> None:
        """Build an image into the store. Raises TestbedError with the end of the log."""
        options = {f"build-arg:{name}": value for name, value in wanted.arguments.items()}
        options |= {f"context:{stage}": f"docker-image://{image}" for stage, image in wanted.stages.items()}
        options["image-resolve-mode"] = "local"
        if wanted.target:
            options["target"] = wanted.target
        output = {
            "type": "image",
            "name": ",".join(wanted.names),
            "store": "true",
            "unpack": "true",
            "oci-mediatypes": "true",
            # Compressed once and read back seldom: quick matters more than small.
            "compression": "zstd",
            "compression-level": "1",
        }
        command = ["build", "--progress", "plain", "--frontend", "dockerfile.v0"]
        command += [
            "--local",
            f"context={wanted.context}",
            "--local",
            f"dockerfile={wanted.dockerfile.parent}",
        ]
        for name, value in options.items():
            command += ["--opt", f"{name}={value}"]
        if _CERTIFICATES.exists():
            command += ["--secret", f"id=ca,src={_CERTIFICATES}"]
        # One line of CSV: a field with a comma in it is quoted.
        fields = (f"{name}={value}" for name, value in output.items())
        command += ["--output", ",".join(f'"{field}"' for field in fields)]
        self._call(*command)

    def forget(self) -> None:
        """Drop all that is not part of an image: a stage that became an image is in the store a second time."""
        self._call("prune", "--all")

    def _call(self, *arguments: str) -> None:
        command = [str(binaries.path("buildctl")), "--addr", self.address, *arguments]
        with self.log.open("ab") as log:
            log.write(f"\n=== {' '.join(command)}\n".encode())
            log.flush()
            result = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
        if result.returncode:
            lines = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
            raise TestbedError(f"an image could not be built; the end of {self.log}:\n{lines}")


@contextlib.contextmanager
def daemon(cluster: Cluster) -> Iterator[Daemon]:
    """Run buildkitd on the cluster's containerd; one at a time for a cluster. Raises TestbedError."""
    home = (
        cluster.containerd_root / "buildkit"
    )  # its cache refers to what the store holds: they live equally long
    home.mkdir(parents=True, exist_ok=True)
    cluster.logs.mkdir(parents=True, exist_ok=True)
    with (home / "exclusive.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = Daemon(f"unix://{cluster.run / 'buildkitd.sock'}", cluster.logs / "images.log")
        runtime = cluster.state / "runc-on-callers-network"
        runtime.write_text(_runtime())
        runtime.chmod(0o755)
        scratch = cluster.run / "buildkit"
        scratch.mkdir(exist_ok=True)
        configuration = cluster.state / "buildkitd.toml"
        configuration.write_text(_configuration(cluster, home, found.address, runtime))
        with (cluster.logs / "buildkitd.log").open("ab") as log:
            # It ends with this program, however this program ends.
            process = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "TERM",
                    str(binaries.path("buildkitd")),
                    "--config",
                    str(configuration),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # It mounts in its TMPDIR: where `leftovers.py` finds what a killed one leaves.
                env={
                    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
                    "HOME": str(home),
                    "TMPDIR": str(scratch),
                },
            )
        try:
            _wait(found, process, cluster.logs / "buildkitd.log")
            yield found
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for folder in scratch.iterdir():
                with contextlib.suppress(OSError):  # in use still: `leftovers.py` comes to it
                    folder.rmdir()


def _wait(daemon: Daemon, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_S
    command = [str(binaries.path("buildctl")), "--addr", daemon.address, "debug", "workers"]
    while subprocess.run(command, capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > end:
            lines = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            raise TestbedError(f"buildkitd did not start; the end of {log}:\n{lines}")
        time.sleep(0.1)


def _runtime() -> str:
    """runc for build steps. containerd's shims start it in the node's network namespace, and a container without one of
    its own has that of whoever started it. Removing containers must work even when this program has ended."""
    namespace = f"/proc/{os.getpid()}/ns/net"
    return f"""#!/bin/sh
if [ -e {namespace} ]; then exec nsenter --net={namespace} -- runc "$@"; fi
exec runc "$@"
"""


def _configuration(cluster: Cluster, home: Path, address: str, runtime: Path) -> str:
    return f"""\
root = {json.dumps(str(home))}
[grpc]
  address = [{json.dumps(address)}]
[worker.oci]
  enabled = false
[worker.containerd]
  enabled = true
  address = {json.dumps(str(cluster.containerd_socket))}
  namespace = "k8s.io"
  snapshotter = "overlayfs"
  gc = false
  networkMode = "host"
  defaultCgroupParent = {json.dumps(cluster.namespace)}
[worker.containerd.runtime]
  name = "io.containerd.runc.v2"
  options = {{ BinaryName = {json.dumps(str(runtime))} }}
"""

"""The images that the cluster itself needs, made of programs already built: no registry, no image builder.

- the sandbox image of every pod (`pause`);
- `alpine:3.10`, which training-operator starts as init container of every Worker: a shell and BusyBox, with `nslookup`
  and `fetch` of `node_tools/`;
- training-operator's own image, under the name that its manifests ask for.

The project's images are not made here but by BuildKit. Must not know how containerd is started.
"""

import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.testbed import binaries
from tests.cluster.testbed.handle import Cluster, TestbedError
from tests.cluster.testbed.parts import PAUSE_IMAGE, SHELL_IMAGE

_SHELL, _BUSYBOX = Path("/bin/bash-static"), Path("/bin/busybox")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class SmallImage:
    """An image of one layer: files by their path inside, links by theirs, and what a container of it runs."""

    name: str
    files: dict[str, Path]
    links: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)


def node_images() -> list[SmallImage]:
    """The images that every node needs. Raises TestbedError."""
    if not _BUSYBOX.exists():
        raise TestbedError(
            "there is no /bin/busybox: run `make cluster-build` (Debian package busybox-static)"
        )
    tools = binaries.path("node-tools")
    listed = subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    # Debian's BusyBox is linked statically with glibc, which cannot look names up; its shell prefers what is inside it.
    others = {"busybox", "nslookup", "wget", "sh", "ash", "hush"}
    applets = {f"bin/{name}": "busybox" for name in listed if name not in others}
    own = {"bin/sh": "bash", "bin/nslookup": "node-tools", "bin/fetch": "node-tools"}
    return [
        SmallImage(PAUSE_IMAGE, {"pause": tools}, command=("/pause",)),
        SmallImage(
            SHELL_IMAGE,
            {"bin/bash": _SHELL, "bin/busybox": _BUSYBOX, "bin/node-tools": tools},
            applets | own,
            ("/bin/sh",),
            {"etc/passwd": "root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/:/bin/sh\n"},
        ),
    ]


def load(cluster: Cluster, images: list[SmallImage]) -> list[str]:
    """Put images into the node's store unless they are there; the names of those that were. Raises TestbedError."""
    stamps = cluster.state / "small-images.json"  # beside the store: it lives as long
    known: dict[str, str] = json.loads(stamps.read_text()) if stamps.exists() else {}
    present = ctr(cluster, "images", "list", "--quiet").split()
    loaded = []
    for image in images:
        content = _fingerprint(image)
        if image.name in present and known.get(image.name) == content:
            continue
        archive = cluster.state / "small-image.tar"
        _write_archive(image, archive)
        ctr(cluster, "images", "import", "--local", str(archive))
        archive.unlink()
        known[image.name] = content
        loaded.append(image.name)
    stamps.write_text(json.dumps(known, indent=2))
    return loaded


def ctr(cluster: Cluster, *arguments: str) -> str:
    """Run containerd's own client in the namespace that kubelet uses. Raises TestbedError."""
    command = [
        str(binaries.path("ctr")),
        "--address",
        str(cluster.containerd_socket),
        "--namespace",
        "k8s.io",
    ]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise TestbedError(f"`ctr {' '.join(arguments)}` failed: {result.stderr.strip()}")
    return result.stdout


def _fingerprint(image: SmallImage) -> str:
    """What the image is made of; binaries are named by their version's folder, so their content need not be read."""
    facts = {
        "files": {inside: f"{path.resolve()} {path.stat().st_size}" for inside, path in image.files.items()},
        "links": image.links,
        "command": image.command,
        "texts": image.texts,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _write_archive(image: SmallImage, target: Path) -> None:
    """Write a docker-archive: manifest.json, a configuration, one layer."""
    layer = target.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        for folder in ("bin", "etc", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        for inside, path in image.files.items():
            with path.open("rb") as file:
                entry = tarfile.TarInfo(inside)
                entry.size, entry.mode = os.fstat(file.fileno()).st_size, 0o755
                tar.addfile(entry, file)
        for inside, target_name in image.links.items():
            entry = tarfile.TarInfo(inside)
            entry.type, entry.linkname = tarfile.SYMTYPE, target_name
            tar.addfile(entry)
        for inside, text in image.texts.items():
            _add_bytes(tar, inside, text.encode())
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    configuration = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": list(image.command), "Env": ["PATH=/bin"], "User": "65532"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [image.name], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        _add_bytes(tar, "manifest.json", json.dumps(manifest).encode())
        _add_bytes(tar, "config.json", json.dumps(configuration).encode())
        tar.add(layer, "layer.tar")
    layer.unlink()


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))

"""The programs that the test cluster is made of: which there are, where they lie, and how they are built.

All are Go programs of published modules, built by version into `$SRR_CACHE/bin/<part>-v<version>/`, and Debian packages.
Must not start anything; `cluster.py` does. Standard library only: CI builds beside the installation of the environment.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSIONS: Mapping[str, Any] = tomllib.loads(Path(__file__).with_name("versions.toml").read_text())
KUBERNETES: str = VERSIONS["go"]["kubernetes"]
_MAJOR, _MINOR, _ = KUBERNETES.split(".")
# Before go is run again whose downloads failed.
_PAUSES_S = (2.0, 10.0)


class BuildError(Exception):
    """A part could not be built; the text says which, what was seen and what to do."""


@dataclass(frozen=True)
class Part:
    """A module's programs that are built together.

    `programs` maps a file's name to its main package; `stamp` has the variables that hold the version.
    """

    name: str
    version: str
    module: str
    programs: Mapping[str, str]
    stamp: Mapping[str, str] = field(default_factory=dict)
    replace: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    """Folders of the module that are kept beside the programs."""
    source: Path | None = None
    """The module's folder, where it is our own."""

    @property
    def folder(self) -> Path:
        """Where the programs lie once built."""
        return cache() / "bin" / f"{self.name}-v{self.version}"

    @property
    def built(self) -> bool:
        """Whether it is there, with all that this version of the list wants; folders appear whole."""
        return all((self.folder / name).exists() for name in (*self.programs, *self.extra))


def _kubernetes(program: str) -> Part:
    version = "k8s.io/component-base/version"
    return Part(
        program,
        KUBERNETES,
        "k8s.io/kubernetes",
        {program: f"k8s.io/kubernetes/cmd/{program}"},
        # Without it the server calls itself v0.0.0, and version checks of charts and clients fail.
        stamp={
            f"{version}.gitVersion": f"v{KUBERNETES}",
            f"{version}.gitMajor": _MAJOR,
            f"{version}.gitMinor": _MINOR,
        },
        replace={
            f"k8s.io/{name}": KUBERNETES.replace(f"{_MAJOR}.", "0.", 1)
            for name in VERSIONS["kubernetes"]["staging"]
        },
    )


def _part(
    name: str, module: str, programs: Mapping[str, str], *, stamp: str = "", extra: tuple[str, ...] = ()
) -> Part:
    version: str = VERSIONS["go"][name]
    stamps = {f"{module}/{stamp}": f"v{version}"} if stamp else {}
    return Part(
        name,
        version,
        module,
        {program: f"{module}/{path}".rstrip("/") for program, path in programs.items()},
        stamp=stamps,
        extra=extra,
    )


def _own(name: str, source: Path) -> Part:
    """A module of this repository, with no dependencies; its version is its content."""
    content = b"".join(file.read_bytes() for file in sorted(source.iterdir()))
    version = hashlib.sha256(content).hexdigest()[:12]
    return Part(name, version, name, {name: "."}, source=source)


# In the order in which they are wanted: first what the quick tests need (the control plane), then the node.
PARTS: tuple[Part, ...] = (
    _part("etcd", "go.etcd.io/etcd/server/v3", {"etcd": ""}),
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kubectl"),
    _part(
        "containerd",
        "github.com/containerd/containerd/v2",
        {name: f"cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        stamp="version.Version",
    ),
    _kubernetes("kubelet"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kube-proxy"),
    _part(
        "buildkit",
        "github.com/moby/buildkit",
        {name: f"cmd/{name}" for name in ("buildkitd", "buildctl")},
        stamp="version.Version",
    ),
    _part("coredns", "github.com/coredns/coredns", {"coredns": ""}),
    _part(
        "training-operator",
        "github.com/kubeflow/training-operator",
        {"training-operator": "cmd/training-operator.v1"},
        extra=("manifests",),
    ),
    _own("node-tools", Path(__file__).with_name("node_tools")),
    _part("versitygw", "github.com/versity/versitygw", {"versitygw": "cmd/versitygw"}),
    Part(
        "helm",
        VERSIONS["go"]["helm"],
        "helm.sh/helm/v3",
        {"helm": "helm.sh/helm/v3/cmd/helm"},
        # The second half is what `helm template` takes for the cluster's version.
        stamp={
            "helm.sh/helm/v3/internal/version.version": f"v{VERSIONS['go']['helm']}",
            "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": _MAJOR,
            "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": _MINOR,
        },
    ),
)
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
NODE = (
    *CONTROL_PLANE,
    "containerd",
    "kubelet",
    "kube-scheduler",
    "kube-proxy",
    "coredns",
    "node-tools",
    "versitygw",
)


def cache() -> Path:
    """The folder outside the checkout that checkouts share ($SRR_CACHE)."""
    return Path(os.environ.get("SRR_CACHE") or Path.home() / ".cache" / "selfrewarding")


def part(name: str) -> Part:
    """Look up a part; raises BuildError for a name that is none."""
    for each in PARTS:
        if each.name == name:
            return each
    raise BuildError(f"there is no part {name!r}; the parts are {', '.join(each.name for each in PARTS)}")


def path(program: str) -> Path:
    """Where a program lies, built or not: `path("buildkitd")`. Raises BuildError for a name that is none."""
    for each in PARTS:
        if program in each.programs:
            return each.folder / program
    known = ", ".join(name for each in PARTS for name in each.programs)
    raise BuildError(f"there is no program {program!r}; the programs are {known}")


def missing_debian_packages() -> list[str]:
    """The packages of the versions file that are not installed."""
    if shutil.which("dpkg-query") is None:
        return list(VERSIONS["debian"]["packages"])
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [name for name in VERSIONS["debian"]["packages"] if f"{name} installed" not in listed]


def install_debian_packages() -> str:
    """Install what is missing with apt-get. Says what it did; raises BuildError."""
    wanted = missing_debian_packages()
    if not wanted:
        return "installed"
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise BuildError(
            f"debian: not installed: {' '.join(wanted)}; as root on Debian: apt-get install {' '.join(wanted)}"
        )
    settings = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    retries = ("-o", "Acquire::Retries=3")
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *retries, *wanted]
    with _lock(cache() / "bin" / "debian.lock"):
        result = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        if result.returncode:  # lists that are missing or stale
            update = ["apt-get", "update", "--quiet", *retries]
            subprocess.run(update, env=settings, capture_output=True, check=False)
            result = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(f"debian: apt-get install failed:\n{_tail(result.stderr or result.stdout)}")
    return f"added {' '.join(wanted)}"


def build(wanted: Part) -> bool:
    """Build a part unless it is there; True if it was built now. Raises BuildError.

    Several processes may ask at once: one builds, the others wait for it.
    """
    if wanted.built:
        return False
    if shutil.which("go") is None:
        raise BuildError(
            f"{wanted.name}: not built yet, and there is no `go` on PATH; install Go (the version file's modules "
            "want 1.26 or newer) and run `make cluster-build`"
        )
    home = cache() / "bin"
    with _lock(home / f"{wanted.folder.name}.lock"):
        if wanted.built:
            return False
        staging = home / f"{wanted.folder.name}.part"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        with contextlib.nullcontext(wanted.source) if wanted.source else _tools_module(wanted) as tools:
            for program, package in wanted.programs.items():
                _go(wanted, tools, "build", *_flags(wanted), "-o", str(staging / program), package)
            if wanted.extra:
                listed = _go(wanted, tools, "list", "-mod=mod", "-m", "-json", wanted.module)
                for name in wanted.extra:
                    _copy_folder(Path(json.loads(listed)["Dir"]) / name, staging / name)
        shutil.rmtree(wanted.folder, ignore_errors=True)  # less than what is wanted now
        staging.rename(wanted.folder)
    return True


def build_all(names: Sequence[str], say: Callable[[str], None]) -> bool:
    """Build parts one after another (no names: all) with a line for each; False if one failed, the others go on.

    `debian` among the names stands for the Debian packages.
    """
    tasks: list[tuple[str, Callable[[], str]]] = []
    if not names or "debian" in names:
        tasks.append(("debian", install_debian_packages))
    chosen = [part(name) for name in names if name != "debian"] if names else PARTS
    tasks += [(f"{each.name} {each.version}", _describe(each)) for each in chosen]
    complete = True
    for label, task in tasks:
        started = time.monotonic()
        try:
            outcome = task()
        except BuildError as error:
            complete, outcome = False, f"FAILED: {error}"
        say(f"{label:<32} {time.monotonic() - started:6.1f} s  {outcome}")
    return complete


def _describe(wanted: Part) -> Callable[[], str]:
    return lambda: "built" if build(wanted) else "already built"


@contextlib.contextmanager
def _tools_module(wanted: Part) -> Iterator[Path]:
    """A module that requires the part's and nothing else.

    `go install module@version` refuses modules whose own go.mod has replace or exclude lines (etcd, Kubernetes,
    BuildKit); those lines count for nothing in a module that merely requires them.
    """
    folder = cache() / "bin" / f"{wanted.folder.name}.module"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # The go line prunes the module graph; without one, Go also wants modules that exist nowhere (BuildKit's).
    lines = ["module tools", "", "go 1.26", "", f"require {wanted.module} v{wanted.version}", ""]
    lines += [f"replace {name} => {name} v{version}" for name, version in wanted.replace.items()]
    (folder / "go.mod").write_text("\n".join(lines) + "\n")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _flags(wanted: Part) -> list[str]:
    stamps = "".join(f" -X {name}={value}" for name, value in wanted.stamp.items())
    return ["-mod=mod", "-trimpath", "-buildvcs=false", f"-ldflags=-s -w{stamps}"]


def _go(wanted: Part, folder: Path, *arguments: str) -> str:
    """Run go in a folder, for static programs; its caches stay where the user has them. Raises BuildError.

    A download that failed is tried again: go keeps what it has.
    """
    settings = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    for pause in (*_PAUSES_S, None):
        result = subprocess.run(
            ["go", *arguments], cwd=folder, env=settings, capture_output=True, text=True, check=False
        )
        if result.returncode == 0:
            return result.stdout
        if (
            pause is None or "://" not in result.stderr
        ):  # errors of the network name an address, a compiler's do not
            break
        time.sleep(pause)
    raise BuildError(
        f"{wanted.name}: `go {arguments[0]}` of {wanted.module} v{wanted.version} failed (it needs the Go module "
        f"proxy, {_free_gigabytes()} GB are free on the cache's disk):\n{_tail(result.stderr)}"
    )


def _free_gigabytes() -> int:
    return shutil.disk_usage(cache()).free // 10**9


def _copy_folder(source: Path, target: Path) -> None:
    """Copy out of the module cache, whose files are read-only."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for folder, _, _ in os.walk(target):
        Path(folder).chmod(0o755)


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-15:])


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Hold a file's lock; the kernel lets it go if this process dies."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(0 if build_all(sys.argv[1:], lambda line: print(line, flush=True)) else 1)

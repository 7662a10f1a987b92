"""The project's images in a cluster's image store: `python -m tests.cluster.testbed images [NAME …]`, `make images`.

An image is built when something that its Dockerfile reads has changed, by content. The stages of a Dockerfile that hold
what is downloaded are kept as images of their own by the same rule: a change of code builds one small layer above them.
Their names hold the digest of what they are made from, so the store itself remembers what it has. Must not know how
BuildKit is run; `buildkit.py` does.
"""

import hashlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.testbed import base_image, buildkit
from tests.cluster.testbed.handle import Cluster, TestbedError
from tests.cluster.testbed.small_images import ctr

from selfrewarding import __version__

REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = ("operator", "sampler", "trainer", "vllm-cpu")
_KEPT_STAGES = ("installer", "torch", "packages", "builder")
_REGISTRY = "docker.io"  # what container runtimes put before a name that names no registry
_OWNER = f"{_REGISTRY}/selfrewarding"
_NOT_SOURCE = {"__pycache__"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """What BASE_IMAGE is, and where it comes from: made here, or an image that the store has."""

    image: str
    archive: bool

    @classmethod
    def chosen(cls, name: str | None) -> "Base":
        """The one that the caller names, or the one made here."""
        return cls(name, False) if name else cls(f"{base_image.NAME}-{base_image.recipe()}", True)


@dataclass(frozen=True)
class Recipe:
    """A Dockerfile and what it reads."""

    name: str
    dockerfile: Path
    stages: dict[str, str]
    """Its text as far as a named stage is built from it, without comments."""
    text: str

    @classmethod
    def read(cls, name: str, repository: Path = REPOSITORY) -> "Recipe":
        """Read images/NAME/Dockerfile. Raises TestbedError if there is none."""
        dockerfile = repository / "images" / name / "Dockerfile"
        if not dockerfile.is_file():
            raise TestbedError(f"there is no image {name!r}; the images are {', '.join(NAMES)}")
        lines = [line for line in dockerfile.read_text().splitlines() if line and not line.startswith("#")]
        text = "\n".join(lines)
        return cls(name, dockerfile, _stages(text), text)

    @property
    def repository(self) -> Path:
        """The build context."""
        return self.dockerfile.parents[2]

    def kept(self) -> list[str]:
        """The stages that are images of their own, in order."""
        return [stage for stage in _KEPT_STAGES if stage in self.stages]

    def key(self, base: Base, stage: str = "") -> str:
        """Sixteen digits that change with anything that the image, or its stage, is made from."""
        text = self.stages[stage] if stage else self.text
        digest = hashlib.sha256(f"{base.image}\n{text}\n{'' if stage else __version__}\n".encode())
        for path in _sources(text, self.repository):
            relative = path.relative_to(self.repository)
            digest.update(f"{relative} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return digest.hexdigest()[:16]


def build(
    cluster: Cluster,
    names: Sequence[str],
    say: Say,
    *,
    base_name: str | None = None,
    repository: Path = REPOSITORY,
) -> None:
    """Bring images into the store of a running cluster (no names: all). Raises TestbedError."""
    base = Base.chosen(base_name)
    recipes = [Recipe.read(name, repository) for name in names or NAMES]
    store = _store(cluster)
    outdated = [recipe for recipe in recipes if not _is_there(recipe, base, store)]
    for recipe in recipes:
        if recipe not in outdated:
            say(f"{f'image {recipe.name}':<28} {0:5.1f} s  already there")
    if not outdated:
        return
    with buildkit.daemon(cluster) as daemon:
        if base.archive and f"{_REGISTRY}/{base.image}" not in store:
            _timed("base image", lambda: _build_base(cluster, daemon, base), say)
        for recipe in outdated:
            began = time.monotonic()
            detail = _build_one(cluster, daemon, recipe, base)
            say(f"{f'image {recipe.name}':<28} {time.monotonic() - began:5.1f} s  {detail}")
    _remove_old(cluster, [Recipe.read(name, repository) for name in NAMES], base)


def _build_one(cluster: Cluster, daemon: buildkit.Daemon, recipe: Recipe, base: Base) -> str:
    """Build the kept stages that are missing, then the image. What took how long, in words."""
    stages: dict[str, str] = {}
    parts = []
    for stage in recipe.kept():
        image = _stage_image(recipe, base, stage)
        if image not in _store(cluster):
            began = time.monotonic()
            daemon.build(
                buildkit.Build(
                    context=recipe.repository,
                    dockerfile=recipe.dockerfile,
                    names=[image],
                    target=stage,
                    arguments={"BASE_IMAGE": base.image},
                    stages=stages,
                )
            )
            daemon.forget()
            parts.append(f"{stage} {time.monotonic() - began:.1f} s")
        stages = {**stages, stage: image}
    began = time.monotonic()
    arguments = {"BASE_IMAGE": base.image, "VERSION": __version__, "REVISION": _revision()}
    names = [f"{_OWNER}/{recipe.name}:{__version__}", _inputs_name(recipe, base)]
    daemon.build(
        buildkit.Build(
            context=recipe.repository,
            dockerfile=recipe.dockerfile,
            names=names,
            arguments=arguments,
            stages=stages,
        )
    )
    parts.append(f"code {time.monotonic() - began:.1f} s")
    return ", ".join(parts)


def _build_base(cluster: Cluster, daemon: buildkit.Daemon, base: Base) -> None:
    archive = base_image.archive()
    context = cluster.state / "base-image"
    context.mkdir(exist_ok=True)
    (context / "rootfs.tar").unlink(missing_ok=True)
    (context / "rootfs.tar").hardlink_to(archive)
    (context / "Dockerfile").write_text('FROM scratch\nADD rootfs.tar /\nCMD ["python3"]\n')
    daemon.build(
        buildkit.Build(
            context=context, dockerfile=context / "Dockerfile", names=[f"{_REGISTRY}/{base.image}"]
        )
    )


def _remove_old(cluster: Cluster, recipes: Sequence[Recipe], base: Base) -> None:
    """Drop the names of images that nothing asks for any more; pods that run keep what they use."""
    wanted = {f"{_REGISTRY}/{base.image}"}
    for recipe in recipes:
        wanted |= {_stage_image(recipe, base, stage) for stage in recipe.kept()}
    ours = (*(f"{_OWNER}/testbed-{stage}:" for stage in _KEPT_STAGES), f"{_REGISTRY}/{base_image.NAME}-")
    store = _store(cluster)
    old = {name for name in store if name.startswith(ours) and name not in wanted}
    for recipe in recipes:
        current = store.get(f"{_OWNER}/{recipe.name}:{__version__}")
        inputs = {name for name in store if name.startswith(f"{_OWNER}/{recipe.name}:inputs-")}
        old |= {name for name in inputs if store[name] != current}
    # containerd's Kubernetes half gives each image a second name, by its configuration; that would keep the layers.
    named = {digest for name, digest in store.items() if name not in old and not name.startswith("sha256:")}
    old |= {name for name, digest in store.items() if name.startswith("sha256:") and digest not in named}
    if old:
        ctr(cluster, "images", "remove", *sorted(old))


def _is_there(recipe: Recipe, base: Base, store: dict[str, str]) -> bool:
    digest = store.get(_inputs_name(recipe, base))
    return digest is not None and digest == store.get(f"{_OWNER}/{recipe.name}:{__version__}")


def _stage_image(recipe: Recipe, base: Base, stage: str) -> str:
    return f"{_OWNER}/testbed-{stage}:{recipe.key(base, stage)}"


def _inputs_name(recipe: Recipe, base: Base) -> str:
    return f"{_OWNER}/{recipe.name}:inputs-{recipe.key(base)}"


def _store(cluster: Cluster) -> dict[str, str]:
    """The store's images: digests by name."""
    rows = [line.split() for line in ctr(cluster, "images", "list").splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def _stages(text: str) -> dict[str, str]:
    """What each named stage is built from: the instructions before the first stage, its own, and those of its parents."""
    head, *blocks = re.split(r"^(?=FROM )", text, flags=re.MULTILINE)
    own: dict[str, str] = {}
    parents: dict[str, set[str]] = {}
    for block in blocks:
        if named := re.match(r"FROM \S+ AS (\S+)", block):
            direct = own.keys() & set(re.findall(r"(?:^FROM |\bfrom=)([\w-]+)", block, flags=re.MULTILINE))
            parents[named[1]] = direct.union(*(parents[each] for each in direct))
            own[named[1]] = block
    return {
        stage: (head + "".join(own[each] for each in own if each in parents[stage] | {stage})).rstrip("\n")
        for stage in own
    }


def _sources(text: str, repository: Path) -> Iterator[Path]:
    """The files of the build context that instructions read, in a fixed order."""
    mounted = re.findall(r"--mount=type=bind,source=([^,\s]+)", text)
    copied = [
        path
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, flags=re.MULTILINE)
        for path in line.split()[:-1]
    ]
    for name in sorted({*mounted, *copied}):
        path = repository / name
        if not path.exists():
            raise TestbedError(f"a Dockerfile reads {name}, which is not there (run `make lock`?)")
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in files if file.is_file() and not _NOT_SOURCE.intersection(file.parts))


def _revision() -> str:
    """The commit, with `+` if files differ from it; `unknown` outside a clone."""
    command = [
        "git",
        "-C",
        str(REPOSITORY),
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty=+",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def _timed(what: str, work: Callable[[], None], say: Say) -> None:
    began = time.monotonic()
    work()
    say(f"{what:<28} {time.monotonic() - began:5.1f} s")

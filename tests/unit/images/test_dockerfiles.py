"""The images' Dockerfiles and lists of requirements, as text: nothing is built here."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.cluster.testbed.images import NAMES, Base, Recipe

REPOSITORY = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
# Installed apart from the other requirements of the image: from source, with its operators compiled.
APART = {"trainer": "deepspeed"}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def text(name: str) -> str:
    return (REPOSITORY / "images" / name / "Dockerfile").read_text()


def instructions(text: str) -> list[str]:
    """Instructions with their continuation lines joined, without comments."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return [line.strip() for line in lines.replace("\\\n", " ").splitlines() if line.strip()]


def last_stage(text: str) -> list[str]:
    found = instructions(text)
    return found[max(number for number, line in enumerate(found) if line.startswith("FROM ")) :]


def pins(path: Path) -> dict[str, str]:
    """Versions by package."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", path.read_text(), flags=re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


def wanted(extra: str) -> set[str]:
    """Direct requirements of an extra on Linux, with those of the extras that it includes."""
    found = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    todo, seen = [extra], set()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for line in PROJECT["optional-dependencies"][current]:
            requirement = Requirement(line)
            if requirement.name == "selfrewarding":
                todo += requirement.extras
            else:
                found.add(canonicalize_name(requirement.name))
    return found


def test_every_folder_with_a_dockerfile_is_an_image_that_is_built() -> None:
    assert sorted(path.parent.name for path in (REPOSITORY / "images").glob("*/Dockerfile")) == sorted(NAMES)


def test_runs_as_the_user_that_the_pods_ask_for(text: str) -> None:
    users = [line for line in last_stage(text) if line.startswith("USER ")]
    assert users == ["USER 65532:65532"]


def test_nothing_runs_as_somebody_else_behind_the_user_instruction(text: str) -> None:
    last = last_stage(text)
    behind = last[last.index("USER 65532:65532") :]
    assert not [line for line in behind if line.startswith(("RUN ", "COPY ", "ADD "))]


def test_the_base_can_be_switched_and_its_default_is_pinned(text: str) -> None:
    first = instructions(text)[0]
    assert first == "ARG BASE_IMAGE=python:3.11-slim-bookworm"
    stages = set()
    for line in instructions(text):
        if found := re.fullmatch(r"FROM (\S+)(?: AS (\S+))?", line):
            assert found[1] == "${BASE_IMAGE}" or found[1] in stages, line
            stages.add(found[2])


def test_nothing_is_fetched_but_by_package_managers(text: str) -> None:
    for line in instructions(text):
        assert not line.startswith("ADD "), line
        assert not re.search(r"\b(curl|wget|git clone|https?://)", line), line


def test_python_packages_come_with_digests_and_nothing_beside_the_list(text: str) -> None:
    for line in instructions(text):
        for call in re.findall(r"(?:pip|uv pip) (?:install|wheel)[^&]*|pip --python \S+ wheel[^&]*", line):
            # Wheels of an earlier stage are ours, and go in without a network.
            assert "--no-deps" in call, call
            assert "--require-hashes" in call or ("--offline" in call and "/wheels/" in call), call


def test_certificates_of_the_building_machine_stay_out_of_the_image(text: str) -> None:
    for line in instructions(text):
        if "/etc/ssl/certs" in line and not line.startswith("ARG "):
            assert "--mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt" in line


def test_labels(name: str, text: str) -> None:
    (label,) = (line for line in last_stage(text) if line.startswith("LABEL "))
    found = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', label))
    assert found.pop("description")
    assert found == {
        "title": f"selfrewarding/{name}",
        "version": "${VERSION}",
        "revision": "${REVISION}",
        "licenses": PROJECT["license"],
    }
    # They change with every commit: what is below them is not built again.
    assert [line.split()[0] for line in last_stage(text)[-3:]] == ["ARG", "ARG", "LABEL"]


def test_finished_images_hold_neither_installer_nor_compiler(text: str) -> None:
    """A stage that installs one may not be below the last one."""
    stages: dict[str, tuple[str, list[str]]] = {}
    current = ""
    for line in instructions(text):
        if found := re.fullmatch(r"FROM (\S+)(?: AS (\S+))?", line):
            current = found[2] or "last"
            stages[current] = (found[1], [])
        elif current:
            stages[current][1].append(line)
    below, at = [], "last"
    while at in stages:
        below += stages[at][1]
        at = stages[at][0]
    for line in below:
        assert not re.search(r"g\+\+|gcc|-dev\b|bootstrap\.txt|hatchling", line), line


def test_stages_that_images_share_are_the_same_to_the_byte() -> None:
    """Else a builder makes, and a node holds, gigabytes twice."""
    recipes = [Recipe.read(name) for name in NAMES]
    for stage in ("installer", "python"):
        assert len({recipe.stages[stage] for recipe in recipes}) == 1
    assert len({recipe.stages["torch"] for recipe in recipes if "torch" in recipe.stages}) == 1
    assert [recipe.name for recipe in recipes if "torch" in recipe.stages] == ["trainer", "vllm-cpu"]


def test_requirements_are_those_of_the_extra_in_the_versions_of_the_environment(name: str) -> None:
    locked = pins(REPOSITORY / "images" / name / "requirements.txt")
    if name in APART:
        locked |= pins(REPOSITORY / "requirements" / f"{APART[name]}.txt")
    environment = pins(REPOSITORY / "requirements" / "environment.txt")
    assert wanted(name) <= set(locked), "run `make lock`"
    assert {package: environment.get(package) for package in locked} == locked, "run `make lock`"


def test_every_requirement_has_a_digest_and_names_no_place() -> None:
    for path in [*(REPOSITORY / "images").glob("*/*.txt"), *(REPOSITORY / "requirements").glob("*.txt")]:
        content = path.read_text()
        for block in re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", content, flags=re.MULTILINE)):
            if block.strip():
                assert "--hash=sha256:" in block, f"{path.name}: {block[:60]}"
        assert "://" not in re.sub(r"(?m)^\s*#.*", "", content), path


def test_pytorch_below_both_images_is_the_one_that_both_ask_for() -> None:
    torch = pins(REPOSITORY / "requirements" / "torch.txt")
    for name in ("trainer", "vllm-cpu"):
        locked = pins(REPOSITORY / "images" / name / "requirements.txt")
        assert {package: locked.get(package) for package in torch} == torch


def test_the_sampler_and_the_operator_come_without_pytorch() -> None:
    for name in ("sampler", "operator"):
        assert "torch" not in pins(REPOSITORY / "images" / name / "requirements.txt")


def test_the_build_context_holds_what_the_dockerfiles_read_and_no_more() -> None:
    rules = [
        line
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    read = set()
    for name in NAMES:
        text = (REPOSITORY / "images" / name / "Dockerfile").read_text()
        read |= set(re.findall(r"type=bind,source=([^,\s]+)", text))
        for line in instructions(text):
            if line.startswith("COPY "):
                read |= set(line.split()[1:-1])
    assert {path.split("/")[0] for path in read} == kept
    dropped = [rule for rule in rules[1:] if not rule.startswith("!")]
    assert all((REPOSITORY / path).exists() for path in read)
    assert not [path for path in read if any(fnmatch.fnmatch(path, rule) for rule in dropped)]


def test_a_key_changes_with_what_is_read_and_with_nothing_else(tmp_path: Path) -> None:
    base = Base.chosen("debian:12")
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "torch.txt").write_text("torch==1")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "program.py").write_text("1")
    (tmp_path / "images" / "toy").mkdir(parents=True)
    dockerfile = tmp_path / "images" / "toy" / "Dockerfile"
    dockerfile.write_text(
        "# one\nARG BASE_IMAGE=x\nFROM ${BASE_IMAGE} AS torch\n"
        "RUN --mount=type=bind,source=requirements/torch.txt,target=/t.txt install /t.txt\n"
        "FROM torch AS packages\nRUN true\nFROM packages\nCOPY code /code\n"
    )

    def keys() -> tuple[str, str]:
        recipe = Recipe.read("toy", tmp_path)
        return recipe.key(base, "packages"), recipe.key(base)

    first = keys()
    dockerfile.write_text(dockerfile.read_text().replace("# one", "# another remark"))
    (tmp_path / "code" / "__pycache__").mkdir()
    (tmp_path / "code" / "__pycache__" / "program.pyc").write_text("2")
    assert keys() == first
    (tmp_path / "code" / "program.py").write_text("2")
    second = keys()
    assert second[0] == first[0]
    assert second[1] != first[1]
    (tmp_path / "requirements" / "torch.txt").write_text("torch==2")
    third = keys()
    assert third[0] != second[0]
    assert third[1] != second[1]
    assert Recipe.read("toy", tmp_path).key(Base.chosen("debian:13")) != third[1]


def test_a_stage_is_made_from_its_parents_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "images" / "toy").mkdir(parents=True)
    (tmp_path / "images" / "toy" / "Dockerfile").write_text(
        "ARG BASE_IMAGE=x\nFROM ${BASE_IMAGE} AS tool\nRUN one\nFROM ${BASE_IMAGE} AS python\nRUN two\n"
        "FROM python AS compiled\nRUN --mount=type=bind,from=tool,source=/a,target=/a three\n"
        "FROM python AS packages\nRUN --mount=type=bind,from=compiled,source=/b,target=/b four\n"
        "FROM python AS builder\nRUN five\nFROM packages\nRUN six\n"
    )
    stages = Recipe.read("toy", tmp_path).stages
    steps = {
        name: [line.split()[-1] for line in text.splitlines() if line.startswith("RUN")]
        for name, text in stages.items()
    }
    assert steps == {
        "tool": ["one"],
        "python": ["two"],
        "compiled": ["one", "two", "three"],
        "packages": ["one", "two", "three", "four"],
        "builder": ["two", "five"],
    }
    assert all(text.startswith("ARG BASE_IMAGE=x\n") for text in stages.values())

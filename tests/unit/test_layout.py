"""The repository keeps the shape that everything else relies on."""

import ast
import importlib.util
import operator
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import selfrewarding

PLACES = re.compile(
    r"--(extra-)?index-url|--find-links|registry\s*=\s*[\"']?https?://|index[_-]url\s*[=:]", re.IGNORECASE
)
"""What names a package registry's place: machines choose theirs, the repository must not."""


def files_of(repository: Path) -> list[Path]:
    """Every file that is in Git or would be added: tracked and untracked, not ignored, not deleted."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [path for name in listing.split("\0") if name and (path := repository / name).is_file()]


def lines_naming_a_place(text: str) -> list[str]:
    return [line for line in text.splitlines() if PLACES.search(line)]


def test_operator_folder_is_a_source_root_and_hides_nothing(repository: Path) -> None:
    assert not (repository / "operator" / "__init__.py").exists()
    assert not (repository / "operator" / "operator.py").exists()


def test_operator_is_pythons_own_module_even_from_the_root_of_the_checkout(repository: Path) -> None:
    code = "import operator; print(operator.__file__); assert operator.itemgetter(0)('x') == 'x'"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, check=True, capture_output=True, text=True
    ).stdout.strip()
    standard_library = Path(sysconfig.get_path("stdlib"))
    assert Path(found).parent == standard_library
    assert Path(operator.__file__).parent == standard_library


def test_python_is_the_one_that_the_requirements_are_resolved_for() -> None:
    assert sys.version_info[:2] == (3, 11)


def test_all_three_packages_come_from_this_checkout(repository: Path) -> None:
    roots = {"selfrewarding": "operator", "srr_trainer": "images/trainer", "srr_sampler": "images/sampler"}
    for package, root in roots.items():
        spec = importlib.util.find_spec(package)
        assert spec is not None, package
        assert spec.origin is not None, package
        assert Path(spec.origin) == repository / root / package / "__init__.py"
        assert (repository / root / package / "py.typed").exists()


def test_package_root_holds_the_version_only(repository: Path) -> None:
    tree = ast.parse(Path(selfrewarding.__file__).read_text(encoding="utf-8"))
    assert [type(node) for node in tree.body] == [ast.Expr, ast.Assign]
    assert re.fullmatch(r"\d+\.\d+\.\d+", selfrewarding.__version__)


def test_every_python_package_has_a_docstring_on_each_module(repository: Path) -> None:
    modules = [
        path
        for path in files_of(repository)
        if path.suffix == ".py" and path.relative_to(repository).parts[0] in {"operator", "images"}
    ]
    assert modules
    silent = [str(path) for path in modules if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert silent == []


def test_no_file_names_a_package_registry(repository: Path) -> None:
    here = Path(__file__).resolve()
    allowed = {here, repository / "Makefile"}  # both only look for such lines
    found = []
    for path in files_of(repository):
        if path in allowed:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(repository)}: {line}" for line in lines_naming_a_place(text)]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://packages.example/simple",
        "  --extra-index-url https://packages.example/simple",
        'source = { registry = "https://packages.example/simple" }',
        "index-url = https://packages.example",
    ],
)
def test_a_line_that_names_a_registry_is_seen(line: str) -> None:
    assert lines_naming_a_place(f"first\n{line}\nlast") == [line]


@pytest.mark.parametrize("name", ["bootstrap.txt", "environment.txt"])
def test_requirements_are_versions_with_digests_and_nothing_else(repository: Path, name: str) -> None:
    text = (repository / "requirements" / name).read_text(encoding="utf-8")
    statements = re.sub(r"\s*#.*", "", text).replace("\\\n", " ").splitlines()
    statements = [statement for statement in statements if statement.strip()]
    assert statements
    requirement = re.compile(
        r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9,._-]+\])?==\S+(\s*;[^#]*?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*"
    )
    assert [statement for statement in statements if not requirement.fullmatch(statement)] == []


def test_requirements_hold_every_direct_dependency(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [
        item for items in project["optional-dependencies"].values() for item in items
    ]
    names = {re.split(r"[\[<>=;! ]", item)[0].lower().replace("_", "-") for item in wanted} - {
        project["name"]
    }
    pinned = {
        line.split("==")[0].split("[")[0]
        for line in (repository / "requirements" / "environment.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith((" ", "#"))
    }
    assert names - pinned == set()


def test_import_contracts_name_every_package(repository: Path) -> None:
    """A new package must take its place in the layers, or import-linter would never look at it."""
    settings = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]
    layers = next(contract for contract in settings["contracts"] if contract["type"] == "layers")
    named = {name.strip() for layer in layers["layers"] for name in re.split(r"[:|]", layer)}
    source = repository / "operator" / "selfrewarding"
    assert named == {path.parent.name for path in source.glob("*/__init__.py")}

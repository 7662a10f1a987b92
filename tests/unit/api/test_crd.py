"""The generated CRD: up to date, small, structural, with its rules and texts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from selfrewarding.api.crd import crd_yaml, custom_resource_definition
from selfrewarding.contract.result import MAX_SUMMARY_BYTES

CRD = custom_resource_definition()
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
FORBIDDEN = {
    "$ref",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "const",
    "default",
    "title",
    "discriminator",
    "definitions",
    "$defs",
}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from nodes(schema[keyword], f"{path}[]")


def test_the_checked_in_crd_is_the_generated_one(repository: Path) -> None:
    assert (repository / "crds/selfrewardingruns.yaml").read_text(encoding="utf-8") == crd_yaml()


def test_the_crd_is_under_100_kilobytes() -> None:
    """As JSON, without blanks: so it stands in the API server and in kubectl's last-applied annotation (256 KiB)."""
    assert len(json.dumps(custom_resource_definition(), separators=(",", ":")).encode()) < 100_000


@pytest.mark.parametrize(
    ("path", "node"), [pytest.param(path, node, id=path or ".") for path, node in nodes(SCHEMA)]
)
def test_every_node_is_structural(path: str, node: dict[str, Any]) -> None:
    assert not FORBIDDEN & node.keys(), path
    assert "type" in node or node.get("x-kubernetes-preserve-unknown-fields"), path
    assert not ("properties" in node and "additionalProperties" in node), path
    if node.get("type") == "array":
        assert "items" in node, path


def test_every_field_of_the_spec_and_status_has_a_text() -> None:
    silent = [
        path
        for path, node in nodes(SCHEMA)
        if path.count(".") >= 2 and "[]" not in path and not node.get("description")
    ]
    assert silent == []


def test_cross_field_rules_are_cel() -> None:
    rules = [
        (path, rule["rule"])
        for path, node in nodes(SCHEMA)
        for rule in node.get("x-kubernetes-validations", [])
    ]
    assert len(rules) == len(set(rules)) >= 16
    assert (".spec.artifacts", "self.uri == oldSelf.uri") in rules


def test_the_text_of_a_summary_names_the_limit_that_holds() -> None:
    described = SCHEMA["properties"]["status"]["properties"]["results"]["additionalProperties"]["description"]
    assert f"at most {MAX_SUMMARY_BYTES} bytes" in described


def test_conditions_are_a_map_by_type() -> None:
    conditions = SCHEMA["properties"]["status"]["properties"]["conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == (
        "map",
        ["type"],
    )


def test_every_example_fits_the_schema(repository: Path) -> None:
    validator = Draft202012Validator(draft(SCHEMA))
    for file in sorted((repository / "crds/examples").glob("*.yaml")):
        assert [error.message for error in validator.iter_errors(loaded(file))] == [], file.name


def draft(node: dict[str, Any]) -> dict[str, Any]:
    """The schema as JSON Schema of today: boolean exclusive bounds (OpenAPI 3.0) become numbers, unknown fields are refused."""
    result = dict(node)
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if result.pop(exclusive, False):
            result[exclusive] = result.pop(bound)
    if "properties" in result:
        result["properties"] = {name: draft(inner) for name, inner in result["properties"].items()}
        if not result.get("x-kubernetes-preserve-unknown-fields") and "description" in result:
            result["additionalProperties"] = False
    for keyword in ("items", "additionalProperties"):
        if isinstance(result.get(keyword), dict):
            result[keyword] = draft(result[keyword])
    return result


def loaded(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))

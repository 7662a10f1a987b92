"""The CustomResourceDefinition, generated from the types: `srr crd > crds/selfrewardingruns.yaml`.

A structural schema (Kubernetes API: apiextensions.k8s.io/v1) with the docstrings as descriptions and the `cel_rules`
of each block as x-kubernetes-validations. Defaults are left out: presets and defaults are filled in by the operator, never
written into `spec`, so that GitOps tools see no difference.
"""

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from selfrewarding.api import algorithm, data, evaluation, execution, labels, run, tracking
from selfrewarding.api.base import ApiModel
from selfrewarding.api.conditions import Condition

HEADER = "# Generated from the types in operator/selfrewarding/api by `make generate`. Do not edit.\n"

_KEPT = frozenset(
    {"type", "description", "enum", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
     "minLength", "maxLength", "minItems", "maxItems", "required", "properties", "items", "additionalProperties",
     "multipleOf"}
)  # fmt: skip
# Bounds where the types have none: the API server estimates the cost of CEL rules by them. Texts: as metav1.Condition.
_MAX_ITEMS, _MAX_TEXT = 256, 32768


def custom_resource_definition() -> dict[str, Any]:
    """The CRD as an object, ready to be applied."""
    schema = run.SelfRewardingRun.model_json_schema(by_alias=True, schema_generator=GenerateJsonSchema)
    blocks = {name: _types()[name] for name in schema["$defs"] if name in _types()}
    structural = _structural(schema, schema["$defs"], blocks, run.SelfRewardingRun)
    properties = structural["properties"]
    properties["metadata"] = {"type": "object"}
    for name in ("apiVersion", "kind"):
        properties[name] = {"type": "string"}
    structural["required"] = ["spec"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{labels.PLURAL}.{labels.GROUP}"},
        "spec": {
            "group": labels.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": labels.KIND,
                "listKind": f"{labels.KIND}List",
                "plural": labels.PLURAL,
                "singular": labels.SINGULAR,
                "shortNames": [labels.SHORT_NAME],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": labels.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": _columns(),
                    "schema": {"openAPIV3Schema": structural},
                }
            ],
        },
    }


def crd_yaml() -> str:
    """The CRD as the text of crds/selfrewardingruns.yaml."""
    return HEADER + yaml.dump(
        custom_resource_definition(), Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True, width=120
    )


class _WithoutAliases(yaml.SafeDumper):
    """Writes a part that several blocks share out in full each time: people read this file."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _columns() -> list[dict[str, Any]]:
    ready = '.status.conditions[?(@.type=="Ready")].status'
    message = '.status.conditions[?(@.type=="Ready")].message'
    columns: list[dict[str, Any]] = [
        {"name": "Stage", "type": "string", "jsonPath": ".status.stage"},
        {"name": "Iteration", "type": "integer", "jsonPath": ".status.iteration"},
        {"name": "Done", "type": "integer", "jsonPath": ".status.progress.done"},
        {"name": "Of", "type": "integer", "jsonPath": ".status.progress.total"},
        {"name": "GPUs", "type": "integer", "jsonPath": ".status.gpus"},
        {"name": "Ready", "type": "string", "jsonPath": ready},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Waiting For", "type": "string", "jsonPath": ".status.waitingFor", "priority": 1},
        {"name": "Message", "type": "string", "jsonPath": message, "priority": 1},
    ]
    return columns


def _types() -> dict[str, type[ApiModel]]:
    modules = (algorithm, data, evaluation, execution, run, tracking)
    found = {
        name: value for module in modules for name, value in vars(module).items() if isinstance(value, type)
    }
    found["Condition"] = Condition
    return {name: value for name, value in found.items() if issubclass(value, ApiModel)}


def _structural(
    schema: JsonSchemaValue,
    definitions: Mapping[str, JsonSchemaValue],
    blocks: Mapping[str, type[ApiModel]],
    block: type[ApiModel] | None = None,
) -> dict[str, Any]:
    """One JSON schema without references, null types and keywords that a structural schema may not have."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        inner = _structural(definitions[name], definitions, blocks, blocks.get(name))
        return {**inner, "description": schema.get("description", inner.get("description", ""))}
    if "anyOf" in schema:
        return _union(schema, definitions, blocks)
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        kept = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        return {**kept, "description": schema["description"]} if "description" in schema else kept
    result = _keywords(schema)
    if "properties" in schema:
        result.pop("additionalProperties", None)
        result["properties"] = {
            name: _structural(value, definitions, blocks) for name, value in schema["properties"].items()
        }
    elif isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(schema["additionalProperties"], definitions, blocks)
    if "items" in schema:
        result["items"] = _structural(schema["items"], definitions, blocks)
        result.setdefault("maxItems", _MAX_ITEMS)
    if block is not None and block.cel_rules:
        result["x-kubernetes-validations"] = [
            {"rule": rule.rule, "message": rule.message} for rule in block.cel_rules
        ]
    return result


def _keywords(schema: JsonSchemaValue) -> dict[str, Any]:
    """What a schema says of its own value, in the words of OpenAPI 3.0."""
    result = {
        name: value for name, value in schema.items() if name in _KEPT or name.startswith("x-kubernetes-")
    }
    if "const" in schema:
        result["enum"] = [schema["const"]]
    for bound in ("exclusiveMinimum", "exclusiveMaximum"):
        if bound in result:
            result[bound.removeprefix("exclusive").lower()] = result[bound]
            result[bound] = True
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if result.get("type") == "string" and "enum" not in result:
        result.setdefault("maxLength", _MAX_TEXT)
    return result


def _union(
    schema: JsonSchemaValue, definitions: Mapping[str, JsonSchemaValue], blocks: Mapping[str, type[ApiModel]]
) -> dict[str, Any]:
    """A union without null; of several kinds, the types join (a name or an address) or anything is taken (a word or a list)."""
    branches = [
        _structural(branch, definitions, blocks) for branch in schema["anyOf"] if branch.get("type") != "null"
    ]
    described = {"description": " ".join(schema["description"].split())} if "description" in schema else {}
    if len(branches) == 1:
        return {**branches[0], **described}
    if {branch.get("type") for branch in branches} == {"string"}:
        words = "|".join(word for branch in branches for word in branch.get("enum", []))
        patterns = [branch["pattern"].strip("^$") for branch in branches if "pattern" in branch]
        return {
            "type": "string",
            "pattern": f"^({'|'.join([words, *patterns])})$",
            "maxLength": _MAX_TEXT,
            **described,
        }
    return {"x-kubernetes-preserve-unknown-fields": True, **described}

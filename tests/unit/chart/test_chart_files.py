"""The chart's own files: what they repeat from the code is equal to it, and no option stands there for nothing.

What the templates make of them is in tests/golden/chart (needs helm) and tests/cluster/chart.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from selfrewarding import __version__
from selfrewarding.api import labels
from selfrewarding.api.crd import crd_yaml
from selfrewarding.api.run import SelfRewardingRun
from selfrewarding.manifests import Images

CHART = Path(__file__).parents[3] / "charts" / "selfrewarding-operator"
META = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
TEMPLATES = "\n".join(file.read_text(encoding="utf-8") for file in sorted((CHART / "templates").iterdir()))
# Free-form blocks of Kubernetes: their keys are no options of ours.
OPAQUE = {
    "resources",
    "nodeSelector",
    "affinity",
    "podAnnotations",
    "podLabels",
    "serviceAccount.annotations",
}


def annotation(name: str) -> Any:
    return yaml.safe_load(META["annotations"][f"artifacthub.io/{name}"])


def options(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        place = f"{path}.{name}".lstrip(".")
        if isinstance(value, dict) and place not in OPAQUE:
            yield from options(value, place)
        else:
            yield place


def node(path: str) -> dict[str, Any]:
    found = SCHEMA
    for name in path.split("."):
        found = found["properties"][name]
    return found


def test_chart_and_program_have_one_version() -> None:
    assert (META["version"], META["appVersion"]) == (__version__, __version__)


def test_the_charts_crd_is_the_generated_one() -> None:
    assert (CHART / "files/selfrewardingruns.yaml").read_text(encoding="utf-8") == crd_yaml()


def test_the_listed_images_are_those_that_the_code_uses() -> None:
    images = Images()
    assert {one["name"]: one["image"] for one in annotation("images")} == {
        "operator": f"selfrewarding/operator:{__version__}",
        "trainer": images.trainer,
        "sampler": images.sampler,
        "vllm": images.vllm,
        "vllm-cpu": images.vllm_cpu,
    }


def test_the_listed_kind_is_ours() -> None:
    (kind,) = annotation("crds")
    assert (kind["kind"], kind["version"]) == (labels.KIND, labels.VERSION)
    assert kind["name"] == f"{labels.PLURAL}.{labels.GROUP}"


def test_the_listed_example_is_a_valid_run() -> None:
    (example,) = annotation("crdsExamples")
    SelfRewardingRun.model_validate(example, strict=True, by_alias=True, by_name=False)


def test_the_run_in_the_notes_is_valid() -> None:
    notes = (CHART / "templates/NOTES.txt").read_text(encoding="utf-8")
    text = notes.partition("<<RUN\n")[2].partition("  RUN\n")[0]
    run = yaml.safe_load(text)
    SelfRewardingRun.model_validate(run, strict=True, by_alias=True, by_name=False)


def test_the_default_values_fit_the_schema() -> None:
    Draft7Validator.check_schema(SCHEMA)
    Draft7Validator(SCHEMA).validate(VALUES)


def test_schema_and_values_have_the_same_options() -> None:
    def known(schema: dict[str, Any], path: str = "") -> Iterator[str]:
        for name, inner in schema.get("properties", {}).items():
            place = f"{path}.{name}".lstrip(".")
            if "properties" in inner and place not in OPAQUE:
                yield from known(inner, place)
            else:
                yield place

    assert set(known(SCHEMA)) - {"global"} == set(options(VALUES))


@pytest.mark.parametrize("option", sorted(options(VALUES)))
def test_an_option_is_explained_and_used(option: str) -> None:
    assert node(option)["description"]
    parent, _, leaf = option.rpartition(".")
    # Directly, or as `.name` of its block.
    direct = re.search(rf"\.Values\.{re.escape(option)}\b", TEMPLATES)
    assert direct or (
        parent and f".Values.{parent} " in TEMPLATES and re.search(rf"[ (]\.{leaf}\b", TEMPLATES)
    )


def test_no_template_reads_an_option_that_does_not_exist() -> None:
    known = set(options(VALUES))
    read = set(re.findall(r"\.Values\.([A-Za-z.]+)", TEMPLATES))
    assert {
        place
        for place in read
        if place not in known and not any(one.startswith(f"{place}.") for one in known)
    } == set()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt option": ({"replica": 2}, "'replica' was unexpected"),
    "a misspelt option of a block": ({"image": {"name": "x"}}, "'name' was unexpected"),
    "no replica": ({"replicas": 0}, "0 is less than the minimum of 1"),
    "replicas in quotes": ({"replicas": "2"}, "'2' is not of type 'integer'"),
    "namespaces as one text": ({"watchNamespaces": "a,b"}, "is not of type 'array'"),
    "a namespace of another shape": ({"watchNamespaces": ["Team A"]}, "does not match"),
    "a namespace twice": ({"watchNamespaces": ["a", "a"]}, "has non-unique elements"),
    "an unknown pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "'Sometimes' is not one of"),
    "a digest without its kind": ({"image": {"digest": "abc"}}, "does not match"),
    "an image without a tag": ({"images": {"trainer": "registry/trainer"}}, "does not match"),
    "an unknown log format": ({"log": {"format": "xml"}}, "'xml' is not one of"),
    "a log level in small letters": ({"log": {"level": "info"}}, "'info' is not one of"),
    "a flag in quotes": ({"crds": {"keep": "no"}}, "'no' is not of type 'boolean'"),
    "a pull secret as an object": ({"imagePullSecrets": [{"name": "x"}]}, "is not of type 'string'"),
    "a variable without a name": ({"extraEnv": [{"value": "x"}]}, "'name' is a required property"),
    "a label that is no text": ({"podLabels": {"team": 1}}, "1 is not of type 'string'"),
    "an unknown block of resources": ({"resources": {"request": {}}}, "'request' was unexpected"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_the_schema_refuses(values: dict[str, Any], said: str) -> None:
    errors = [error.message for error in Draft7Validator(SCHEMA).iter_errors(values)]
    assert len(errors) == 1
    assert said in errors[0]


def test_values_of_a_parent_chart_are_taken() -> None:
    Draft7Validator(SCHEMA).validate({**VALUES, "global": {"imageRegistry": "anything"}})

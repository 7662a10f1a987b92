"""Manifests as YAML, to be read in a review; `make generate` (pytest --snapshot-update tests/golden) writes them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_scenarios import SCENARIOS
from syrupy.assertion import SnapshotAssertion
from tests.support.golden_files import GoldenText


class LiteralDumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and no anchors: as a person would write it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


LiteralDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


class YamlFile(GoldenText):
    """Documents as one YAML file."""

    def serialize(self, data: Any, **_: Any) -> str:
        return yaml.dump_all(data, Dumper=LiteralDumper, sort_keys=False, allow_unicode=True, width=110)


@pytest.mark.filterwarnings(
    "ignore:\\s*Can not relate snapshot"
)  # files are named for the run, not for this test
@pytest.mark.parametrize("name", SCENARIOS)
def test_manifests_equal_their_golden_file(name: str, snapshot: SnapshotAssertion) -> None:
    assert SCENARIOS[name]() == snapshot(name=name, extension_class=YamlFile)


def test_every_golden_file_has_its_scenario() -> None:
    files = {path.stem for path in Path(__file__).parent.glob("*.yaml")}
    assert files == set(SCENARIOS)

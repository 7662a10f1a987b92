"""Bad run files end in one clear message per mistake: file, line, field, found, expected."""

import copy
import random
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrewarding.cli.run_file import InvalidRunFile, read_run_file, read_run_files

GOOD = """\
apiVersion: selfrewarding.dev/v1alpha1
kind: SelfRewardingRun
metadata: {name: good}
spec:
  model: {uri: s3://models/m}
  artifacts: {uri: s3://runs/good}
  seedData:
    instructions: {uri: s3://data/i.jsonl, format: PromptResponse}
    ranked: {uri: s3://data/r.jsonl, format: Ranked}
"""
DOCUMENT = yaml.safe_load(GOOD)
LAST = len(GOOD.splitlines())


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    file = tmp_path / "run.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidRunFile) as raised:
        read_run_files(str(file))
    return [str(problem).removeprefix(f"{file}") for problem in raised.value.problems]


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        pytest.param("  iteratons: 3\n", "spec.iteratons: found an unknown field; did you mean iterations?", id="a misspelled field"),
        pytest.param("  dpo: {learning_rate: 1e-6}\n", "spec.dpo.learning_rate: found an unknown field; did you mean learningRate?", id="snake case"),
        pytest.param("  iterations: '3'\n", 'spec.iterations: found "3"; expected a whole number', id="a text for a number"),
        pytest.param("  suspend: yes please\n", 'spec.suspend: found "yes please"; expected true or false', id="a text for a switch"),
        pytest.param("  judge: {format: structured}\n", "did you mean Structured?", id="wrong case"),
        pytest.param("  judge: {scoring: Expected}\n", "spec.judge: judge.scoring Expected needs judge.format Structured", id="a contradiction"),
        pytest.param("  training: {gpusPerNode: 3}\n", "spec: sft.batchSize (16) is no multiple of ranks x micro batch = 1 nodes x 3 GPUs x 1 = 3", id="rule 7: a batch that the ranks cannot share"),
        pytest.param("  dpo: {reference: previous}\n", "spec.dpo.reference: found \"previous\"; expected 'Previous' or 'Initial'; did you mean Previous?", id="a union complains once"),
        pytest.param("  serving: {judge: {replicas: 1}}\n", "spec: serving.judge is a pool for a dedicated judge: set judge.modelUri too", id="a pool for nobody"),
        pytest.param("  tracking: {mlflow: {uri: 'https://u:sec@ret@mlflow.example.com'}}\n", 'spec.tracking.mlflow.uri: found "https://mlflow.example.com"; expected a text like https://host/path, without user, password or query', id="a password in an address"),
        pytest.param("  iterations: 3\n  iterations: 4\n", "spec.iterations: found the field a second time; keep one of the two", id="a field twice"),
        pytest.param("  sft: {learningRate: .nan}\n", "spec.sft.learningRate", id="not a number"),
        pytest.param("  scheduling: {nodeSelector: {a: 1}}\n", "spec.scheduling.nodeSelector.a: found 1; expected a text", id="a value in a free block"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(tmp_path: Path, added: str, expected: str) -> None:
    told = problems(tmp_path, GOOD + added)
    assert len(told) == 1
    line = LAST + len(added.splitlines()) if not expected.startswith("spec: ") else 4
    assert told[0].startswith(f":{line}: ")
    assert expected in told[0]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    told = problems(tmp_path, GOOD.replace("good", "Bad Name") + "  iterations: 0\n  seeed: 1\n")
    assert len(told) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b"", "an empty file", id="empty"),
        pytest.param(b"a: [1", "broken YAML", id="broken YAML"),
        pytest.param(b"\xff\xfe", "expected UTF-8", id="not UTF-8"),
        pytest.param(b"a: \x00", "U+0000", id="a control character"),
        pytest.param(b"- 1\n- 2\n", "expected a SelfRewardingRun object", id="a list"),
        pytest.param(b"apiVersion: v1\nkind: Secret\n", "expected selfrewarding.dev/v1alpha1", id="another kind"),
        pytest.param(b"a: " + b"[" * 500, "", id="a deep list"),
        pytest.param(b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
            b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(8)
        ), "too large or too deep", id="a bomb of aliases"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_run_is_told_in_one_line(tmp_path: Path, text: bytes, expected: str) -> None:
    assert expected in problems(tmp_path, text)[0]


def test_scientific_notation_is_a_number_as_kubectl_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(GOOD + "  dpo: {learningRate: 1e-6, minLearningRate: 1E-7}\n")
    assert read_run_file(str(file)).spec.dpo.learning_rate == 1e-6


def test_every_example_is_valid(repository: Path) -> None:
    names = [
        read_run_file(str(file)).metadata.name
        for file in sorted((repository / "crds/examples").glob("*.yaml"))
    ]
    assert len(names) == len(set(names)) >= 8


def hostile(rng: random.Random) -> str:
    """A run file with something wrong in it, or just noise."""
    document = copy.deepcopy(DOCUMENT)
    for _ in range(rng.randint(1, 4)):
        block = document
        while True:
            name = rng.choice(list(block))
            if isinstance(block[name], dict) and block[name] and rng.random() < 0.7:
                block = block[name]
                continue
            value = rng.choice(
                [None, -1, 1e400, "\u202e", [], {}, [[]], True, "x" * 5000, {"a": {"b": [1]}}, 2**70]
            )
            block[rng.choice([name, name + "x", "", "é", "0"])] = value
            break
    text = yaml.dump(document, Dumper=yaml.CSafeDumper, allow_unicode=True)
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice("{}[]&*!|>'\"%@`\t:-?,#") + text[at:]
    return text


def test_a_thousand_hostile_files_never_end_in_a_traceback(tmp_path: Path) -> None:
    rng = random.Random(20240118)
    file = tmp_path / "run.yaml"
    for _ in range(1000):
        file.write_text(hostile(rng), encoding="utf-8")
        try:
            read_run_files(str(file))
        except InvalidRunFile as error:
            assert error.problems


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(noise)
        file.flush()
        with pytest.raises(InvalidRunFile):
            read_run_files(file.name)

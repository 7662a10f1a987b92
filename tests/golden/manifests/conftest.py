import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for manifest_scenarios, which the unit tests read too

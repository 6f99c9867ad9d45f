"""The package of this workflow, also where another version is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from headcount_workflow import job as job

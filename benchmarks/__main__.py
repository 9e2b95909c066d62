"""All benchmarks: python -m benchmarks."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

SCRIPTS = ("registry", "peers", "loop_overhead", "tuned_plans", "baselines", "strong_guidance", "two_stages", "inverse")

for script in (*SCRIPTS, "foreign_pipeline"):
    sys.argv = [script]
    runpy.run_path(str(Path(__file__).parent / f"{script}.py"), run_name="__main__")

"""All benchmarks: python -m benchmarks."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

SAMPLERS = ("registry", "peers", "loop_overhead", "tuned_plans", "baselines", "universal", "two_stages", "foreign_pipeline")
STEERED = ("strong_guidance", "guidance_law", "noise_search", "aggregate_experts")
INVERSE = ("inverse_fit", "inverse", "inverse_gaussian", "inverse_digits")
RESTORED = ("restore_digits",)

for script in (*SAMPLERS, *STEERED, *INVERSE, *RESTORED):
    sys.argv = [script]
    runpy.run_path(str(Path(__file__).parent / f"{script}.py"), run_name="__main__")

"""All benchmarks, or those that are named: python -m benchmarks [NAME ...]."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
SAMPLERS = (
    "registry",
    "peers",
    "loop_overhead",
    "tuned_plans",
    "tuned_twice",
    "families",
    "seconds",
    "baselines",
    "universal",
    "transfer",
    "two_stages",
    "foreign_pipeline",
)
STEERED = ("strong_guidance", "guidance_law", "noise_search", "aggregate_experts")
INVERSE = ("inverse_fit", "inverse", "inverse_gaussian", "inverse_digits")
RESTORED = ("restore_digits", "restore_small", "restore_codes", "restore_conditions")
REUSED = ("reuse_speed", "small_first", "reuse", "reuse_blocks", "inside")
"""The last three need a trained transformer, and say how to make it where it is not there."""

ALL = (*SAMPLERS, *STEERED, *INVERSE, *RESTORED, *REUSED)
chosen = sys.argv[1:] or ALL
if unknown := [name for name in chosen if name not in ALL]:
    raise SystemExit(f"no benchmark {unknown[0]!r}; there are: {', '.join(ALL)}")
sys.path.insert(0, str(HERE))  # where they find each other
stopped = []
for script in chosen:
    sys.argv = [script]
    try:
        runpy.run_path(str(HERE / f"{script}.py"), run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            stopped.append(f"{script}: {stop.code}")
raise SystemExit("\n".join(stopped) or None)

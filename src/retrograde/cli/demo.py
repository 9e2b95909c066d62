"""`retrograde demo`: what the library does, on the digits that come with it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from retrograde.cli import console, options

RECIPES = ("ddim", "heun", "dpmpp_2m", "ipndm_4", "unipc_3")
"""One of each family that people use, among them the best on this model."""

EFFORT = {
    "fit": 64,
    "validation": 16,
    "held_out": 16,
    "search": 32,
    "levels": 32,
    "refined": 1,
    "candidates": 24,
    "moments": 128,
}
"""Half of what a fit usually may cost, so that three fit in a demonstration."""


def demo(out: options.Out = Path("demo"), as_json: options.AsJson = False) -> None:
    """Compare published solvers and fitted plans on the embedded digits, in a few minutes on a laptop."""
    from importlib.util import find_spec

    import torch

    import retrograde as rg
    from retrograde.cli.compare import conclude
    from retrograde.cli.question import Question
    from retrograde.tune import EFFORTS

    # For a network this small a second thread brings little, and on a busy machine it costs several times the work.
    torch.set_num_threads(1)
    began = time.perf_counter()
    console.note("sampling handwritten digits with a small network, by published solvers and by plans fitted to it")
    question = Question(
        model="digits",
        denoiser=rg.load("digits"),
        nfes=(3, 4, 5, 6, 8, 10),
        folder=out,
        recipes=RECIPES,
        grids=("karras", "shifted"),  # the usual one, and the best on this model
        n=24,
        condition="0-9",
        reference_nfe=80,
        leading=1,
        quality_n=150,
        fit=(3, 4, 5),
        effort=dataclasses.replace(EFFORTS["seconds"], **EFFORT),
        contest=False,
        plot=find_spec("matplotlib") is not None,
        command=console.command_line(),
    )
    conclude(question, as_json=as_json)
    console.note(f"{time.perf_counter() - began:.0f} s; open {out / 'report.html'}")

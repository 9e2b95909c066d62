"""The Python lines that do the same as the page."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from retrograde.plan import Plan
from retrograde.studio.request import Batch, Sampler
from retrograde.studio.shelf import REFERENCE


def file_name(plan: Plan, batch: Batch, side: int = 0) -> str:
    """Return the name a plan is exported under."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{batch.model}-{plan.recipe.partition('@')[0]}")
    return f"{safe}-{plan.nfe}{'' if side == 0 else '-b'}.json"


def lines(batch: Batch, condition: Any, sides: list[tuple[Sampler, Plan]], fine_grid: str | None) -> str:
    """Return Python that draws the samples of one or two plans, their difference, and their errors.

    A plan that no recipe writes is loaded from the file it is exported to. `fine_grid` is the grid of the plan that errors
    are measured to.
    """
    text = ["import retrograde as rg", "", f"den = rg.load({_text(batch.model)})"]
    if batch.guidance is not None:
        away = f", negative={_text(batch.negative.strip())}" if batch.negative.strip() else ""
        text.append(f"den = rg.guide.cfg(den, {batch.guidance!r}{away})")
    given = "" if condition is None else ", condition=condition"
    if condition is not None:
        text.append(f"condition = {_text(condition)}")
    for side, (sampler, plan) in enumerate(sides):
        name = "ab"[side]
        text += ["", *_plan(name, sampler, plan, batch, side)]
        text.append(f"{name} = rg.sample(den, plan_{name}, n={batch.n}, seed={batch.seed}{given})")
    if len(sides) == 2:
        text += ["", 'print(f"A and B apart: {(a - b).square().mean().sqrt():.4g} (rms)")']
    told = [("ab"[side]) for side, (_, plan) in enumerate(sides) if not plan.stochastic]
    if told:
        recipe, nfe = REFERENCE
        grid = "" if fine_grid is None else f", grid={_text(fine_grid)}"
        text += ["", f"plan_fine = rg.plan({_text(recipe)}, den, nfe={nfe}{grid})"]
        text.append(f"fine = rg.sample(den, plan_fine, n={batch.n}, seed={batch.seed}{given})")
        text += [f'print(f"error of {n.upper()}: {{({n} - fine).square().mean().sqrt():.4g}} (rms)")' for n in told]
    return "\n".join(text) + "\n"


def _plan(name: str, sampler: Sampler, plan: Plan, batch: Batch, side: int) -> list[str]:
    if sampler.plan is not None:
        key = sampler.plan.removeprefix("file:")
        file = key if key != sampler.plan else file_name(plan, batch, side)
        beside = [] if key != sampler.plan else ["# export the plan beside these lines"]
        return [*beside, f"plan_{name} = rg.Plan.load({_text(file)})"]
    settings = [] if sampler.nfe is None else [f"nfe={sampler.nfe}"]
    before = []
    if sampler.levels is not None:
        times = ", ".join(map(repr, plan.provenance["times"]))
        before = [f"times_{name} = [", *textwrap.wrap(f"{times},", 88, initial_indent="    ", subsequent_indent="    "), "]"]
        settings.append(f"grid=times_{name}")
    elif sampler.grid is not None:
        settings.append(f"grid={_text(sampler.grid)}")
    settings += [f"{key}={_text(value)}" for key, value in sampler.options.items()]
    return [*before, f"plan_{name} = rg.plan({', '.join([_text(sampler.recipe), 'den', *settings])})"]


def _text(value: Any) -> str:
    """Return a value as Python writes it, words in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)

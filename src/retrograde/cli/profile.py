"""`retrograde profile`: where the time of sampling a model goes, and what reuse would spare."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Annotated

import typer

from retrograde.cli import asked, complete, console, options

if TYPE_CHECKING:
    from retrograde.sites import Profile


def profile(
    model: options.Model,
    solver: Annotated[str, typer.Option("--solver", help="Recipe.", autocompletion=complete.recipes)] = "dpmpp_2m",
    nfe: Annotated[int, typer.Option("--nfe", min=1, help="Network evaluations per item.")] = 4,
    n: Annotated[int, typer.Option("-n", min=1, help="Items computed at once.")] = 1,
    condition: options.Condition = None,
    guidance: options.Guidance = None,
    naive: Annotated[bool, typer.Option("--naive", help="Without fused attention, to see what it gives.")] = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure where the time of sampling goes: by operator, by step, and what reuse would spare.

    retrograde profile digits --nfe 8 -n 4 --condition 3
    """
    denoiser = asked.model(model, guidance, device=device, dtype=dtype)
    asked.check_labels(denoiser, condition)
    import retrograde as rg
    from retrograde.errors import BadType

    plan, given = rg.plan(solver, denoiser, nfe=nfe), {"condition": asked.condition(condition, n), "device": device}
    rg.sample(denoiser, plan[:1], n, **given)  # libraries set themselves up at their first call
    began = time.perf_counter()
    rg.sample(denoiser, plan, n, **given)
    plain = time.perf_counter() - began
    measured = rg.sites.profile(denoiser, plan, n, fused=not naive, **given)
    try:
        spared = rg.accelerate.savings(denoiser, plan, n, **given)
    except BadType:  # no module, or none with places: an oracle, a function
        spared = ()
    if as_json:
        console.emit(measured.summary() | {"unmeasured": plain, "savings": [dataclasses.asdict(one) for one in spared]})
        return
    items = "1 item" if n == 1 else f"{n} items at once"
    console.say(f"{model}: {items}, {plan.nfe} evaluations of the network, {plain:.3f} s")
    console.say(f"{measured.seconds:.3f} s with a stopwatch at every operator, {measured.evaluation:.4f} s an evaluation:")
    _operators(measured)
    _steps(measured)
    if measured.lengths:
        pairs = [f"{q} over {k} ({calls} calls)" for (q, k), calls in sorted(measured.lengths.items())]
        console.say(f"attention: {', '.join(pairs)}\n")
    if spared:
        rows = [(one.policy, *(f"{part:.0%}" for part in (one.macs, one.seconds, one.run(2), one.run(4)))) for one in spared]
        columns = ("policy", "MACs", "seconds", "run, every 2nd full", "run, every 4th full")
        console.table(columns, rows, columns[1:], "what is left of the cost: of a step that reuses, and of a whole run")
        console.say("They are in rg.accelerate. Compare errors with the same recipe in as many steps as that pays for.")


def _operators(measured: Profile) -> None:
    rows = [
        (
            name,
            str(one.calls),
            f"{1e3 * one.seconds:.1f}",
            f"{one.seconds / measured.seconds:.0%}",
            f"{one.macs:.3g}" if one.macs else "",
            f"{one.intensity:.3g}" if one.macs else "",
        )
        for name, one in sorted(measured.operators.items(), key=lambda pair: -pair[1].seconds)
    ]
    part = measured.between / measured.seconds
    rows.append(("between, stopwatch included", "", f"{1e3 * measured.between:.1f}", f"{part:.0%}", "", ""))
    columns = ("operators", "calls", "ms", "part", "MACs", "operations per byte")
    console.table(columns, rows, columns[1:], "of all items and evaluations together")


def _steps(measured: Profile) -> None:
    rows = [
        ("" if step.time is None else f"{step.time:.4g}", f"{1e3 * step.seconds:.1f}", f"{step.macs:.3g}")
        for step in measured.steps
    ]
    columns = ("path time", "ms", "MACs")
    console.table(columns, rows, columns, "step by step")

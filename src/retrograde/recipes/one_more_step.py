"""One more step before the first: a row that turns pure noise into the noise end a network was trained on."""

from __future__ import annotations

import dataclasses

from retrograde import systems
from retrograde.denoisers.prediction import conversion
from retrograde.errors import BadValue
from retrograde.plan import Plan, Row


def plan(base: Plan) -> Plan:
    """Return the plan with a row before its first: x_T = a_T D + s_T eps, D from the network of the knob "first".

    A schedule whose end still holds signal (a_T > 0) starts its network on states it never saw, pure noise without the mean
    of the data. The row asks what can be said of the data without any, and draws the true end around it: the posterior of
    the step to T from a time of no signal. One evaluation; run it with `guide.first_network(denoiser, first)`.

    What the row gives back of the spread of the data is what the conditions tell of it, for a mean has none: of digits whose
    brightness the prompt names, base samples have half the spread, with the row all of it; without the prompt, 0.7.

    The published code scales the fresh noise by the variance s_T^2 in place of s_T; here it is s_T.

    Raises:
        BadValue: the path ends in pure noise, so that nothing is to be corrected, or the plan does not begin at its start.

    Reference: Hu et al., One More Step, 2023, arXiv 2311.15744.
    """
    t, path = base.start, base.path
    if t is None or base.history or path.a(t) == 0.0:
        raise BadValue(
            f"one more step before {base.recipe} at t={t}",
            "a whole plan that starts at a level with signal, a(t) > 0",
            "leave it out: this start is pure noise",
        )
    c_x, c_output, _ = conversion(path, t, base.basis, "data")
    a, s = path.a(t), path.s(t)
    row = Row(t, t, (a * c_x,), (a * c_output,), (s,), knobs={"first": True})
    provenance = {**base.provenance, "one_more_step": True}
    return dataclasses.replace(base, rows=(row, *base.rows), provenance=provenance, report=None)


systems.register(
    systems.System(
        title="One More Step: A Versatile Plug-and-Play Module for Rectifying Diffusion Schedule Flaws and Enhancing "
        "Low-Frequency Controls",
        authors=("Minghui Hu", "Jianbin Zheng", "Chuanxia Zheng", "Chaoyue Wang", "Dacheng Tao", "Tat-Jen Cham"),
        year=2023,
        arxiv="2311.15744",
        home="paths",
        call="rg.sample(rg.guide.first_network(denoiser, first), rg.recipes.one_more_step.plan(base), n=4)",
        test="tests/recipes/test_one_more_step.py::test_it_removes_the_bias_of_an_end_that_holds_signal",
    )
)

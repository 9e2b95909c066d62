"""The noise that a product of powers of laws begins with."""

from __future__ import annotations

import dataclasses

from retrograde import laws
from retrograde.denoisers.prediction import conversion
from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Plan, Row


def start_of(plan: Plan, total: float = 1.0) -> Plan:
    """Return the plan that first turns noise of one model into that of a product of powers with the sum `total`, W.

        x' = x/sqrt(W) + (x - (s/W) E)

    where E = sum_i w_i E_i is the product's prediction of the noise. Noise of variance s^2 to the power of W is noise of
    variance s^2/W, and the second term is a/W times the sum of w_i E_i[x_0], the little signal that the start still
    holds. A single model can do without that; weights that reward what lies far out multiply its absence (at a = 0.007, for
    the third power of one mixture over the square of another, it took the total variation from 0.023 to 0.038). The row
    costs one evaluation. It serves a run that starts from noise alone, and the plan says that it misses the point-mass law.

    Raises:
        BadValue: a total that is not positive: such a product has no noise to begin with; or a plan that starts without
            signal, where a sum other than 1 has no finite mean.
    """
    if not total > 0.0:
        raise BadValue(f"exponents that sum to {total}", "a sum above 0", "start_of(plan, 2.0)")
    path, start = plan.path, plan.start
    if start is None or path.a(start) == 0.0:
        given = f"a plan that starts at t={start}, where {path.name} holds no signal"
        raise BadValue(given, "levels with a(t) > 0", f"start=path.time_of_sigma(100.0) = {_high(path):.4g}")
    c_x, c_output, _ = (float(c) for c in conversion(path, start, plan.basis, "noise"))
    share = path.s(start) / total
    first = Row(start, start, (total**-0.5 + 1.0 - share * c_x,), (-share * c_output,))
    missed = tuple(dict.fromkeys((*plan.misses, laws.POINT_MASS)))
    return dataclasses.replace(plan, rows=(first, *plan.rows), misses=missed, report=None)


def _high(path: Path) -> float:
    return path.time_of_sigma(100.0)

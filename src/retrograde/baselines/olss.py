"""OLSS, the teacher-forced least squares that came first: a baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde import laws, systems
from retrograde.baselines.gits import FIRST_ITEM, check_budget
from retrograde.denoisers import AbstractDenoiser
from retrograde.denoisers.prediction import conversion
from retrograde.plan import Plan, Row
from retrograde.tune.teacher import Teacher, teach

systems.register(
    systems.System(
        title="Optimal Linear Subspace Search: Learning to Construct Fast and High-Quality Schedulers for Diffusion Models",
        authors=("Zhongjie Duan", "Chengyu Wang", "Cen Chen", "Jun Huang", "Weining Qian"),
        year=2023,
        arxiv="2305.14677",
        home="tune",
        call="rg.baselines.olss(denoiser, nfe=4)",
        test="tests/baselines/test_olss.py::test_olss_is_exact_where_its_subspace_holds_the_answer",
    )
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Subspace:
    """Least squares of reference states on the initial state and the noise predictions at chosen levels."""

    teacher: Teacher
    gram: Tensor

    def solve(self, known: Sequence[int], target: int) -> tuple[Tensor, float]:
        """Return the coefficients on (x_T, predictions at `known` levels) and the root mean square error of the target."""
        m = len(self.teacher.times)
        columns = [0, *(m + k for k in known)]
        A, b = self.gram[columns][:, columns], self.gram[columns, target]
        scale = A.diagonal().sqrt()  # at the noise end x_T and its noise prediction are one direction: cut it
        w = torch.linalg.pinv(A / scale / scale[:, None], rtol=1e-9, hermitian=True) @ (b / scale) / scale
        residual = self.gram[target, target] - 2 * w @ b + w @ A @ w
        return w, float((residual.clamp(min=0.0) / self.teacher.end.numel()).sqrt())


def olss(
    denoiser: AbstractDenoiser, nfe: int, *, seed: int = 0, n: int = 128, levels: int = 48, condition: object = None
) -> Plan:
    """Fit x_(i+1) = w_i x_T + sum_j w_ij eps_j to the reference's own states by least squares.

    The levels follow a path of largest jumps whose error stays under a limit, and bisection finds the smallest limit that
    `nfe` evaluations allow.

    Raises:
        BadValue: nfe < 1.

    Reference: Duan et al., Optimal Linear Subspace Search, 2023, arXiv 2305.14677.
    """
    check_budget(nfe)
    teacher = teach(denoiser, n, seed, levels=levels, condition=condition, first_item=FIRST_ITEM)
    path = denoiser.path
    # the published method uses the noise prediction, which says nothing of the data where the path holds no signal
    basis = "velocity" if path.a(path.t_max) == 0.0 else "noise"
    outputs = []
    for t, x, mean in zip(teacher.times, teacher.states, teacher.outputs, strict=True):
        c_x, c_mean, _ = conversion(path, t, "data", basis)
        outputs.append(c_x * x + c_mean * mean)
    stack = torch.cat([teacher.states, torch.stack(outputs), teacher.end[None]]).flatten(1).double()
    space = _Subspace(teacher, stack @ stack.T)
    low, high = 0.0, float(teacher.states.std())
    chosen = tuple(range(nfe))
    for _ in range(40):
        limit = 0.5 * (low + high)
        jumps = _greedy(space, nfe, limit)
        if jumps is None:
            low = limit
        else:
            chosen, high = jumps, limit
    rows = []
    for i, here in enumerate(chosen):
        there = chosen[i + 1] if i + 1 < nfe else 2 * len(teacher.times)
        w, _ = space.solve(chosen[: i + 1], there)
        next_time = teacher.times[there] if i + 1 < nfe else None
        rows.append(Row(teacher.times[here], next_time, (*(0.0,) * i, float(w[0])), tuple(reversed(w[1:].tolist()))))
    fields: dict[str, Any] = {"provenance": {"tuner": "olss", "nfe": nfe, "seed": seed}}
    fields["report"] = {"evaluations": teacher.evaluations * n}
    return Plan(path, tuple(rows), basis, "olss@1", teacher.times[0], (laws.POINT_MASS,), **fields)


def _greedy(space: _Subspace, nfe: int, limit: float) -> tuple[int, ...] | None:
    """Return the levels of largest jumps with error under the limit, or None if they need more than nfe."""
    m = len(space.teacher.times)
    known = [0]
    while True:
        if space.solve(known, 2 * m)[1] <= limit:
            break
        if len(known) == nfe:
            return None
        jump = known[-1] + 1
        for there in range(m - 1, known[-1], -1):
            if space.solve(known, there)[1] <= limit:
                jump = there
                break
        if jump >= m:
            return None
        known.append(jump)
    while len(known) < nfe:  # a path shorter than allowed: halve its longest jump
        ends = [*known, m]
        gaps = [y - x for x, y in zip(ends, ends[1:], strict=False)]
        widest = max(range(len(gaps)), key=lambda i: gaps[i])
        if gaps[widest] < 2:
            return None
        known.insert(widest + 1, known[widest] + gaps[widest] // 2)
    return tuple(known)

"""The data mean pulled to the measurement by a proximal step, without a gradient through the network: DiffPIR."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, final

from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue
from retrograde.guide import Transform
from retrograde.guide.branches import alone
from retrograde.inverse.method import Posed, Task, method
from retrograde.operators import Measurement
from retrograde.recipes import plan


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Proximal(Transform):
    """A denoiser that knows y: D' = argmin_x |y - A x|^2 + rho |x - D|^2, rho = lam std^2 a^2/s^2 (see `diffpir`)."""

    measurement: Measurement
    lam: float
    makes: ClassVar[frozenset[str]] = frozenset({"free"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        free = alone(self.inner.predict(x_t, t, condition, knobs, network_time), "a proximal step")
        if isinstance(t, Tensor) or self.path.s(t) == 0.0:
            return free
        A, data = self.measurement.linear, free.data
        std = max(self.measurement.std, 1e-4)
        rho = self.lam * (std * self.path.a(t) / self.path.s(t)) ** 2
        value = data + A.solve(A.adjoint(self.measurement.residual(data)), max(rho, 1e-12))
        bare = dataclasses.replace(free, value=data, kind="data", parts={}, heads={}, exponents={})
        return dataclasses.replace(bare, value=value.to(data), parts={"free": bare}, exponents={"free": 1.0})


@method("diffpir", "a proximal step of the data mean towards y, and noise made anew in part; linear, no gradient")
def diffpir(denoiser: AbstractDenoiser, measurement: Measurement, task: Task, lam: float = 1.0, zeta: float = 0.3) -> Posed:
    """Denoising models for plug-and-play restoration: the prior of x_0 given x_t is taken for N(D, (s/a)^2/lam).

    D' = argmin |y - A x|^2 + rho |x - D|^2; the noise is read off x_t and D', and x' = a' D' + s' (sqrt(1 - zeta) E' +
    sqrt(zeta) eps). The guess is too wide where the data are narrower than the noise, so the samples lie too near y early.

    Reference: Zhu et al., Denoising Diffusion Models for Plug-and-Play Image Restoration, 2023, arXiv 2305.08995.
    """
    if not lam > 0.0 or not 0.0 <= zeta <= 1.0:
        raise BadValue(f"lam={lam}, zeta={zeta}", "lam > 0, 0 <= zeta <= 1", "lam=1.0, zeta=0.3")
    conditioned = Proximal(denoiser, measurement, lam)
    table = plan("ddim", denoiser, nfe=task.nfe, grid=task.grid, eta=0.0)
    rows = []
    for row in table.rows:
        if row.next_time is not None and row.time is not None:
            a, s = table.path.a(row.time), table.path.s(row.time)
            a_next, s_next = table.path.a(row.next_time), table.path.s(row.next_time)
            keep = s_next * (1.0 - zeta) ** 0.5 / s
            fresh = (s_next * zeta**0.5,) if zeta else ()
            row = dataclasses.replace(row, states=(keep,), outputs=(a_next - keep * a,), noises=fresh)
        rows.append(row)
    return Posed(conditioned, dataclasses.replace(table, rows=tuple(rows), recipe="diffpir@1"))


systems.register(
    systems.System(
        title="Denoising Diffusion Models for Plug-and-Play Image Restoration",
        authors=("Yuanzhi Zhu", "Kai Zhang", "Jingyun Liang", "Jiezhang Cao", "Bihan Wen", "Radu Timofte", "Luc Van Gool"),
        year=2023,
        arxiv="2305.08995",
        home="inverse",
        call="rg.inverse.solve(denoiser, measurement, method='diffpir', n=16, nfe=100)",
        test="tests/inverse/test_gaussian.py::test_diffpir_is_the_published_loop",
    )
)

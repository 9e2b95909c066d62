"""Methods that step along the singular vectors of the operator, written as tables: DDRM and DDNM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde import grids, laws, systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.inverse.method import Posed, Task, method
from retrograde.linear import LinearMap
from retrograde.operators import Measurement, spectrum_of
from retrograde.paths import Path
from retrograde.plan import Plan, Row


def seen_of(measurement: Measurement) -> tuple[Tensor, Tensor, Tensor]:
    """Return the r columns of V that are seen, [d, r], the pseudo-inverse of y along them, and its noise, [r]."""
    spectrum = spectrum_of(measurement.linear)
    seen = spectrum.seen
    s = spectrum.values[seen]
    read = spectrum.read(measurement.y.double()[None])[0][seen]
    return spectrum.basis[:, seen].contiguous(), read / s, measurement.std / s


Gain = tuple[Tensor, float]
"""Factors along the columns that are seen, [r], and the one of every other direction."""


def _row(basis: Tensor, t: float, t_next: float, a: float, gains: Sequence[Gain], shift: Tensor, shape: Any) -> Row:
    """Return the row x' = a' (G_D D + G_E E + G_eps eps + V shift), the gains G in that order."""
    on_data, on_noise, fresh = (LinearMap(basis, a * gain, a * rest) for gain, rest in gains)
    return Row(t, t_next, (0.0,), (on_data, on_noise), (fresh,), shift=(a * (basis @ shift)).reshape(shape))


def _plan(path: Path, rows: list[Row], times: Sequence[float], name: str, settings: dict[str, Any]) -> Plan:
    end = Row(times[-1], None, (0.0,), (1.0, 0.0))
    provenance = {"recipe": name, "times": list(times), "options": settings}
    fields: dict[str, Any] = {"basis": "data+noise", "recipe": f"{name}@1", "start": times[0], "provenance": provenance}
    return Plan(path, (*rows, end), misses=(laws.POINT_MASS,), **fields)


def _times(denoiser: AbstractDenoiser, task: Task) -> tuple[float, ...]:
    if task.nfe < 2:
        raise BadValue(f"nfe={task.nfe}", "nfe >= 2: one row and the end", "nfe=20")
    times = grids.make(denoiser.path, task.nfe, "karras" if task.grid is None else task.grid)
    return tuple(dict.fromkeys(denoiser.snap(t) for t in times))


def ddrm_plan(path: Path, times: Sequence[float], measurement: Measurement, eta: float = 0.85, eta_b: float = 1.0) -> Plan:
    """Return DDRM's table: rows over data and noise, with one coefficient for each singular vector.

    With x/a in V's coordinates, sigma' = s'/a', z = V^T A^+ y with noise std/s_i, D and E data and noise mean:

        not seen:            D_i + sqrt(1 - eta^2) sigma' E_i + eta sigma' eps_i
        sigma' < std/s_i:    D_i + sqrt(1 - eta^2) sigma' (z_i - D_i)/(std/s_i) + eta sigma' eps_i
        sigma' >= std/s_i:   (1 - eta_b) D_i + eta_b z_i + sqrt(sigma'^2 - eta_b^2 std^2/s_i^2) eps_i

    Raises:
        BadValue: eta or eta_b outside [0, 1].
    """
    if not 0.0 <= eta <= 1.0 or not 0.0 <= eta_b <= 1.0:
        raise BadValue(f"eta={eta}, eta_b={eta_b}", "both in [0, 1]", "eta=0.85, eta_b=1.0")
    basis, read, spread = seen_of(measurement)
    shape, keep = measurement.operator.shape, math.sqrt(1.0 - eta * eta)
    rows = []
    for t, t_next in zip(times, times[1:], strict=False):
        sigma = path.sigma(t_next)
        early = spread <= sigma
        towards = keep * sigma / spread.clamp(min=1e-300)
        on_data = torch.where(early, 1.0 - eta_b, 1.0 - towards), 1.0
        on_noise = torch.zeros_like(spread), keep * sigma
        left = (sigma * sigma - (eta_b * spread) ** 2).clamp(min=0.0).sqrt()
        fresh = torch.where(early, left, eta * sigma), eta * sigma
        shift = torch.where(early, eta_b, towards) * read
        rows.append(_row(basis, t, t_next, path.a(t_next), (on_data, on_noise, fresh), shift, shape))
    return _plan(path, rows, times, "ddrm", {"eta": eta, "eta_b": eta_b})


def ddnm_plan(path: Path, times: Sequence[float], measurement: Measurement, eta: float = 0.85) -> Plan:
    """Return DDNM+'s table: D' = D + V L V^T A^+ (y - A D), and the noise that makes up for that of y.

    Along each singular vector that is seen, L = 1 and fresh noise of variance (eta s')^2 - (a' std/s_i)^2 where that is
    positive, else L = eta s'/(a' std/s_i) and none. Without noise in y that is DDNM: the range of A^T is replaced.

    Raises:
        BadValue: eta outside [0, 1].
    """
    if not 0.0 <= eta <= 1.0:
        raise BadValue(f"eta={eta}", "0 <= eta <= 1", "eta=0.85")
    basis, read, spread = seen_of(measurement)
    shape, keep = measurement.operator.shape, math.sqrt(1.0 - eta * eta)
    rows = []
    for t, t_next in zip(times, times[1:], strict=False):
        sigma = path.sigma(t_next)
        share = (eta * sigma / spread.clamp(min=1e-300)).clamp(max=1.0)
        fresh = ((eta * sigma) ** 2 - (share * spread) ** 2).clamp(min=0.0).sqrt(), eta * sigma
        on_noise = torch.full_like(spread, keep * sigma), keep * sigma
        rows.append(_row(basis, t, t_next, path.a(t_next), ((1.0 - share, 1.0), on_noise, fresh), share * read, shape))
    return _plan(path, rows, times, "ddnm", {"eta": eta})


def _begun(denoiser: AbstractDenoiser, measurement: Measurement, task: Task, start: float) -> Tensor:
    """Return DDRM's start: along what is seen the pseudo-inverse of y and the noise it lacks, elsewhere noise."""
    basis, read, spread = seen_of(measurement)
    path = denoiser.path
    a, s = path.a(start), path.s(start)
    eps = task.prior(denoiser.shape).flatten(1)
    along = eps @ basis
    early = a * spread <= s
    left = (s * s - (a * torch.where(early, spread, 0.0)) ** 2).sqrt()
    begun = s * eps + torch.where(early, a * read + (left - s) * along, 0.0) @ basis.T
    return begun.reshape(-1, *denoiser.shape).to(device=task.device, dtype=task.dtype)


@method("ddrm", "the posterior along the singular vectors of the operator, as if the data there were independent")
def ddrm(denoiser: AbstractDenoiser, measurement: Measurement, task: Task, eta: float = 0.85, eta_b: float = 1.0) -> Posed:
    """Denoising diffusion restoration: `ddrm_plan`, from the pseudo-inverse of y under noise. No gradient.

    What is seen is not passed on to what is not, except through the network: exact for none but the simplest data.

    Reference: Kawar, Elad, Ermon and Song, Denoising Diffusion Restoration Models, 2022, arXiv 2201.11793.
    """
    times = _times(denoiser, task)
    table = ddrm_plan(denoiser.path, times, measurement, eta, eta_b)
    return Posed(denoiser, table, start=_begun(denoiser, measurement, task, times[0]))


@method("ddnm", "the range of the operator is replaced by what y says of it, the null space is the network's")
def ddnm(denoiser: AbstractDenoiser, measurement: Measurement, task: Task, eta: float = 0.85) -> Posed:
    """Denoising diffusion null-space model, with noise in y: `ddnm_plan`. No gradient.

    Reference: Wang, Yu and Zhang, Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, 2022, arXiv
    2212.00490.
    """
    return Posed(denoiser, ddnm_plan(denoiser.path, _times(denoiser, task), measurement, eta))


for _title, _authors, _arxiv, _name in (
    (
        "Denoising Diffusion Restoration Models",
        ("Bahjat Kawar", "Michael Elad", "Stefano Ermon", "Jiaming Song"),
        "2201.11793",
        "ddrm",
    ),
    (
        "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model",
        ("Yinhuai Wang", "Jiwen Yu", "Jian Zhang"),
        "2212.00490",
        "ddnm",
    ),
):
    systems.register(
        systems.System(
            title=_title,
            authors=_authors,
            year=2022,
            arxiv=_arxiv,
            home="inverse",
            call=f"rg.inverse.solve(denoiser, measurement, method={_name!r}, n=16, nfe=100)",
            test=f"tests/inverse/test_gaussian.py::test_{_name}_is_the_published_loop",
        )
    )

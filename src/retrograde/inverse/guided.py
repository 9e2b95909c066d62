"""Guidance by the likelihood: the score of p(y | x_t) is added, each method with its own guess of x_0 given x_t."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue
from retrograde.guide import Transform
from retrograde.guide.branches import alone
from retrograde.inverse.method import Posed, Task, method
from retrograde.operators import Linear, Measurement, conjugate_gradients
from retrograde.plan import Plan
from retrograde.recipes import plan

KNOB = "likelihood"
"""A row's share of the guidance; `dps` writes it, for its step is one of the state and not of the score."""

Spread = Callable[["Look"], Tensor]
"""From what is known at a level to u = S^-1 (y - A D), S the covariance of y given x_t."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """What a rule sees at one level.

    Attributes:
        residual: y - A D, [n, *measured].
        a, s: the path's coefficients.
        backward: from v shaped as the data to J^T v, J = dD/dx_t; counts itself.
    """

    residual: Tensor
    a: float
    s: float
    backward: Callable[[Tensor], Tensor]

    @property
    def sigma(self) -> float:
        """Noise level s/a."""
        return self.s / self.a


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Likelihood(Transform):
    """A denoiser that knows y: D' = D + (s^2/a) J^T A^T S^-1 (y - A D), J = dD/dx_t.

    That is the data mean of the score plus grad log N(y; A D(x_t), S), S held fixed. The rule gives S^-1 (y - A D).
    """

    measurement: Measurement
    rule: Spread
    weight: float = 1.0
    makes: ClassVar[frozenset[str]] = frozenset({"free"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        t, a, s = level(self.path, t)
        if a == 0.0 or s == 0.0:
            return self.inner.predict(x_t, t, condition, knobs, network_time)
        free, data, counted, backward = with_backward(self.inner, x_t, t, condition, knobs, network_time)
        with torch.no_grad():
            u = self.rule(Look(self.measurement.residual(data), a, s, backward))
            shift = backward(self.measurement.linear.adjoint(u.to(data)))
            value = data + self.weight * (s * s / a) * shift
        return conditioned(free, x_t, value, data, counted)


def level(path: Any, t: float | Tensor) -> tuple[float, float, float]:
    if isinstance(t, Tensor):
        raise BadValue("items at levels of their own", "one level for the batch", "a plan with one time in each row")
    return t, path.a(t), path.s(t)


def with_backward(
    inner: AbstractDenoiser, x_t: Tensor, t: float, condition: Any, knobs: Any, network_time: float | None
) -> tuple[Prediction, Tensor, list[int], Callable[[Tensor], Tensor]]:
    """Return the prediction, its data mean without graph, the count of backward passes, and v -> J^T v."""
    with torch.enable_grad():
        at = x_t.detach().requires_grad_(True)
        free = alone(inner.predict(at, t, condition, knobs, network_time), "guidance by a measurement")
        data = free.data
    counted: list[int] = []

    def backward(v: Tensor) -> Tensor:
        counted.append(1)
        return torch.autograd.grad(data, at, v.to(data), retain_graph=True)[0]

    return free, data.detach(), counted, backward


def conditioned(free: Prediction, x_t: Tensor, value: Tensor, data: Tensor, counted: list[int]) -> Prediction:
    evaluations = dict(free.evaluations)
    if counted:
        label = f"{next(iter(evaluations), 'network')}:backward"
        evaluations[label] = evaluations.get(label, 0) + len(counted)
    bare = dataclasses.replace(free, x_t=x_t, value=data, kind="data", parts={}, heads={}, exponents={})
    return dataclasses.replace(
        bare, value=value.to(data), evaluations=evaluations, parts={"free": bare}, exponents={"free": 1.0}
    )


def _posed(conditioned: AbstractDenoiser, task: Task, recipe: str, eta: float) -> Posed:
    options = {"eta": eta} if recipe == "ddim" else {}
    return Posed(conditioned, plan(recipe, conditioned, nfe=task.nfe, grid=task.grid, **options))


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Residual(Transform):
    """A denoiser that knows y by its distance: D' = D - knob * zeta grad_x |y - A(D)| (see `dps`)."""

    measurement: Measurement
    zeta: float
    obeys: ClassVar[frozenset[str]] = frozenset({KNOB})
    makes: ClassVar[frozenset[str]] = frozenset({"free"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        share = knobs.get(KNOB, 0.0)
        passed = {name: value for name, value in knobs.items() if name != KNOB}
        if share == 0.0 or self.zeta == 0.0:
            return self.inner.predict(x_t, t, condition, passed, network_time)
        t, _, _ = level(self.path, t)
        free, data, counted, backward = with_backward(self.inner, x_t, t, condition, passed, network_time)
        with torch.enable_grad():
            at = data.detach().requires_grad_(True)
            distance = self.measurement.residual(at).flatten(1).norm(dim=1)
            (pull,) = torch.autograd.grad(distance.sum(), at)
        return conditioned(free, x_t, data - self.zeta * share * backward(pull), data, counted)


def steps_of_the_state(table: Plan) -> Plan:
    """Return the plan whose rows carry in the knob "likelihood" what makes a shift of D one of the state of size one.

    DPS subtracts from the next state, in the units of a variance-preserving path: on another one the gradient and the state
    are both scaled by sqrt(a^2 + s^2).
    """
    rows = []
    for row in table.rows:
        share = 0.0
        if row.time is not None and row.next_time is not None and row.outputs and row.outputs[0] != 0.0:
            units = [math.hypot(table.path.a(t), table.path.s(t)) for t in (row.time, row.next_time)]
            share = units[0] * units[1] / float(row.outputs[0])  # type: ignore[arg-type]
        rows.append(dataclasses.replace(row, knobs={**row.knobs, KNOB: share}) if row.time is not None else row)
    return dataclasses.replace(table, rows=tuple(rows))


@method("dps", "a gradient step on |y - A(D)| after every row of DDPM; any differentiable operator")
def dps(denoiser: AbstractDenoiser, measurement: Measurement, task: Task, zeta: float = 1.0) -> Posed:
    """Diffusion posterior sampling: x' <- x' - zeta grad_{x_t} |y - A(D(x_t))| after every row of DDPM.

    The step does not know the spread of x_0 given x_t: the samples are pulled to y by zeta in the norm of the residual,
    whatever the noise. On Gaussian data it has neither the mean nor the covariance of the posterior.

    Reference: Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems, 2022, arXiv 2209.14687.
    """
    if not zeta >= 0.0:
        raise BadValue(f"zeta={zeta}", "zeta >= 0", "zeta=1.0")
    table = plan("ddim", denoiser, nfe=task.nfe, grid=task.grid, eta=1.0)
    return Posed(Residual(denoiser, measurement, zeta), steps_of_the_state(table))


@method("pigdm", "the likelihood with an isotropic guess of the spread of x_0 given x_t; linear operators", exact="")
def pigdm(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    task: Task,
    spread: float = 1.0,
    weight: float = 1.0,
    recipe: str = "ddim",
    eta: float = 1.0,
) -> Posed:
    """Pseudo-inverse guidance: S = r^2 A A^T + std^2, r^2 = spread^2 sigma^2/(spread^2 + sigma^2), sigma = s/a.

    That is the posterior covariance of data with covariance spread^2 I, for which it is exact. The guidance is added to the
    score, so that every recipe may run it (the paper adds it to the state after DDIM's row).

    Reference: Song, Vahdat, Mardani and Kautz, Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR 2023.
    """
    A, std = measurement.linear, measurement.std

    def rule(look: Look) -> Tensor:
        r = spread**2 * look.sigma**2 / (spread**2 + look.sigma**2)
        return A.solve_measured(look.residual, std**2 / r) / r

    return _posed(Likelihood(denoiser, measurement, rule, weight), task, recipe, eta)


@method("sda", "the likelihood with covariance R + gamma sigma^2 A A^T, as score-based data assimilation takes it")
def sda(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    task: Task,
    gamma: float = 1e-2,
    recipe: str = "ddim",
    eta: float = 1.0,
) -> Posed:
    """Likelihood guidance with S = std^2 + gamma (s/a)^2 A A^T; several measurements are stacked.

    The scalar gamma stands for the covariance of the data; the surrogate is exact for none. Small gamma trusts y early.

    Reference: Rozet and Louppe, Score-based Data Assimilation, 2023, arXiv 2306.10574.
    """
    A, std = measurement.linear, measurement.std

    def rule(look: Look) -> Tensor:
        r = gamma * look.sigma**2
        return A.solve_measured(look.residual, std**2 / r) / r

    return _posed(Likelihood(denoiser, measurement, rule), task, recipe, eta)


DENSE = 8
"""Numbers of y up to which the covariance of y given x_t is built, by so many backward passes."""


def covariance_of_y(A: Linear, std: float, look: Look) -> tuple[Tensor, Tensor]:
    """Return eigenvalues [n, m] and eigenvectors [n, m, m], float64, of S = A C A^T + std^2, C = (s^2/a) J."""
    m, r = math.prod(A.measured), look.residual
    units = torch.eye(m, dtype=r.dtype, device=r.device).reshape(m, *A.measured)
    scale = look.s * look.s / look.a
    columns = [A(scale * look.backward(A.adjoint(unit.expand_as(r)))).flatten(1) for unit in units]
    S = torch.stack(columns, -1).double()
    values, basis = torch.linalg.eigh(0.5 * (S + S.mT))
    return values.clamp(min=0.0) + max(std, 1e-6) ** 2, basis


def exact_spread(A: Linear, std: float, products: int | None) -> Spread:
    """Return the rule S = A C A^T + std^2 with C = (s^2/a) J, the covariance of x_0 given x_t (Tweedie's second identity).

    A C A^T is only multiplied, by backward passes; where y has at most `DENSE` numbers it is built, else conjugate gradients
    take at most `products` of them.
    """
    m = math.prod(A.measured)

    def rule(look: Look) -> Tensor:
        r = look.residual
        if m > DENSE or products is not None:
            scale = look.s * look.s / look.a

            def product(v: Tensor) -> Tensor:
                return A(scale * look.backward(A.adjoint(v))) + std**2 * v

            return conjugate_gradients(product, r, most=products or min(m, 5))
        values, basis = covariance_of_y(A, std, look)
        turned = (basis.mT @ r.double().flatten(1)[..., None])[..., 0]
        return (basis @ (turned / values)[..., None])[..., 0].to(r).reshape(r.shape)

    return rule


@method("mmps", "the likelihood with the exact covariance of x_0 given x_t, by Jacobian products", exact="gaussian")
def mmps(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    task: Task,
    products: int | None = None,
    recipe: str = "ddim",
    eta: float = 1.0,
) -> Posed:
    """Moment matching posterior sampling: S = A C A^T + std^2 with C = (s^2/a) dD/dx_t, the covariance of x_0 given x_t.

    Exact for Gaussian data, in the limit of small steps. Else the law of x_0 given x_t is taken for the Gaussian of its
    mean and covariance, which weighs modes wrongly where it has several.

    Args:
        products: Jacobian products of a row, in conjugate gradients; left out, up to eight numbers of y are solved
            exactly and more take five.

    Reference: Rozet, Andry, Lanusse and Louppe, Learning Diffusion Priors from Observations by Expectation Maximization,
    2024, arXiv 2405.13712; the covariance: Boys et al., 2023, arXiv 2310.06721.
    """
    rule = exact_spread(measurement.linear, measurement.std, products)
    return _posed(Likelihood(denoiser, measurement, rule), task, recipe, eta)


@method("tmpd", "the likelihood with the row sums of the covariance of x_0 given x_t: one Jacobian product")
def tmpd(denoiser: AbstractDenoiser, measurement: Measurement, task: Task, recipe: str = "ddim", eta: float = 1.0) -> Posed:
    """Tweedie moment projection with a diagonal: S = diag(A C A^T 1) + std^2, C = (s^2/a) dD/dx_t.

    Two backward passes in a row, however large y is. Row sums are the matrix where it is diagonal, as for masks of data
    whose elements are independent; else they are a guess, which may be negative and is then cut at zero.

    Reference: Boys, Girolami, Pidstrigach, Reich, Mosca and Akyildiz, Tweedie Moment Projected Diffusions for Inverse
    Problems, 2023, arXiv 2310.06721.
    """
    A, std = measurement.linear, measurement.std

    def rule(look: Look) -> Tensor:
        ones = torch.ones_like(look.residual)
        sums = A((look.s * look.s / look.a) * look.backward(A.adjoint(ones)))
        return look.residual / (sums.clamp(min=0.0) + max(std, 1e-6) ** 2)

    return _posed(Likelihood(denoiser, measurement, rule), task, recipe, eta)


_TESTS = "tests/inverse/test_gaussian.py::"

for _title, _authors, _year, _arxiv, _name, _test in (
    (
        "Diffusion Posterior Sampling for General Noisy Inverse Problems",
        ("Hyungjin Chung", "Jeongsol Kim", "Michael T. Mccann", "Marc L. Klasky", "Jong Chul Ye"),
        2022,
        "2209.14687",
        "dps",
        "test_dps_is_the_published_loop",
    ),
    (
        "Pseudoinverse-Guided Diffusion Models for Inverse Problems",
        ("Jiaming Song", "Arash Vahdat", "Morteza Mardani", "Jan Kautz"),
        2023,
        None,
        "pigdm",
        "test_pigdm_is_exact_for_data_of_one_spread",
    ),
    (
        "Learning Diffusion Priors from Observations by Expectation Maximization",
        ("François Rozet", "Gérôme Andry", "François Lanusse", "Gilles Louppe"),
        2024,
        "2405.13712",
        "mmps",
        "test_methods_that_are_exact_have_the_posterior",
    ),
    (
        "Tweedie Moment Projected Diffusions for Inverse Problems",
        ("Benjamin Boys", "Mark Girolami", "Jakiw Pidstrigach", "Sebastian Reich", "Alan Mosca", "O. Deniz Akyildiz"),
        2023,
        "2310.06721",
        "tmpd",
        "test_row_sums_are_exact_where_the_covariance_is_diagonal",
    ),
    (
        "Score-based Data Assimilation",
        ("François Rozet", "Gilles Louppe"),
        2023,
        "2306.10574",
        "sda",
        "test_every_other_method_shows_its_bias",
    ),
):
    systems.register(
        systems.System(
            title=_title,
            authors=_authors,
            year=_year,
            arxiv=_arxiv,
            home="inverse",
            call=f"rg.inverse.solve(denoiser, measurement, method={_name!r}, n=16, nfe=100)",
            test=_TESTS + _test,
        )
    )

systems.register(
    systems.System(
        title="Multimodal Atmospheric Super-Resolution With Deep Generative Models",
        authors=("Dibyajyoti Chakraborty", "Haiwen Guan", "Jason Stock", "Troy Arcomano", "Guido Cervone", "Romit Maulik"),
        year=2025,
        arxiv="2506.22780",
        home="inverse",
        call="rg.inverse.solve(denoiser, rg.operators.stack_measurements([coarse, sensors]), method='mmps', n=64)",
        test="tests/inverse/test_fusion.py::test_a_coarse_field_and_sensors_have_their_joint_posterior",
    )
)

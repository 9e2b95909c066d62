"""Volumes from a prior of their slices: total variation between the slices, by one set of ADMM steps at each level."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.carried import carried, into, out_of
from retrograde.denoisers.denoiser import NOTHING, checked_denoiser
from retrograde.errors import BadValue
from retrograde.guide import Transform
from retrograde.guide.branches import alone
from retrograde.inverse.method import Posed, Task, method
from retrograde.operators import Measurement, Slicewise, conjugate_gradients
from retrograde.recipes import plan

_SPLIT = "inverse/slices"


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Slices(AbstractDenoiser):
    """The denoiser of volumes [depth, *shape] whose slices are independent: each by the denoiser of one, all in one batch.

    One evaluation of a volume is one of each of its slices. The slices share the volume's conditions; what a transform of
    slices remembers it has of each alone, as of branches.
    """

    inner: AbstractDenoiser
    depth: int
    path: Any = dataclasses.field(init=False)
    shape: tuple[int, ...] = dataclasses.field(init=False)
    predicts: str = dataclasses.field(init=False, default="data")
    conditions: Mapping[str, Any] = dataclasses.field(init=False)
    consumes: frozenset[str] = dataclasses.field(init=False)
    name: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        inner = checked_denoiser(self.inner)
        if self.depth < 1:
            raise BadValue(f"depth={self.depth}", "one slice or more", "Slices(denoiser, 16)")
        for key in ("path", "conditions", "consumes", "name"):
            object.__setattr__(self, key, getattr(inner, key))
        object.__setattr__(self, "shape", (self.depth, *inner.shape))

    def network_time(self, t: float) -> float:
        return self.inner.network_time(t)

    def snap(self, t: float) -> float:
        return self.inner.snap(t)

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        slices = [f"slice{k}" for k in range(self.depth)]
        at = t.repeat(self.depth) if isinstance(t, Tensor) else t
        each = {key: torch.cat([value] * self.depth) for key, value in condition.items()}
        x = x_t.transpose(0, 1).flatten(0, 1)
        made = alone(self.inner.predict(x, at, each, into(knobs, slices), network_time), "a prior of slices")
        data = made.data.unflatten(0, (self.depth, -1)).transpose(0, 1).contiguous()
        left = {name: value for part in out_of(made.carried, slices) for name, value in part.items()}
        return Prediction(x_t, t, self.path, data, "data", evaluations=made.evaluations, carried=left)


def along(x: Tensor) -> Tensor:
    """Return the differences x_{k+1} - x_k of slices, [n, depth - 1, *slice], of volumes [n, depth, *slice]."""
    return x[:, 1:] - x[:, :-1]


def along_back(v: Tensor) -> Tensor:
    """Return the adjoint of `along`."""
    none = v.new_zeros(len(v), 1, *v.shape[2:])
    return torch.cat([none, v], 1) - torch.cat([v, none], 1)


def admm_step(
    measurement: Measurement, x: Tensor, split: Tensor, lam: float, rho: float, products: int
) -> tuple[Tensor, Tensor]:
    """Return x and the split variables after one step of ADMM on |y - A x|^2/2 + lam |along x|_1.

        x <- (A^T A + rho D^T D)^-1 (A^T y + rho D^T (z - w)), by so many products of conjugate gradients from x;
        z <- soft(D x + w, lam/rho);   w <- w + D x - z

    D is `along`, the split variables z and w are stacked, [n, 2, depth - 1, *slice]. With lam = 0 slices are alone, and
    those of a `Slicewise` operator are solved one by one.
    """
    A, b = measurement.linear, measurement.linear.adjoint(measurement.batch(x)).expand_as(x)
    if lam == 0.0:
        if isinstance(A, Slicewise):
            one = A.each
            made = conjugate_gradients(lambda v: one.adjoint(one(v)), b.flatten(0, 1), start=x.flatten(0, 1), most=products)
            return made.reshape(x.shape), split
        return conjugate_gradients(lambda v: A.adjoint(A(v)), b, start=x, most=products), split
    z, w = split.unbind(1)
    x = conjugate_gradients(
        lambda v: A.adjoint(A(v)) + rho * along_back(along(v)), b + rho * along_back(z - w), start=x, most=products
    )
    ahead = along(x) + w
    z = ahead.sign() * (ahead.abs() - lam / rho).clamp(min=0.0)
    return x, torch.stack([z, ahead - z], 1)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Coherent(Transform):
    """A denoiser whose data mean is led to y and to slices that agree, by `admm_step`; z and w stay from level to level."""

    measurement: Measurement
    lam: float
    rho: float
    products: int
    rounds: int
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
        data, depth = free.data, x_t.shape[1]
        split = carried(knobs).get(_SPLIT)
        if split is None:
            split = data.new_zeros(len(data), 2, depth - 1, *data.shape[2:])
        value = data
        for _ in range(self.rounds):
            value, split = admm_step(self.measurement, value, split, self.lam, self.rho, self.products)
        bare = dataclasses.replace(free, value=data, kind="data", parts={}, heads={}, exponents={})
        left = {**free.carried, _SPLIT: split}
        return dataclasses.replace(bare, value=value, parts={"free": bare}, exponents={"free": 1.0}, carried=left)


@method("mbir", "data consistency and total variation along the first axis by ADMM, warm from level to level; linear")
def mbir(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    task: Task,
    lam: float = 0.04,
    rho: float = 10.0,
    products: int = 5,
    rounds: int = 1,
    eta: float = 0.85,
) -> Posed:
    """DiffusionMBIR: volumes from a network of slices, which only the measurement and total variation between them join.

        D' = `rounds` steps of ADMM from D on |y - A x|^2/2 + lam sum_k |x_{k+1} - x_k|_1,  along the items' first axis

    The network of a slice becomes one of volumes by `Slices`. z and w are kept from level to level, so that one step of few
    products is enough; conjugate gradients begin at D, and what y and the differences leave open stays the network's. (The
    paper steps from the state after the row; here from the data mean.) With lam = 0 slices do not see each other.

    Args:
        lam, rho: weight of the total variation; the penalty of ADMM.
        products: of conjugate gradients in a step.
        eta: of DDIM's rows.

    Reference: Chung, Ryu, Mccann, Klasky and Ye, Solving 3D Inverse Problems using Pre-trained 2D Diffusion Models, 2022,
    arXiv 2211.10655.
    """
    if not lam >= 0.0 or not rho > 0.0 or products < 1 or rounds < 1:
        given = f"lam={lam}, rho={rho}, products={products}, rounds={rounds}"
        raise BadValue(given, "lam >= 0, rho > 0, one product and round or more", "lam=0.04, rho=10.0, products=5")
    _ = measurement.linear
    table = plan("ddim", denoiser, nfe=task.nfe, grid=task.grid, eta=eta)
    return Posed(Coherent(denoiser, measurement, lam, rho, products, rounds), table)


systems.register(
    systems.System(
        title="Solving 3D Inverse Problems using Pre-trained 2D Diffusion Models",
        authors=("Hyungjin Chung", "Dohoon Ryu", "Michael T. Mccann", "Marc L. Klasky", "Jong Chul Ye"),
        year=2022,
        arxiv="2211.10655",
        home="inverse",
        call="rg.inverse.solve(rg.inverse.Slices(denoiser, 16), measurement, method='mbir', n=1, nfe=100)",
        test="tests/inverse/test_volume.py::test_slices_that_agree_are_nearer_than_slices_alone_and_than_no_prior",
    )
)

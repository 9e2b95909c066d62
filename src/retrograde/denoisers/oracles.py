"""Denoisers in closed form: Gaussian, Gaussian mixture, finite data set. The judge of everything else.

If x_0 ~ sum_k w_k N(mu_k, C_k), then x_t - b y ~ sum_k w_k N(a mu_k, a^2 C_k + s^2 I) on every path, and given component
k the pair (x_0, eps) is Gaussian, so that every prediction is exact, also at both ends of the path.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from retrograde.denoisers.anchor import ANCHOR, anchor_of
from retrograde.denoisers.coupled import Coupled, independent
from retrograde.denoisers.denoiser import NOTHING, AbstractDenoiser
from retrograde.denoisers.poisson import PoissonData
from retrograde.denoisers.prediction import KINDS, Prediction, combination
from retrograde.errors import BadValue, ShapeError, UnknownName
from retrograde.paths import Path, checked

if TYPE_CHECKING:
    from retrograde.denoisers.degraded import Degraded

__all__ = ["Coupled", "FiniteData", "Gaussian", "GaussianMixture", "PoissonData", "independent"]

_LEAST = 1e-30


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with 0 where the denominator is 0: the limit for a component without spread at a level without noise."""
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1.0), 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianMixture(AbstractDenoiser):
    """The exact denoiser of data drawn from sum_k w_k N(mu_k, C_k).

    Covariances have the form C_k = U_k diag(variances_k) U_k^T + floor_k (I - U_k U_k^T) with orthonormal U_k [d, r]:
    r = d is a full covariance, r = 0 an isotropic one. Everything is computed in float64 and returned in x_t's type.

    Args:
        path: any path.
        means: [K, *shape].
        covariances: [K, d, d] full, [K, d] diagonal, [K] or a number isotropic; or a tuple (U [K, d, r],
            variances [K, r], floor [K]) low-rank.
        weights: [K], positive; normalized here. Equal when left out.
        labels: for each component a class; with them the denoiser takes the condition "label" (null value -1, all).
        predicts: the parameterization it answers in; an anchor y may be any, the data do not depend on it.

    Raises:
        ShapeError: shapes that do not fit.
        BadValue: a weight that is not positive, a covariance that is not positive semi-definite.
    """

    path: Path
    means: Tensor
    covariances: Any
    weights: Any = None
    labels: Sequence[int] | None = None
    predicts: str = "data"
    name: str = "mixture"
    consumes: frozenset[str] = frozenset()
    shape: tuple[int, ...] = dataclasses.field(init=False)
    conditions: Mapping[str, Any] = dataclasses.field(init=False)
    log_weights: Tensor = dataclasses.field(init=False, repr=False)
    factors: tuple[Tensor, Tensor, Tensor] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.predicts not in (kinds := (*KINDS, *checked(self.path).targets)):
            raise UnknownName("prediction", self.predicts, kinds)
        if math.isfinite(self.path.degrees):
            raise BadValue(
                f"an oracle of Gaussian noise on path {self.path.name!r}, whose noise is not",
                "a path with Gaussian noise",
                "oracles.PoissonData(path, points), or the path with degrees=inf",
            )
        means = torch.as_tensor(self.means).double()
        if means.ndim < 2:
            raise ShapeError(f"means of shape {list(means.shape)}", "[K, *shape]", "add the axis of components: means[None]")
        n = means.shape[0]
        weights = torch.ones(n) if self.weights is None else torch.as_tensor(self.weights)
        if weights.shape != (n,) or not bool((weights > 0).all()):
            raise BadValue(f"weights {weights.tolist()[:5]}", f"{n} positive numbers", "leave out components of weight 0")
        if self.labels is not None and len(self.labels) != n:
            raise ShapeError(f"{len(self.labels)} labels", f"one for each of {n} components", "label every component")
        derived = {
            "means": means,
            "shape": tuple(means.shape[1:]),
            "log_weights": (weights.double() / weights.double().sum()).log(),
            "factors": _factorize(self.covariances, n, means[0].numel()),
            "conditions": {} if self.labels is None else {"label": -1},
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def network_time(self, t: float) -> float:
        return t

    def snap(self, t: float) -> float:
        return t

    def _flat(self, x_t: Tensor) -> Tensor:
        if tuple(x_t.shape[1:]) != self.shape:
            raise ShapeError(
                f"x_t of shape {list(x_t.shape)}",
                f"[batch, {', '.join(map(str, self.shape))}]",
                "reshape it to the means",
            )
        return x_t.double().reshape(x_t.shape[0], -1)

    def _coefficients(self, t: float | Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """a and s as float64 tensors [batch or 1, 1, 1]."""
        exact = torch.as_tensor(t, dtype=torch.float64, device=device).reshape(-1)
        if isinstance(t, Tensor):
            return self.path.a(exact)[:, None, None], self.path.s(exact)[:, None, None]
        a, s = self.path.a(t), self.path.s(t)
        return exact.new_full((1, 1, 1), a), exact.new_full((1, 1, 1), s)

    def _components(self, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log N(x; a mu_k, a^2 C_k + s^2) [n, K], coordinates z = U^T (x - a mu) [n, K, r], variances [n, K, r+1].

        The last column of the variances belongs to the directions outside U. In the density no variance is below
        `_LEAST`: without noise, components without spread share the posterior as in the limit, to the nearest.
        """
        basis, variances, floor = (f.to(x.device) for f in self.factors)
        means = self.means.to(x.device).flatten(1)
        d, r = basis.shape[1:]
        z = torch.einsum("nd,kdr->nkr", x, basis) - a * torch.einsum("kd,kdr->kr", means, basis)
        spread = a * a * torch.cat([variances, floor[:, None]], dim=1) + s * s
        width = spread.clamp(min=_LEAST)
        log_density = -0.5 * (z * z / width[..., :r] + width[..., :r].log()).sum(-1)
        if r < d:
            scale = a[..., 0]
            square = (x * x).sum(-1, keepdim=True) - 2 * scale * (x @ means.T) + scale**2 * (means * means).sum(-1)
            rest = (square - (z * z).sum(-1)).clamp(min=0.0)
            log_density = log_density - 0.5 * (rest / width[..., r] + (d - r) * width[..., r].log())
        return log_density - 0.5 * d * math.log(2 * math.pi), z, spread

    def _centred(self, x_t: Tensor, t: float | Tensor, anchor: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return x_t - b y and y, flat float64: without its anchor's share the state is that of an ordinary path."""
        x = self._flat(x_t)
        if anchor is None:
            return x, None
        y = self._flat(anchor.to(x_t.device))
        per_item: Any = t.double()[:, None] if isinstance(t, Tensor) else t
        return x - self.path.b(per_item) * y, y

    def _posterior_weights(self, log_density: Tensor, label: Tensor | None) -> Tensor:
        joint = self.log_weights.to(log_density.device) + log_density
        if label is not None and self.labels is not None:
            own = torch.as_tensor(list(self.labels), device=joint.device) == label[:, None]
            joint = joint.masked_fill(~(own | (label < 0)[:, None]), -math.inf)
        return torch.softmax(joint, dim=-1)

    def _mean(self, x: Tensor, weights: Tensor, z: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """Return sum_k weights_k [shift_k mu_k + gain_0k (x - ...) + U_k (gain_k - gain_0k) z_k]: linear in x and mu."""
        basis = self.factors[0].to(x.device)
        means = self.means.to(x.device).flatten(1)
        outside = gain[..., -1] * weights
        result = outside.sum(-1, keepdim=True) * x + (weights * shift) @ means
        inner = weights[..., None] * (gain[..., :-1] - gain[..., -1:]) * z
        return result + torch.einsum("nkr,kdr->nd", inner, basis) if basis.shape[-1] else result

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        anchor = anchor_of(self.path, condition)
        x, y = self._centred(x_t, t, anchor)
        a, s = self._coefficients(t, x.device)
        log_density, z, spread = self._components(x, a, s)
        weights = self._posterior_weights(log_density, condition.get("label"))
        value = self._exact(self.predicts, t, x, y, a, s, z, spread, weights)
        value = value.to(x_t.dtype).reshape(x_t.shape)
        return Prediction(x_t, t, self.path, value, self.predicts, evaluations={self.name: 1}, anchor=anchor)

    def _exact(
        self,
        kind: str,
        t: float | Tensor,
        x: Tensor,
        y: Tensor | None,
        a: Tensor,
        s: Tensor,
        z: Tensor,
        spread: Tensor,
        weights: Tensor,
    ) -> Tensor:
        scale = a[..., 0]
        own = torch.cat([self.factors[1], self.factors[2][:, None]], dim=1).to(x.device)
        # where U spans everything there is no outside; its column, 1/s^2, would only cancel and cost digits
        used = torch.ones_like(spread)
        if z.shape[-1] == x.shape[-1]:
            used[..., -1] = 0.0
            spread = torch.where(used > 0, spread, 1.0)

        def data() -> Tensor:
            gain = _ratio(a * own * used, spread)
            return self._mean(x, weights, z, gain, 1.0 - scale * gain[..., -1])

        def noise() -> Tensor:
            gain = _ratio(s * used, spread)
            return self._mean(x, weights, z, gain, -scale * gain[..., -1])

        match kind:
            case "data":
                return data()
            case "noise":
                return noise()
            case "score":
                gain = -(used / spread)
                return self._mean(x, weights, z, gain, -scale * gain[..., -1])
            case "v":
                return scale * noise() - s[..., 0] * data()
        per_item: Any = t.double()[:, None] if isinstance(t, Tensor) else t
        p, q, r = combination(self.path, per_item, kind)
        value = cast(Tensor, p * data() + q * noise())
        return value if y is None else value + r * y

    def log_prob(self, x_t: Tensor, t: float | Tensor, anchor: Tensor | None = None) -> Tensor:
        """Return log p_t(x_t) in nats, [batch] float64, for x_t [batch, *shape] (and y alike, on an anchored path)."""
        x, _ = self._centred(x_t, t, anchor_of(self.path, {ANCHOR: anchor}))
        log_density = self._components(x, *self._coefficients(t, x.device))[0]
        return torch.logsumexp(self.log_weights.to(x.device) + log_density, dim=-1)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Draw n items of the data, [n, *shape] float64."""
        generator = torch.Generator().manual_seed(seed)
        basis, variances, floor = self.factors
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        white = torch.randn(n, basis.shape[1], dtype=torch.float64, generator=generator)
        inside = torch.einsum("ndr,nd->nr", basis[k], white)
        scale = variances[k].sqrt() - floor[k].sqrt()[:, None]
        x = (
            self.means.flatten(1)[k]
            + floor[k].sqrt()[:, None] * white
            + torch.einsum("ndr,nr->nd", basis[k], scale * inside)
        )
        return x.reshape(n, *self.shape)

    def covariance(self) -> Tensor:
        """Return the covariances of the components, [K, d, d]."""
        basis, variances, floor = self.factors
        d = basis.shape[1]
        excess = torch.einsum("kdr,kr,ker->kde", basis, variances - floor[:, None], basis)
        return excess + floor[:, None, None] * torch.eye(d, dtype=torch.float64)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean [d] and covariance [d, d] of the data."""
        weights, means = self.log_weights.exp(), self.means.flatten(1)
        mean = weights @ means
        centred = means - mean
        within = torch.einsum("k,kde->de", weights, self.covariance())
        return mean, within + torch.einsum("k,kd,ke->de", weights, centred, centred)

    def posterior(self, operator: Tensor, y: Tensor, noise_std: float) -> GaussianMixture:
        """Return the exact denoiser of x_0 given y = A x_0 + noise_std n, n standard normal.

        Args:
            operator: A, [m, d].
            y: the measurement, [m].
        """
        A, y = operator.double(), y.double()
        means, covariances = self.means.flatten(1), self.covariance()
        S = A @ covariances @ A.T + noise_std**2 * torch.eye(A.shape[0], dtype=torch.float64)
        gain = torch.linalg.solve(S, A @ covariances).transpose(1, 2)
        innovation = y - means @ A.T
        evidence = torch.distributions.MultivariateNormal(torch.zeros(A.shape[0], dtype=torch.float64), S)
        posterior = covariances - gain @ A @ covariances
        return dataclasses.replace(
            self,
            means=(means + torch.einsum("kdm,km->kd", gain, innovation)).reshape(-1, *self.shape),
            covariances=0.5 * (posterior + posterior.transpose(1, 2)),
            weights=torch.softmax(self.log_weights + evidence.log_prob(innovation), 0).clamp(min=1e-300),
        )

    def degraded(self, operator: Tensor, noise_std: float, *, predicts: str = "data") -> Degraded:
        """Return the exact denoiser of x_0 given the path's anchor y = A x_0 + noise_std n, one anchor per item.

        Args:
            operator: A, [d, d].
        """
        from retrograde.denoisers.degraded import Degraded

        return Degraded(self, operator, noise_std, predicts)

    def flow(self, x_t: Tensor, t: float, s: float | None, anchor: Tensor | None = None) -> Tensor:
        """Return where the probability flow carries x_t from time t to time s (None: to the data), exactly.

        Only a single Gaussian has it in closed form: along each principal axis the distance to the mean scales with the
        standard deviation.

        Raises:
            BadValue: the mixture has more than one component.
        """
        if self.means.shape[0] != 1:
            raise BadValue(f"a mixture of {self.means.shape[0]} components", "one", "integrate with a fine plan instead")
        x, y = self._centred(x_t, t, anchor_of(self.path, {ANCHOR: anchor}))
        (a_t, s_t), (a_s, s_s) = self._levels(t), (1.0, 0.0) if s is None else self._levels(s)
        basis, variances, floor = (f[0].to(x.device) for f in self.factors)

        def scale(variance: Tensor) -> Tensor:
            return ((a_s**2 * variance + s_s**2) / (a_t**2 * variance + s_t**2)).sqrt()

        mean = self.means.to(x.device).flatten(1)
        centred = x - a_t * mean
        moved = scale(floor) * centred + ((centred @ basis) * (scale(variances) - scale(floor))) @ basis.T
        moved = a_s * mean + moved
        if y is not None and s is not None:
            moved = moved + self.path.b(s) * y
        return moved.to(x_t.dtype).reshape(x_t.shape)

    def _levels(self, t: float) -> tuple[float, float]:
        return self.path.a(t), self.path.s(t)


def _factorize(covariances: Any, n: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (U [n, d, r], variances [n, r], floor [n]) of any accepted form of covariance."""
    if isinstance(covariances, tuple):
        basis, variances, floor = (torch.as_tensor(c).double() for c in covariances)
        gram = basis.transpose(1, 2) @ basis
        if not torch.allclose(gram, torch.eye(gram.shape[-1], dtype=torch.float64).expand_as(gram), atol=1e-6):
            raise BadValue("a low-rank basis with U^T U != I", "orthonormal columns", "pass torch.linalg.qr(U)[0]")
        return basis, variances, floor.expand(n)
    given = torch.as_tensor(covariances).double()
    if given.ndim <= 1 and given.numel() in (1, n):
        return given.new_zeros(n, d, 0), given.new_zeros(n, 0), _positive(given.reshape(-1).expand(n))
    if given.shape == (n, d):
        return torch.eye(d, dtype=torch.float64).expand(n, d, d), _positive(given), given.new_zeros(n)
    if given.shape == (n, d, d):
        variances, basis = torch.linalg.eigh(given)
        tolerance = 1e-9 * variances.abs().amax(-1, keepdim=True)
        return basis, _positive(torch.where(variances.abs() < tolerance, 0.0, variances)), given.new_zeros(n)
    raise ShapeError(
        f"covariances of shape {list(given.shape)} for {n} components in {d} dimensions",
        f"a number, [{n}], [{n}, {d}], [{n}, {d}, {d}] or a low-rank tuple",
        f"expand it to [{n}, ...]",
    )


def _positive(variances: Tensor) -> Tensor:
    if bool((variances < 0).any()):
        raise BadValue(
            f"a variance of {float(variances.min()):.3g}", "variances >= 0", "symmetrize, then clamp the spectrum"
        )
    return variances


def Gaussian(path: Path, mean: Tensor, covariance: Any, *, predicts: str = "data") -> GaussianMixture:
    """Return the exact denoiser of N(mean, covariance): mean [*shape], covariance a number, [d] or [d, d]."""
    given = torch.as_tensor(covariance).double()
    return GaussianMixture(path, torch.as_tensor(mean)[None], given[None], predicts=predicts, name="gaussian")


def FiniteData(
    path: Path, points: Tensor, *, labels: Sequence[int] | None = None, predicts: str = "data"
) -> GaussianMixture:
    """Return the exact denoiser of a finite data set, points [n, *shape]: what a network that memorized it would say."""
    return GaussianMixture(path, points, 0.0, labels=labels, predicts=predicts, name="finite_data")


def product(models: Sequence[GaussianMixture], exponents: Sequence[float] | None = None) -> GaussianMixture:
    """Return the exact denoiser of the product of powers prod_i q_i^{w_i} of mixtures, from which one can also draw.

    A product of experts, an annealed law (whole powers), the law that guidance names between Gaussians (any powers): what
    `guide.product` aims at, whose noised laws are not the product of the noised ones. On the first model's path.

    Args:
        exponents: w, one each where left out. Whole numbers from 0; any numbers of a mixture of one component.

    Raises:
        BadValue: other exponents, a product without a norm, components without spread, or too many of them.
        ShapeError: items of different shapes.
    """
    from retrograde.denoisers.multiplied import multiplied

    exponents = [1.0] * len(models) if exponents is None else exponents
    if not models or len(exponents) != len(models):
        given = f"{len(models)} models, {len(exponents)} exponents"
        raise BadValue(given, "as many exponents as models, at least one", "product([one, other], [1, 2])")
    return multiplied(models, exponents)

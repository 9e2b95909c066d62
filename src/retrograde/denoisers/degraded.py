"""The exact denoiser of data that is known through a degraded copy, the anchor of the path."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from retrograde.denoisers.anchor import anchor_of, given_anchor
from retrograde.denoisers.denoiser import NOTHING, AbstractDenoiser
from retrograde.denoisers.oracles import GaussianMixture
from retrograde.denoisers.prediction import KINDS, Prediction, combination
from retrograde.errors import PlanError, ShapeError, UnknownName
from retrograde.paths import Path


@dataclasses.dataclass(frozen=True, eq=False)
class Degraded(AbstractDenoiser):
    """The exact denoiser of x_0 given the anchor y = A x_0 + noise_std n, for x_0 from a Gaussian mixture.

    Given y, component k is N(mu_k + G_k (y - A mu_k), C_k - G_k A C_k) with the gain G_k = C_k A^T S_k^-1, S_k = A C_k A^T +
    noise_std^2 I, and its weight is w_k N(y; A mu_k, S_k). On an anchored path x_t - b y is then a scaled x_0 and noise.

    Args:
        prior: the mixture, on the anchored path.
        operator: A, [d, d]: the anchor is shaped as the data.
        noise_std: standard deviation of the noise in y, positive unless A is invertible.
        predicts: the parameterization it answers in.

    Raises:
        PlanError: the path has no anchor.
        ShapeError: an operator that is not [d, d].
    """

    prior: GaussianMixture
    operator: Tensor
    noise_std: float
    predicts: str = "data"
    name: str = "degraded"
    consumes: frozenset[str] = frozenset()
    path: Path = dataclasses.field(init=False)
    shape: tuple[int, ...] = dataclasses.field(init=False)
    conditions: Mapping[str, Any] = dataclasses.field(init=False)
    known: tuple[Tensor, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        path, A = self.prior.path, torch.as_tensor(self.operator).double()
        if not path.anchored:
            raise PlanError(f"degraded data on path {path.name!r}", "an anchored path", "retrograde.paths.ResidualShift()")
        if self.predicts not in (kinds := (*KINDS, *path.targets)):
            raise UnknownName("prediction", self.predicts, kinds)
        means, covariances = self.prior.means.flatten(1), self.prior.covariance()
        d = means.shape[1]
        if A.shape != (d, d):
            raise ShapeError(f"an operator of shape {list(A.shape)}", f"[{d}, {d}]", "fill it with zero rows")
        S = A @ covariances @ A.T + self.noise_std**2 * torch.eye(d, dtype=torch.float64)
        gain = torch.linalg.solve(S, A @ covariances).transpose(1, 2)
        rest = covariances - gain @ A @ covariances
        variances, basis = torch.linalg.eigh(0.5 * (rest + rest.transpose(1, 2)))
        known = (A, gain, torch.linalg.cholesky(S), variances.clamp(min=0.0), basis)
        for name, value in (("path", path), ("shape", self.prior.shape), ("conditions", {}), ("known", known)):
            object.__setattr__(self, name, value)

    def network_time(self, t: float) -> float:
        return t

    def snap(self, t: float) -> float:
        return t

    def given(self, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-weights [n, K] and means [n, K, d] of the components given y [n, *shape]."""
        A, gain, root, _, _ = self.known
        innovation = anchor.double().flatten(1)[:, None] - self.prior.means.flatten(1) @ A.T
        evidence = torch.distributions.MultivariateNormal(torch.zeros(len(A), dtype=torch.float64), scale_tril=root)
        means = self.prior.means.flatten(1) + torch.einsum("kde,nke->nkd", gain, innovation)
        return torch.log_softmax(self.prior.log_weights + evidence.log_prob(innovation), -1), means

    def posterior(self, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean [n, d] and covariance [n, d, d] of the data given y [n, *shape]."""
        log_weights, means = self.given(anchor)
        weights, (*_, variances, basis) = log_weights.exp(), self.known
        mean = torch.einsum("nk,nkd->nd", weights, means)
        within = torch.einsum("nk,kde,ke,kfe->ndf", weights, basis, variances, basis)
        centred = means - mean[:, None]
        return mean, within + torch.einsum("nk,nkd,nke->nde", weights, centred, centred)

    def draw(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Draw n pairs of data and anchor, each [n, *shape] float64."""
        x = self.prior.sample(n, seed)
        noise = torch.randn(n, len(self.operator), dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
        return x, (x.flatten(1) @ self.known[0].T + self.noise_std * noise).reshape(x.shape)

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        y = given_anchor(self.path, anchor_of(self.path, condition))
        per_item: Any = t.double()[:, None] if isinstance(t, Tensor) else t
        a, s = (torch.as_tensor(c, dtype=torch.float64) for c in (self.path.a(per_item), self.path.s(per_item)))
        log_weights, means = self.given(y)
        *_, variances, basis = self.known
        x = x_t.double().flatten(1) - self.path.b(per_item) * y.double().flatten(1)
        a, s = a[..., None], s[..., None]
        z = torch.einsum("nkd,kde->nke", x[:, None] - a * means, basis)
        spread = (a * a * variances + s * s).clamp(min=1e-30)
        weights = torch.softmax(log_weights - 0.5 * (z * z / spread + spread.log()).sum(-1), -1)
        data = torch.einsum("nk,nkd->nd", weights, means + torch.einsum("kde,nke->nkd", basis, a * variances / spread * z))
        noise = torch.einsum("nk,kde,nke->nd", weights, basis, s / spread * z)
        p, q, r = combination(self.path, per_item, self.predicts)
        value = (p * data + q * noise + r * y.double().flatten(1)).to(x_t.dtype).reshape(x_t.shape)
        return Prediction(x_t, t, self.path, value, self.predicts, evaluations={self.name: 1}, anchor=y)

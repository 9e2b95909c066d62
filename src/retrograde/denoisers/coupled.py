"""Denoisers between two laws, neither end known: exact for Gaussian mixtures, and the adapter of a two-headed network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.denoiser import NOTHING, AbstractDenoiser
from retrograde.denoisers.prediction import KINDS, Prediction
from retrograde.errors import ShapeError, UnknownName
from retrograde.paths import Path

if TYPE_CHECKING:
    from retrograde.denoisers.oracles import GaussianMixture


@dataclasses.dataclass(frozen=True, eq=False)
class Coupled(AbstractDenoiser):
    """The exact denoiser of x_t = a x_0 + b y + s eps where pairs (x_0, y) are a Gaussian mixture, and y is not known.

    Component k has the mean (mu_k, nu_k) and the joint covariance C_k, so any Gaussian coupling fits: independent laws
    (`independent`), or the pairs that a flow has joined. It answers with the means of data and of noise. Computed in
    float64.

    Args:
        path: an anchored path, such as `paths.Interpolant()`.
        means: [K, 2, *shape], data first.
        covariances: [K, 2 d, 2 d].
        weights: [K], positive; equal when left out.

    Raises:
        ShapeError: shapes that do not fit.
    """

    path: Path
    means: Tensor
    covariances: Tensor
    weights: Any = None
    predicts: str = "data"
    name: str = "coupled"
    consumes: frozenset[str] = frozenset()
    conditions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shape: tuple[int, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        means, covariances = torch.as_tensor(self.means).double(), torch.as_tensor(self.covariances).double()
        size = means[0].numel() if means.ndim > 2 else 0
        if means.ndim < 3 or means.shape[1] != 2 or covariances.shape != (len(means), size, size):
            raise ShapeError(
                f"means {list(means.shape)} and covariances {list(covariances.shape)}",
                "[K, 2, *shape] and [K, 2 d, 2 d]",
                "stack the means of data and start: torch.stack([mu, nu], 1)",
            )
        weights = torch.ones(len(means)) if self.weights is None else torch.as_tensor(self.weights)
        derived = {"means": means, "covariances": covariances, "weights": weights.double() / weights.double().sum()}
        for name, value in (derived | {"shape": tuple(means.shape[2:])}).items():
            object.__setattr__(self, name, value)

    def network_time(self, t: float) -> float:
        return t

    def snap(self, t: float) -> float:
        return t

    def _at(self, x_t: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log w_k p_k(x) [n, K], M^-1 (x - m) [n, K, d], a C_00 + b C_01 [., K, d, d] and s [., 1, 1, 1]."""
        if tuple(x_t.shape[1:]) != self.shape:
            given = f"x_t of shape {list(x_t.shape)}"
            raise ShapeError(given, f"[batch, {', '.join(map(str, self.shape))}]", "reshape it to the means")
        x = x_t.double().flatten(1)
        d = x.shape[1]
        at = torch.as_tensor(t, dtype=torch.float64, device=x.device).reshape(-1, 1, 1, 1)
        a, b, s = self.path.a(at), self.path.b(at), self.path.s(at)
        mu, nu = (m.to(x.device) for m in self.means.flatten(2).unbind(1))
        joint = self.covariances.to(x.device)
        own, cross, other = joint[:, :d, :d], joint[:, :d, d:], joint[:, d:, d:]
        mixed = a * b * (cross + cross.transpose(1, 2))
        spread = a * a * own + mixed + b * b * other + s * s * torch.eye(d, dtype=torch.float64, device=x.device)
        off = x[:, None] - (a[..., 0] * mu + b[..., 0] * nu)
        root = torch.linalg.cholesky(spread).expand(len(x), -1, -1, -1)
        solved = torch.cholesky_solve(off[..., None], root)[..., 0]
        log_det = 2.0 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log = self.weights.to(x.device).log() - 0.5 * ((off * solved).sum(-1) + log_det + d * math.log(2 * math.pi))
        return log, solved, a * own + b * cross, s

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        log, solved, gain, s = self._at(x_t, t)
        share = torch.softmax(log, -1)[..., None]
        mu = self.means.flatten(2)[:, 0].to(x_t.device)
        data = (share * (mu + (gain @ solved[..., None])[..., 0])).sum(1)
        noise = s[..., 0, 0] * (share * solved).sum(1)
        data, noise = (m.to(x_t.dtype).reshape(x_t.shape) for m in (data, noise))
        return Prediction(x_t, t, self.path, data, "data", evaluations={self.name: 1}, heads={"noise": noise})

    def log_prob(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return log p_t(x_t) in nats, [batch] float64."""
        return torch.logsumexp(self._at(x_t, t)[0], -1)

    def sample(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Draw n pairs of data and start, each [n, *shape] float64."""
        generator = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        values, basis = torch.linalg.eigh(self.covariances)
        root = basis * values.clamp(min=0.0).sqrt()[:, None]
        white = torch.randn(n, root.shape[-1], dtype=torch.float64, generator=generator)
        pairs = self.means.flatten(1)[k] + (root[k] @ white[..., None])[..., 0]
        data, start = pairs.reshape(n, 2, *self.shape).unbind(1)
        return data, start


def independent(path: Path, data: GaussianMixture, start: GaussianMixture) -> Coupled:
    """Return the exact denoiser between two mixtures that are drawn independently of each other."""
    pairs = torch.cartesian_prod(torch.arange(len(data.means)), torch.arange(len(start.means)))
    means = torch.stack([data.means[pairs[:, 0]], start.means[pairs[:, 1]]], 1)
    own, other = data.covariance()[pairs[:, 0]], start.covariance()[pairs[:, 1]]
    covariances = torch.stack([torch.block_diag(x, y) for x, y in zip(own, other, strict=True)])
    weights = data.log_weights.exp()[pairs[:, 0]] * start.log_weights.exp()[pairs[:, 1]]
    return Coupled(path, means, covariances, weights)


@dataclasses.dataclass(frozen=True, eq=False)
class TwoHeads(AbstractDenoiser):
    """A network between two laws that answers with two quantities, such as the drift and the noise.

    The network is called as network(x_t, network_time, **conditions) and returns two tensors shaped as x_t. It is not told
    where a sample started.

    Args:
        network: any callable.
        path: the path it was trained on.
        shape: shape of one item.
        answers: what the two are: two of "data", "noise", "score", "velocity".
        conditions: names of the network's keywords, each with its null value.

    Raises:
        UnknownName: another quantity.

    Reference: Albergo, Boffi, Vanden-Eijnden, 2023, arXiv 2303.08797 (b and eta).
    """

    network: Callable[..., tuple[Tensor, Tensor]]
    path: Path
    shape: tuple[int, ...]
    answers: tuple[str, str] = ("velocity", "noise")
    conditions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: str = "network"
    consumes: frozenset[str] = frozenset()
    predicts: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        for answer in self.answers:
            if answer not in KINDS:
                raise UnknownName("answer", answer, KINDS)
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "predicts", self.answers[0])

    def network_time(self, t: float) -> float:
        return t

    def snap(self, t: float) -> float:
        return t

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        told: Any = network_time if network_time is not None else t
        times = told.float() if isinstance(told, Tensor) else torch.full((len(x_t),), told, device=x_t.device)
        own = {name: value for name, value in condition.items() if name != ANCHOR}
        outputs = self.network(x_t, times, **own)
        if any(output.shape != x_t.shape for output in outputs):
            shapes = [list(output.shape) for output in outputs]
            raise ShapeError(f"outputs of shapes {shapes} from {self.name!r}", f"two of {list(x_t.shape)}", "return both")
        first, second = (output.to(x_t.dtype) for output in outputs)
        kind, head = self.answers
        return Prediction(x_t, t, self.path, first, kind, evaluations={self.name: 1}, heads={head: second})

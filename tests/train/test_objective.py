"""The objective against exact answers: its minimiser is the conditional mean, for every path and parameterization."""

import numpy as np
import pytest
import torch
from torch import nn

from retrograde import paths
from retrograde.denoisers import Denoiser, Prediction
from retrograde.errors import PlanError, ShapeError, UnknownName
from retrograde.train import loss, question

KINDS = ("data", "noise", "score", "v", "velocity", "edm")
MEASURES = ("data", "noise", "score", "v", "velocity")
PATHS = {
    "vp": paths.VP(),
    "vp_cosine": paths.VPCosine(),
    "edm": paths.EDM(),
    "flow": paths.Flow(),
    "trigonometric": paths.Trigonometric(),
}
ANCHORED = {"mean_reverting": paths.MeanReverting(), "residual_noise": paths.ResidualNoise(), "offset": paths.Offset()}
MEAN, STD = 0.7, 0.4


class Affine(nn.Module):
    """F(x) = w x + b."""

    def __init__(self, w: float, b: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x: torch.Tensor, t: torch.Tensor, anchor: torch.Tensor | None = None) -> torch.Tensor:
        return self.w * x + self.b


def quadrature() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Nodes x_0, eps [n, 1] and weights [n] that integrate the quadratic loss over N(MEAN, STD^2) x N(0, 1) exactly."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    weights = weights / weights.sum()
    z, eps = np.meshgrid(nodes, nodes, indexing="ij")
    both = np.outer(weights, weights)
    x_0 = MEAN + STD * z
    return torch.tensor(x_0.reshape(-1, 1)), torch.tensor(eps.reshape(-1, 1)), torch.tensor(both.ravel())


ASKED = [(name, path, kind) for name, path in (PATHS | ANCHORED).items() for kind in (*KINDS, *path.targets)]


@pytest.mark.parametrize(("path", "kind"), [one[1:] for one in ASKED], ids=[f"{name}-{kind}" for name, _, kind in ASKED])
def test_linear_minimiser_is_the_conditional_mean(path: paths.Path, kind: str) -> None:
    x_0, eps, weights = quadrature()
    y = torch.full_like(x_0, -1.3) if path.anchored else None
    t = path.time_of_sigma(0.8)
    times = torch.full((len(x_0),), t, dtype=torch.float64)

    def gradient(w: float, b: float) -> tuple[torch.Tensor, Affine]:
        network = Affine(w, b)
        value = (loss(Denoiser(network, path, kind, (1,)), x_0, times, eps, anchor=y) * weights).sum()
        return torch.stack(torch.autograd.grad(value, list(network.parameters()))), network

    # The loss is quadratic in (w, b): one Newton step from the origin is its minimiser.
    at_origin, _ = gradient(0.0, 0.0)
    hessian = torch.stack([gradient(1.0, 0.0)[0] - at_origin, gradient(0.0, 1.0)[0] - at_origin], dim=1)
    w, b = torch.linalg.solve(hessian, -at_origin).tolist()
    fitted = Denoiser(Affine(w, b), path, kind, (1,))

    x_t = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    a_t, s_t = path.a(t), path.s(t)
    beside = {} if y is None else {"anchor": y[:7]}
    exact = MEAN + a_t * STD**2 / (a_t**2 * STD**2 + s_t**2) * (x_t + 1.3 * path.b(t) - a_t * MEAN)
    torch.testing.assert_close(fitted(x_t, t, **beside).data, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", PATHS)
def test_gradients_agree_where_the_same_error_is_measured(name: str, measure: str) -> None:
    path = PATHS[name]
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    eps = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    t = path.time_of_sigma(0.6)
    times = torch.full((6,), t, dtype=torch.float64)
    gradients = {}
    for kind in KINDS:
        theta = torch.tensor([0.3, 0.1], dtype=torch.float64, requires_grad=True)

        def network(x: torch.Tensor, told: torch.Tensor, kind: str = kind, theta: torch.Tensor = theta) -> torch.Tensor:
            """Say D = theta_0 x_t + theta_1 in the words of `kind`."""
            if kind == "edm":
                sigma, d = path.sigma(t), 0.5
                norm = (sigma**2 + d**2) ** 0.5
                x_t = x * norm * path.a(t)
                return (theta[0] * x_t + theta[1] - (d / norm) ** 2 * x * norm) / (sigma * d / norm)
            return Prediction(x, t, path, theta[0] * x + theta[1], "data").read(kind)

        value = loss(Denoiser(network, path, kind, (3,)), x_0, times, eps, measure=measure).sum()
        (gradients[kind],) = torch.autograd.grad(value, theta)
    for kind in KINDS:
        torch.testing.assert_close(gradients[kind], gradients["data"], rtol=1e-8, atol=1e-10)


def test_usual_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    path, t = paths.VP(), torch.tensor([0.05, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)

    def silent(x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)

    def found(kind: str, on: paths.Path = path) -> torch.Tensor:
        return loss(Denoiser(silent, on, kind, (2,)), x_0, t, eps)

    torch.testing.assert_close(found("noise"), eps.square().mean(1))
    torch.testing.assert_close(found("score"), eps.square().mean(1))
    torch.testing.assert_close(found("data"), x_0.square().mean(1))
    torch.testing.assert_close(found("velocity", paths.Flow()), (eps - x_0).square().mean(1))
    v = path.a(t)[:, None] * eps - path.s(t)[:, None] * x_0
    torch.testing.assert_close(found("v"), v.square().mean(1))
    # Unit-weighted F: the data-mean error times (sigma^2 + d^2)/(sigma d)^2.
    edm = Denoiser(silent, paths.EDM(), "edm", (2,), sigma_data=0.5)
    sigma = t[:, None]
    x_t = x_0 + sigma * eps
    mean = torch.cat([edm(x_t[i : i + 1], float(t[i])).data for i in range(5)])
    weighted = ((sigma**2 + 0.25) / (0.5 * sigma) ** 2 * (mean - x_0) ** 2).mean(1)
    torch.testing.assert_close(loss(edm, x_0, t, eps), weighted)


def test_edm_target_has_unit_variance_when_sigma_data_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    x_0 = 0.5 * torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    eps = torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    for sigma in (0.01, 0.5, 20.0):
        t = torch.full((200_000,), sigma, dtype=torch.float64)
        asked = question(Denoiser(Affine(0.0, 0.0), paths.EDM(), "edm", (1,), sigma_data=0.5), x_0, t, eps)
        assert abs(float(asked.target.var()) - 1) < 0.02
        assert abs(float(asked.network_input.var()) - 1) < 0.02


def test_an_anchor_out_of_place_is_an_error() -> None:
    x_0, t = torch.zeros(2, 1), torch.full((2,), 0.5)
    with pytest.raises(PlanError, match="without its anchor"):
        loss(Denoiser(Affine(0.0, 0.0), paths.ResidualShift(), "data", (1,)), x_0, t, x_0)
    with pytest.raises(PlanError, match="which has none"):
        loss(Denoiser(Affine(0.0, 0.0), paths.VP(), "data", (1,)), x_0, t, x_0, anchor=x_0)
    with pytest.raises(ShapeError, match="an anchor of shape"):
        loss(Denoiser(Affine(0.0, 0.0), paths.ResidualShift(), "data", (1,)), x_0, t, x_0, anchor=torch.zeros(3, 1))


def test_errors() -> None:
    denoiser = Denoiser(Affine(0.0, 0.0), paths.VP(), "noise", (1,))
    with pytest.raises(ShapeError, match="one time per item"):
        loss(denoiser, torch.zeros(3, 1), torch.zeros(2), torch.zeros(3, 1))
    with pytest.raises(UnknownName, match="did you mean 'noise'"):
        loss(denoiser, torch.zeros(3, 1), torch.ones(3), torch.zeros(3, 1), measure="noisy")

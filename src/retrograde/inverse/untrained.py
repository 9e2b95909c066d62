"""A prior that was never trained: a low-rank network, fitted to the state while the run goes on (DDS2M)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.carried import carried
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue, ShapeError
from retrograde.paths import Path

_FITTED = "inverse/fitted"


@final
class Factors(nn.Module):
    """X = sum_r maps_r x spectra_r: maps [rank, height, width] of an hourglass, spectra [rank, bands] of a perceptron.

    Both are asked at random inputs that stay: the weights alone say what X is, [bands, height, width].
    """

    def __init__(self, bands: int, height: int, width: int, rank: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("place", 0.3 * torch.randn(1, channels, height, width))
        self.register_buffer("colour", torch.randn(rank, channels))
        self.enter = nn.Conv2d(channels, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(channels, channels, 3, padding=1)
        self.leave = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.maps = nn.Conv2d(channels, rank, 1)
        self.spectra = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, bands))

    def forward(self) -> Tensor:
        fine = functional.silu(self.enter(self.place))
        coarse = functional.silu(self.middle(functional.silu(self.down(fine))))
        back = functional.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
        maps = self.maps(functional.silu(self.leave(torch.cat([fine, back], 1))))[0]
        return torch.einsum("rhw,rb->bhw", maps, self.spectra(self.colour))


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Untrained(AbstractDenoiser):
    """The denoiser that fits a low-rank network to x_t/a, and answers with what it came to (see `untrained`).

    Weights and moments of Adam go from evaluation to evaluation with the run, [n, 3, weights] and the count of steps.
    """

    path: Path
    shape: tuple[int, ...]
    network: Factors
    steps: int
    lr: float
    seen: Tensor | None = None
    predicts: str = dataclasses.field(init=False, default="data")
    conditions: Mapping[str, Any] = dataclasses.field(init=False, default_factory=dict)
    consumes: frozenset[str] = dataclasses.field(init=False, default=frozenset())
    name: str = dataclasses.field(init=False, default="untrained")

    def network_time(self, t: float) -> float:
        return t

    def snap(self, t: float) -> float:
        return t

    def _made(self, flat: Tensor) -> Tensor:
        """Return X of weights [weights]."""
        held = dict(self.network.named_parameters())
        pieces = flat.split([one.numel() for one in held.values()])
        named = {key: piece.reshape(one.shape) for (key, one), piece in zip(held.items(), pieces, strict=True)}
        buffers = {key: one.to(flat) for key, one in self.network.named_buffers()}
        return functional_call(self.network, (named, buffers), ())

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        a: Any = self.path.a(t)  # pyright: ignore[reportArgumentType]
        target = (x_t / (a.reshape(-1, *(1,) * (x_t.ndim - 1)) if isinstance(a, Tensor) else a)).detach()
        flat = torch.cat([one.detach().reshape(-1) for one in self.network.parameters()]).to(target)
        begun = torch.zeros(len(target), 3, len(flat), dtype=target.dtype, device=target.device)
        begun[:, 0] = flat
        fitted, before = carried(knobs).get(_FITTED, begun), carried(knobs).get(f"{_FITTED}/steps")
        count = target.new_zeros(len(target)) if before is None else before
        weights, first, second = fitted.unbind(1)

        share = torch.ones((), dtype=target.dtype, device=target.device) if self.seen is None else self.seen.to(target)

        def misfit(w: Tensor, at: Tensor) -> Tensor:
            return (share * (self._made(w) - at).square()).mean()

        with torch.no_grad():
            slope = vmap(grad(misfit))
            for _ in range(self.steps):
                g = slope(weights, target)
                count = count + 1.0
                first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g.square()
                size = (second / (1.0 - 0.999**count)[:, None]).sqrt() + 1e-8
                weights = weights - self.lr * (first / (1.0 - 0.9**count)[:, None]) / size
            made = vmap(self._made)(weights)
        left = {_FITTED: torch.stack([weights, first, second], 1), f"{_FITTED}/steps": count}
        evaluations = {self.name: 1, f"{self.name}:fit": self.steps}
        return Prediction(x_t, t, self.path, made, "data", evaluations=evaluations, carried=left)


def untrained(
    shape: tuple[int, ...],
    path: Path,
    rank: int = 5,
    steps: int = 20,
    lr: float = 3e-3,
    channels: int = 16,
    seed: int = 0,
    seen: Tensor | None = None,
) -> Untrained:
    """Return a denoiser for one image of many bands that needs no data: what it learns it learns from the state.

        D(x_t) = X(theta'),   theta' = `steps` steps of Adam from theta on |seen (X(theta) - x_t/a)|^2,
        X = sum_r maps_r x spectra_r

    A network finds what is smooth and of low rank before it finds noise, and theta goes on from level to level. With
    `method="ddrm"`, which puts y back at every level under fresh noise, it restores what is missing or noisy: the noise
    keeps it from learning that of y, which a fit to y itself does in the end. Begin low, where the state says something:
    `grid=` with levels from about one down.

    Args:
        shape: [bands, height, width].
        rank: of X, the number of materials.
        steps, lr: of Adam, at each evaluation.
        channels: width of the network.
        seed: of its weights and inputs.
        seen: weights of the misfit that broadcast against an item, 0 where y says nothing. Where a mask hides elements they
            have to be left out: what the state has there is the network's own answer and noise, which it would learn.

    Raises:
        ShapeError: items that are no image of bands.
        BadValue: no rank, step or channel.

    Reference: Miao, Zhang, Zhang and Tao, DDS2M: Self-Supervised Denoising Diffusion Spatio-Spectral Model for Hyperspectral
    Image Restoration, 2023, arXiv 2303.06682. (Their code keeps the iterate nearest to the clean image; there is none here.)
    """
    if len(shape) != 3:
        raise ShapeError(f"items of shape {list(shape)}", "[bands, height, width]", "untrained((31, 64, 64), path)")
    if min(rank, steps, channels) < 1 or not lr > 0.0 or not math.isfinite(lr):
        given = f"rank={rank}, steps={steps}, channels={channels}, lr={lr}"
        raise BadValue(given, "one or more of each, lr > 0", "rank=5, steps=20, channels=16, lr=3e-3")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Factors(*shape, rank, channels)
    return Untrained(path, tuple(shape), network.eval().requires_grad_(False), steps, lr, seen)


systems.register(
    systems.System(
        title="DDS2M: Self-Supervised Denoising Diffusion Spatio-Spectral Model for Hyperspectral Image Restoration",
        authors=("Yuchun Miao", "Lefei Zhang", "Liangpei Zhang", "Dacheng Tao"),
        year=2023,
        arxiv="2303.06682",
        home="inverse",
        call="rg.inverse.solve(rg.inverse.untrained((31, 64, 64), path), measurement, method='ddrm', n=1, nfe=100)",
        test="tests/inverse/test_untrained.py::test_a_cube_is_completed_without_any_data",
    )
)

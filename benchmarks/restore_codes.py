"""Two more small recipes of restoration on digits of 8 by 8, beside those of restore_small.py: codes, and specialists.

"latent" (standardization): digits of a second protocol (less contrast, blur, correlated noise, each by chance) to the
first: codes of an autoencoder, and a conditional diffusion of codes, beside histogram matching and regression. "agreement"
is Lin's concordance of texture features over items, the mean of gradient energy, local variance and three moments.

"levels" (experts over time, a decoder with frequencies): super-resolution by one conditional network and by four that began
as it did, each trained on for its quarter of the times with as many updates as the one; their error on unseen digits by
quarter. And a decoder of twelve codes, plain and with the high half of the spectrum of features of the degraded digit.

PSNR is over unseen digits (peak to peak 2); every row is the mean over trainings.

    python benchmarks/restore_codes.py [--only latent levels] [--trials 2] [--steps 800]

Figures go to benchmarks/results/restore_small.json, a recipe at a time. Some minutes of one core for each.
"""

from __future__ import annotations

import copy
import runpy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import retrograde as rg
from retrograde import data
from retrograde.codec import Codec
from retrograde.nets import Beside
from retrograde.quality import frechet_distance
from retrograde.train import TrainConfig, degraded, fit

SMALL = runpy.run_path(str(Path(__file__).with_name("restore_small.py")))
SHAPE, BATCH = SMALL["SHAPE"], SMALL["BATCH"]
psnr, minimize, perceptron = SMALL["psnr"], SMALL["minimize"], SMALL["perceptron"]


def textures(x: Tensor) -> Tensor:
    """Return features of texture, [n, 5]: gradient energy, local variance, mean, deviation and skewness of the pixels."""
    flat = x.double().flatten(1)
    across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
    gradient = across.square().flatten(1).mean(1) + down.square().flatten(1).mean(1)
    local = functional.avg_pool2d(x.square(), 3, 1) - functional.avg_pool2d(x, 3, 1).square()
    mean, std = flat.mean(1), flat.std(1)
    skew = ((flat - mean[:, None]) / std[:, None].clamp(min=1e-6)).pow(3).mean(1)
    return torch.stack([gradient.double(), local.flatten(1).mean(1).double(), mean, std, skew], 1)


def agreement(made: Tensor, truth: Tensor) -> float:
    """Return Lin's concordance 2 cov/(var + var' + (mean - mean')^2) of the features over items, their mean."""
    one, other = textures(made), textures(truth)
    covariance = ((one - one.mean(0)) * (other - other.mean(0))).mean(0)
    apart = (one.mean(0) - other.mean(0)).square()
    return float((2.0 * covariance / (one.var(0) + other.var(0) + apart)).mean())


def second_protocol(x: Tensor, seed: int) -> Tensor:
    """Return digits of another protocol: less contrast, blur, and correlated noise, each by chance."""
    generator = torch.Generator().manual_seed(seed)
    gain = 0.5 + 0.5 * torch.rand(len(x), 1, 1, 1, generator=generator)
    share = torch.rand(len(x), 1, 1, 1, generator=generator)
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])[None, None] / 16.0
    blurred = (1.0 - share) * x + share * functional.conv2d(functional.pad(x, (1, 1, 1, 1), "replicate"), kernel)
    noise = functional.conv2d(torch.randn(len(x), 1, 10, 10, generator=generator), kernel)
    return gain * (blurred + 1.0) - 1.0 + 0.3 * noise


def matched(x: Tensor, reference: Tensor) -> Tensor:
    """Return items whose pixels have, each item for itself, the quantiles of the reference's pixels."""
    quantiles = torch.quantile(reference.flatten().double()[:100_000], torch.linspace(0, 1, 64, dtype=torch.float64))
    order = x.flatten(1).argsort(1)
    return torch.empty(x.flatten(1).shape).scatter_(1, order, quantiles.float().expand(len(x), -1)).reshape(x.shape)


def latent(seed: int, steps: int) -> list[dict[str, Any]]:
    """Codes of one protocol given those of another, and the baselines."""
    x, held = data.digits8("train")[0], data.digits8("test")[0][:500]
    y, low, size = second_protocol(x, 0), second_protocol(held, 1), 24
    torch.manual_seed(seed)
    encoder, decoder = perceptron(64, 192, size), perceptron(size, 192, 64)

    def missed(images: Tensor) -> Tensor:
        return (decoder(encoder(images.flatten(1))) - images.flatten(1)).square().mean()

    minimize(
        [*encoder.parameters(), *decoder.parameters()], lambda at, step: missed(x[at]) + missed(y[at]), len(x), 2 * steps
    )
    codec = Codec(lambda x: encoder(x.flatten(1)), lambda z: decoder(z).reshape(-1, *SHAPE), SHAPE, (size,))
    with torch.no_grad():
        codec = codec.fitted(x)
        z, seen = codec.encode(x), codec.encode(y)
    network = Beside((size,), of="MLPDenoiser", sees=("seen",), width=192, depth=3)
    den = rg.Denoiser(network, rg.paths.VP(), "v", (size,), conditions={"seen": torch.zeros(size)})
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            predicts="v", levels={"law": "uniform"}, classes=0, steps=2 * steps, batch=BATCH, warmup=100, out=folder,
            progress=False, seed=seed,
        )  # fmt: skip
        den = fit(den, z, None, config, conditions={"seen": seen}).denoiser
    regressor = perceptron(64, 256, 256, 64)
    minimize(
        regressor.parameters(),
        lambda at, step: (regressor(y[at].flatten(1)) - x[at].flatten(1)).square().mean(),
        len(x),
        2 * steps,
    )
    with torch.no_grad():
        plan = rg.plan("ddpm", den, nfe=50)
        drawn = rg.train.standardized(codec, den, plan, low, seed=seed)
        made = {
            "second protocol": low,
            "autoencoder alone": codec.decode(codec.encode(low)),
            "histogram matching": matched(low, x),
            "regression": regressor(low.flatten(1)).reshape(low.shape),
            "conditional diffusion of codes": drawn,
            "codes of the first protocol": codec.decode(codec.encode(held)),
        }
    true = textures(held)[:, 1].mean()
    return [
        {"model": name, "psnr": psnr(one, held), "agreement": agreement(one, held)}
        | {"local_variance": float(textures(one)[:, 1].mean() / true)}
        for name, one in made.items()
    ]


class Compensated(nn.Module):
    """A decoder of codes that adds the high half of the spectrum of features of y, gated by the codes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.plain, self.features, self.gate = perceptron(size, 192, 64), perceptron(64, 192, 64), nn.Linear(size, 64)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        added = high_band(self.features(y.flatten(1)).reshape(y.shape)).flatten(1)
        return self.plain(z) + self.gate(z) * added


def high_band(x: Tensor) -> Tensor:
    """Return what items have beyond half of the greatest frequency, by radius."""
    rates = torch.fft.fftfreq(x.shape[-1])
    high = (rates[:, None] ** 2 + rates**2).sqrt() >= 0.25
    return torch.fft.ifft2(torch.fft.fft2(x) * high).real


def levels(seed: int, steps: int) -> list[dict[str, Any]]:
    """Four experts over time against one network, and what a decoder gains by the high frequencies of y."""
    x, held = data.digits8("train")[0], data.digits8("test")[0][:500]
    y, low, path, edges = degraded(x, "down:2"), degraded(held, "down:2"), rg.paths.VP(), (0.25, 0.5, 0.75)
    torch.manual_seed(seed)
    ends = (path.t_min, *edges, path.t_max)

    def denoiser() -> rg.Denoiser:
        network = Beside(SHAPE, of="MLPDenoiser", sees=("seen",), width=192, depth=3)
        return rg.Denoiser(network, path, "v", SHAPE, conditions={"seen": torch.zeros(SHAPE)})

    def train(den: rg.Denoiser, first: float, last: float, count: int) -> rg.Denoiser:
        def value(at: Tensor, step: int) -> Tensor:
            generator = torch.Generator().manual_seed(10 * step + seed)
            t = first + (last - first) * torch.rand(len(at), generator=generator, dtype=torch.float64)
            eps = torch.randn(x[at].shape, generator=generator)
            return rg.train.loss(den, x[at], t, eps, {"seen": y[at]}).mean()

        minimize(den.network.parameters(), value, len(x), count)  # type: ignore[attr-defined]
        return den

    begun = train(denoiser(), path.t_min, path.t_max, 2 * steps)
    parts = [copy.deepcopy(begun) for _ in range(4)]
    single = train(copy.deepcopy(begun), path.t_min, path.t_max, steps)
    many = rg.denoisers.ByLevel(
        tuple(train(one, ends[k], ends[k + 1], steps) for k, one in enumerate(parts)), edges
    )  # fmt: skip

    def left(den: Any, k: int) -> float:
        """The error of v in a quarter of the times, over unseen digits."""
        found = []
        with torch.no_grad():
            for i in range(10):
                t = ends[k] + (ends[k + 1] - ends[k]) * (i + 0.5) / 10
                eps = torch.randn(held.shape, generator=torch.Generator().manual_seed(100 * k + i))
                a, s = path.a(t), path.s(t)
                made = den.predict(a * held + s * eps, t, {"seen": low})
                found.append((made.read("v") - (a * eps - s * held)).square().mean())
        return float(torch.stack(found).mean())

    plan = rg.plan("ddpm", path, nfe=20)
    rows = []
    for name, den in (("one network", single), ("four experts", many)):
        made = rg.sample(den, plan, n=len(low), seed=seed, condition={"seen": low})
        row: dict[str, Any] = {"model": name, "psnr": psnr(made, held)}
        rows.append(row | {f"error_{k}": left(den, k) for k in range(4)} | {"frechet": frechet_distance(made, held).value})
    size = 12
    encoder = perceptron(64, 192, size)
    decoder = Compensated(size)
    plain = perceptron(size, 192, 64)
    minimize(
        [*encoder.parameters(), *plain.parameters()],
        lambda at, step: (plain(encoder(x[at].flatten(1))) - x[at].flatten(1)).square().mean(),
        len(x),
        2 * steps,
    )
    encoder.requires_grad_(False)
    decoder.plain.load_state_dict(plain.state_dict())
    for network, seen in ((plain, False), (decoder, True)):

        def value(at: Tensor, step: int, network: Any = network, seen: bool = seen) -> Tensor:
            z = encoder(x[at].flatten(1))
            return ((network(z, y[at]) if seen else network(z)) - x[at].flatten(1)).square().mean()

        minimize(network.parameters(), value, len(x), steps)
        with torch.no_grad():
            z = encoder(held.flatten(1))
            off = (network(z, low) if seen else network(z)).reshape(held.shape) - held
        name = "decoder with frequencies" if seen else "decoder of codes"
        row = {"model": name, "psnr": psnr(held + off, held), "high_error": float(high_band(off).square().mean())}
        rows.append(row | {"low_error": float((off - high_band(off)).square().mean())})
    return rows


RECIPES: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {"latent": latent, "levels": levels}


if __name__ == "__main__":
    SMALL["main"](RECIPES, __doc__)

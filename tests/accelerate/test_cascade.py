"""Cascades of resolutions on a random field of known spectrum, whose denoiser is exact at every size."""

import math
from typing import Any

import pytest
import torch

import retrograde as rg
from retrograde.accelerate import cascade, entry, pixels, resized, stages
from retrograde.codec import Codec
from retrograde.errors import BadValue

PATH = rg.paths.EDM(sigma_min=0.004, sigma_max=20.0)
SIDE, N = 16, 250
RADIUS = torch.fft.fftfreq(SIDE, 1 / SIDE, dtype=torch.float64).square()
RADIUS = (RADIUS[:, None] + RADIUS).sqrt()
SPECTRUM = 1.0 / (1.0 + (RADIUS / 1.5) ** 2) ** 2
BANDS = [(0.5, 2.5), (2.5, 4.5), (4.5, 6.5), (6.5, 12.0)]
"""Of radius in bins; the last two are beyond what half the size can show."""


EVEN: dict[str, Any] = {"recipe": "unipc_2", "grid": "log_snr"}


def field(size: int) -> rg.oracles.GaussianMixture:
    """The exact denoiser of the field, or of its means over squares."""
    d = SIDE * SIDE
    pulses = torch.eye(d, dtype=torch.float64).reshape(d, SIDE, SIDE)
    covariance = torch.fft.ifft2(SPECTRUM * torch.fft.fft2(pulses)).real.reshape(d, d)
    pool = resized(pulses[:, None], (size, size)).reshape(d, -1).T
    covariance = pool @ covariance @ pool.T
    return rg.oracles.GaussianMixture(PATH, torch.zeros(1, 1, size, size), covariance[None], name=f"field{size}")


@pytest.fixture(scope="module")
def fields() -> tuple[rg.oracles.GaussianMixture, rg.oracles.GaussianMixture]:
    return field(SIDE // 2), field(SIDE)


def powers(x: torch.Tensor) -> list[float]:
    """Power in each band, relative to the field's."""
    power = torch.fft.fft2(x.double()).abs().square().mean((0, 1)) / SIDE**2
    masks = [(low <= RADIUS) & (high > RADIUS) for low, high in BANDS]
    return [float(power[m].sum() / SPECTRUM[m].sum()) for m in masks]


def test_a_field_grows_with_its_spectrum_at_less_than_half_the_cost(fields):
    """Within a tenth of the full-resolution run in every band; resized alone, or with resized noise, high bands lack."""
    small, large = fields
    full = [(large, rg.plan("dpmpp_2m", PATH, nfe=40))]
    grown = stages(fields, [30, 10], [0.6], gamma=3.0, **EVEN)
    assert pixels(full) > 2 * pixels(grown)
    expected = powers(cascade(full, N, 1))
    made = powers(cascade(grown, N, 2))
    assert max(abs(one / other - 1) for one, other in zip(made, expected, strict=True)) < 0.1
    resized_alone = powers(resized(rg.sample(small, rg.plan("dpmpp_2m", PATH, nfe=40), N, 3), (SIDE, SIDE)))
    assert max(resized_alone[2:]) < 0.5
    stale = powers(cascade(grown, 100, 2, fresh=False))
    assert stale[3] < 0.5


def test_down_and_up_again_keeps_the_high_frequencies(fields):
    """High, low, high: what is beyond the middle's size comes back from fresh noise within 5%, and not without."""
    small, large = fields
    three = stages([large, small, large], [2, 16, 10], [6.0, 0.3], [6.0, 1.0], **EVEN)
    squared = sum(plan.nfe * math.prod(denoiser.shape) ** 2 for denoiser, plan in three)
    assert squared < 0.5 * 28 * (SIDE**2) ** 2  # of attention, which grows with the square
    made = powers(cascade(three, N, 2))
    assert max(abs(power - 1) for power in made[2:]) < 0.05
    assert powers(cascade(three, 100, 2, fresh=False))[3] < 0.5


def test_one_stage_is_its_plan_and_the_same_size_goes_on_as_if_there_were_none(fields):
    _, large = fields
    plan = rg.plan("ddim", PATH, nfe=8, grid="log_snr")
    assert torch.equal(cascade([(large, plan)], 2, 5), rg.sample(large, plan, 2, 5))
    times = plan.times
    split = [(large, rg.plan("ddim", PATH, grid=part)) for part in (times[:5], times[4:])]
    made = cascade(split, 2, 5, fresh=False, dtype=torch.float64)
    assert torch.allclose(made, rg.sample(large, plan, 2, 5, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("path", [PATH, rg.paths.VP(), rg.paths.Flow()])
def test_entries_keep_the_noise_of_means_over_squares(path):
    """gamma = 2: the mean over 2 x 2 pixels of the larger state is as noisy as the smaller one was; gamma 1 on a flow."""
    for sigma in (0.1, 1.0):
        t = path.time_of_sigma(entry(path, sigma, 2.0, 2.0))
        assert path.sigma(t) / 2.0 == pytest.approx(sigma, rel=1e-6)
    flow = rg.paths.Flow()
    t, r = 0.4, math.sqrt(2.0)
    assert flow.time_of_sigma(entry(flow, flow.sigma(t), 2.0, 1.0)) == pytest.approx(r * t / (1 + (r - 1) * t), rel=1e-6)


def test_latents_are_resized_as_pictures():
    """Codecs of different scales: the second stage gets the first one's picture, in latents of its own."""
    plan = rg.plan("ddim", PATH, nfe=1)
    given = []

    def told(scale: float, size: int) -> rg.Denoiser:
        codec = Codec(lambda x: scale * x, lambda z: z / scale, (1, size, size), (1, size, size))

        def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            given.append(x)
            return torch.full_like(x, 3.0 * scale)

        return rg.Denoiser(network, PATH, "data", (1, size, size), codec=codec)

    late = rg.plan("ddim", PATH, grid=[PATH.time_of_sigma(0.01)])
    cascade([(told(0.5, 4), plan), (told(2.0, 8), late)])
    assert torch.allclose(given[1], torch.full((1, 1, 8, 8), 6.0), atol=0.1)


def test_lists_that_do_not_fit_are_refused(fields):
    with pytest.raises(BadValue, match="2 denoisers, 1 budgets"):
        stages(fields, [10], [0.5])
    with pytest.raises(BadValue, match="without stages"):
        cascade([])

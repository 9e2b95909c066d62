"""A cube of bands is completed by a network that is fitted on the way, and nothing else."""

import math

import pytest
import torch

import retrograde as rg
from retrograde import inverse, operators
from retrograde.errors import BadValue, ShapeError

PATH = rg.paths.VP()


def cube(bands, side, seed=0):
    """Three smooth maps with smooth spectra, at most one in size."""
    g = torch.Generator().manual_seed(seed)
    maps = torch.nn.functional.interpolate(
        torch.randn(1, 3, 5, 5, generator=g), size=(side, side), mode="bicubic", align_corners=True
    )[0]
    spectra = torch.nn.functional.interpolate(
        torch.randn(1, 3, 5, generator=g), size=bands, align_corners=True, mode="linear"
    )
    made = torch.einsum("rhw,rb->bhw", maps, spectra[0]).double()
    return made / made.abs().max()


def psnr(x, truth):
    return float(10.0 * torch.log10(4.0 / (x.double() - truth).square().mean()))


def levels(nfe, high=1.0, low=0.02):
    return [PATH.time_of_sigma(math.exp(s)) for s in torch.linspace(math.log(high), math.log(low), nfe).tolist()]


def restored(truth, share, nfe, steps, lr=3e-3):
    """PSNR of the data mean along the run, of the same network fitted to y as often, and of y filled with zeros."""
    A = operators.make(f"mask:share={share}", tuple(truth.shape))
    m = operators.measure(A, truth, 0.1, seed=1)
    y = A.adjoint(m.y[None])[0]
    seen = (A.adjoint(torch.ones_like(m.y)[None])[0] > 0.0).double()
    den = inverse.untrained(tuple(truth.shape), PATH, steps=steps, seen=seen, lr=lr)
    task = inverse.Task(nfe, 0, range(1), rg.noise.Noise(0, range(1)), levels(nfe))
    posed = inverse.get("ddrm").write(den, m, task)
    ours = [psnr(s.prediction.data[0], truth) for s in rg.steps(posed.plan, posed.denoiser, 1, x=posed.start)]
    carried, alone = {}, []
    for _ in range(nfe):  # y itself, at the level of the data
        made = den.predict(y[None].float() * PATH.a(0.001), 0.001, knobs={"carried": carried})
        carried = made.carried
        alone.append(psnr(made.data[0], truth))
    return ours, alone, psnr(y, truth), m


def completed_by_rank(m, truth):
    """The best of soft-thresholded singular values (bands by pixels), whatever the threshold."""
    A, best = m.operator, -math.inf
    for weight in (0.3, 1.0, 2.0):
        x = torch.zeros_like(truth)
        for _ in range(100):
            x = x + A.adjoint(m.residual(x[None]))[0]
            u, s, v = torch.linalg.svd(x.flatten(1), full_matrices=False)
            x = (u @ torch.diag((s - weight).clamp(min=0.0)) @ v).reshape(truth.shape)
        best = max(best, psnr(x, truth))
    return best


def test_a_cube_is_completed_without_any_data():
    """From three tenths, with noise: nearer than the same network fitted to them as often, and than they are."""
    ours, alone, given, _ = restored(cube(8, 16), 0.3, nfe=12, steps=8, lr=1e-2)
    assert ours[-1] > alone[-1] + 0.5
    assert ours[-1] > given + 1.0


@pytest.mark.slow
def test_it_does_not_learn_the_noise_in_the_end():
    """By 1 dB and more above the fit to y, which decays, and within 0.3 dB of its own best; above completion by rank."""
    for share in (0.2, 0.3):
        truth = cube(8, 16)
        ours, alone, given, m = restored(truth, share, nfe=40, steps=10)
        assert ours[-1] > alone[-1] + 1.0
        assert max(ours) - ours[-1] < 0.35
        assert max(alone) - alone[-1] > 0.4
        assert ours[-1] > max(given, completed_by_rank(m, truth))


def test_the_fit_goes_on_from_level_to_level_item_by_item():
    """Two evaluations of five steps are one of ten; items do not depend on each other; what is not seen does not matter."""
    x = torch.stack([cube(4, 6, seed).float() for seed in (0, 1)])
    seen = (torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    short, long = (inverse.untrained((4, 6, 6), PATH, rank=2, steps=n, channels=8, seen=seen) for n in (5, 10))
    first = short.predict(x, 0.1)
    second = short.predict(x, 0.1, knobs={"carried": first.carried})
    whole = long.predict(x, 0.1)
    assert torch.allclose(second.data, whole.data, atol=1e-5)
    assert not torch.allclose(first.data, whole.data, atol=1e-3)
    assert torch.allclose(long.predict(x[1:], 0.1).data, whole.data[1:], atol=1e-5)
    assert torch.equal(long.predict(x + 5.0 * (1.0 - seen), 0.1).data, whole.data)
    assert whole.evaluations == {"untrained": 1, "untrained:fit": 10}


def test_rows_are_those_of_ddrm_for_any_denoiser():
    """The table depends on the measurement alone: that of an oracle on the same levels."""
    m = operators.measure(operators.make("mask:share=0.5", (4, 6, 6)), cube(4, 6), 0.1)
    oracle = rg.oracles.Gaussian(PATH, torch.zeros(4, 6, 6), 0.3)
    plans = []
    for den in (inverse.untrained((4, 6, 6), PATH, rank=2, steps=1, channels=4), oracle):
        task = inverse.Task(6, 0, range(1), rg.noise.Noise(0, range(1)), levels(6))
        posed = inverse.get("ddrm").write(den, m, task)
        *_, last = rg.steps(posed.plan, oracle, 1, x=posed.start)
        plans.append(last.x_t)
    assert torch.equal(plans[0], plans[1])


def test_mistakes_are_mended():
    with pytest.raises(ShapeError, match="bands"):
        inverse.untrained((8,), PATH)
    with pytest.raises(BadValue, match="rank"):
        inverse.untrained((4, 6, 6), PATH, rank=0)

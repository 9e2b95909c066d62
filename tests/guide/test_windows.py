"""Windows: one is ordinary sampling, fields have no seams where tiles have, and each place has its own condition."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, ShapeError, UnknownName
from retrograde.guide import interpolated, windows
from retrograde.guide.windows import places

PATH, WIDTH, CANVAS = rg.paths.EDM(), 16, 48


def covariance(n, length=1.5):
    place = torch.arange(n, dtype=torch.float64)
    return torch.exp(-(place[:, None] - place).abs() / length)


def field(width=WIDTH, **options):
    """A stationary Gaussian field on a line, exact."""
    mean = torch.zeros(1, 1, 1, width, dtype=torch.float64)
    return rg.oracles.GaussianMixture(PATH, mean, covariances=covariance(width)[None], **options)


def made(denoiser):
    """The exact covariance of what a plan makes of white noise: everything is linear."""
    plan = rg.plan("dpmpp_2m", PATH, nfe=40)
    start = PATH.s(plan.start) * torch.eye(CANVAS, dtype=torch.float64).reshape(CANVAS, 1, 1, CANVAS)
    moved = rg.sample(denoiser, plan, x=start).flatten(1)
    return moved.T @ moved


def neighbours(C):
    sd = C.diagonal().sqrt()
    return C.diagonal(1) / (sd[1:] * sd[:-1])


def test_one_window_is_ordinary_sampling_bit_by_bit():
    den = rg.load("digits8-flow")
    plan = rg.plan("ddim", den, nfe=3)
    assert torch.equal(
        rg.sample(windows(den, 8, 8), plan, n=2, condition=[1, 2]), rg.sample(den, plan, n=2, condition=[1, 2])
    )
    own = windows(den, 8, 8, lambda row, column: {"label": 3})
    assert torch.equal(rg.sample(own, plan, n=2), rg.sample(den, plan, n=2, condition=3))


def test_a_stationary_field_has_no_seams():
    """Variance and correlation of neighbours, everywhere, against the exact field's; tiles side by side have borders."""
    exact = float(covariance(2)[0, 1])
    for step in (4, 8):
        C = made(windows(field(), 1, CANVAS, step=(1, step)))
        assert float((C.diagonal() - 1.0).abs().max()) < 0.05
        assert float((neighbours(C) - exact).abs().max()) < 0.05 * exact
    plain = neighbours(made(windows(field(), 1, CANVAS, taper=0.0, step=(1, 8))))
    assert float((plain - exact).abs().max()) > 0.1 * exact  # so it is the weights that do it
    tiles = neighbours(made(windows(field(), 1, CANVAS, step=(1, WIDTH), moving=False)))
    assert tiles[[WIDTH - 1, 2 * WIDTH - 1]].abs().max() < 1e-6
    assert float((tiles[: WIDTH - 1] - exact).abs().max()) < 0.05 * exact


def test_every_window_has_the_condition_of_its_place():
    seen = []

    def network(x, t, e):
        seen.append(e.clone())
        return e[:, :, None, None].expand_as(x)

    den = rg.Denoiser(network, PATH, "data", (2, 4, 4), conditions={"e": torch.zeros(2)})
    values = torch.tensor([[[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]]])
    canvas = windows(den, 4, 12, interpolated("e", values, 4, 12), step=4, moving=False)
    assert dict(canvas.conditions) == {}
    prediction = canvas(torch.zeros(1, 2, 4, 12), 1.0)
    assert torch.allclose(seen[0], values[0])
    assert torch.allclose(prediction.data[0, :, 0, ::4].T, values[0])
    assert prediction.evaluations == {"network": 3}
    at = interpolated("e", values, 4, 12)
    assert torch.allclose(at(2.0, 4.0)["e"], torch.tensor([0.5, 2.0]))
    assert torch.allclose(at(2.0, 0.0)["e"], torch.tensor([0.0, 1.0]))


def test_windows_cover_the_canvas_and_move():
    for shift in range(4):
        begins = places(21, 8, 4, shift)
        assert begins[0] == 0
        assert begins[-1] == 13
        assert max(b - a for a, b in zip(begins, begins[1:], strict=False)) <= 4
    canvas = windows(field(), 1, CANVAS, step=(1, 8))
    assert len({tuple(canvas._corners(t)) for t in (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)}) > 1
    assert canvas._corners(0.5) == canvas._corners(0.5)


def test_guidance_goes_inside_and_mistakes_are_explained(labelled):
    den = rg.load("digits8-flow")
    with pytest.raises(ShapeError, match="at least their size"):
        windows(den, 8, 4)
    with pytest.raises(ShapeError, match="pictures"):
        windows(labelled(PATH), 8, 8)
    with pytest.raises(BadValue, match="step="):
        windows(den, 16, 16, step=9)
    with pytest.raises(BadValue, match="taper="):
        windows(den, 16, 16, taper=-1.0)
    canvas = windows(rg.guide.cfg(den, 2.0), 8, 12, lambda row, column: {"label": int(column > 6)})
    record = rg.record(canvas, rg.plan("ddim", den, nfe=2), n=1)
    assert record.samples.shape == (1, 1, 8, 12)
    with pytest.raises(UnknownName, match="label"):
        windows(den, 8, 12, lambda row, column: {"lable": 1})(torch.zeros(1, 1, 8, 12), 0.5)

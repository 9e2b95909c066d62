"""Training on pairs: what a network learns of the anchor, the configuration that makes pairs, and its refusals."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.errors import BadValue, ShapeError, UnknownName
from retrograde.train import TrainConfig, degraded, fit, run
from retrograde.train.pairs import load_data

TINY = {
    "data": "digits8",
    "path": "residual_shift",
    "predicts": "data",
    "network": {"class": "MLPDenoiser", "width": 8, "depth": 1},
    "classes": 0,
    "batch": 8,
    "warmup": 2,
    "progress": False,
}


class Affine(nn.Module):
    """W [x_t, y, ...] + c."""

    def __init__(self, d: int, seen: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear((1 + seen) * d, d)

    def forward(self, x_t: Tensor, told: Tensor, **seen: Tensor) -> Tensor:
        return self.layer(torch.cat([x_t, *seen.values()], 1))


def test_a_linear_network_learns_the_mean_given_state_and_anchor(tmp_path: Path):
    """Gaussian pairs at one level of noise: the exact conditional mean is linear, and training finds it."""
    path = rg.paths.ResidualShift()
    prior = rg.oracles.GaussianMixture(path, torch.zeros(1, 2), torch.tensor([[[1.0, 0.6], [0.6, 0.8]]]))
    exact = prior.degraded(torch.tensor([[0.7, 0.3], [0.0, 0.5]]), 0.3)
    x, y = (one.float() for one in exact.draw(20000, seed=0))
    level = {"law": "lognormal_sigma", "mean": 0.0, "std": 1e-6}
    config = TrainConfig(
        levels=level, steps=120, batch=256, lr=0.1, warmup=0, out=str(tmp_path), progress=False, predicts="residual"
    )
    torch.manual_seed(0)
    den = fit(rg.Denoiser(Affine(2), path, "residual", (2,)), x, None, config, anchors=y).denoiser
    t = path.time_of_sigma(1.0)
    x_t = (path.a(t) * x + path.b(t) * y + path.s(t) * torch.randn(x.shape, generator=torch.Generator().manual_seed(9)))[
        :500
    ]
    wanted = exact(x_t, t, anchor=y[:500]).data
    missed = (den(x_t, t, anchor=y[:500]).data - wanted).square().mean().sqrt()
    assert missed < 0.03 * wanted.std()
    # what it learned of y is needed: with another item's, it is far off
    assert (den(x_t, t, anchor=y[500:1000]).data - wanted).square().mean().sqrt() > 0.3 * wanted.std()


def test_a_network_trained_on_pairs_is_kept_and_restores(tmp_path: Path):
    config = TrainConfig(**TINY, degrade="down:2", degrade_noise=0.1, steps=3, out=str(tmp_path))
    found = run(config)
    den = rg.load(tmp_path / "model")
    assert (den.path, den.shape) == (rg.paths.ResidualShift(), (1, 8, 8))
    _, _, y = load_data(config, "test")
    assert y is not None
    plan = rg.plan("rddm", den, nfe=2, grid="power")
    expected = rg.sample(found.denoiser, plan, seed=0, anchor=y[:4])
    assert torch.equal(rg.sample(den, plan, seed=0, anchor=y[:4]), expected)
    assert "residual_shift" in (tmp_path / "model" / "README.md").read_text()


def test_resumed_training_on_pairs_is_the_uninterrupted_one(tmp_path: Path):
    config = TrainConfig(**TINY, degrade="down:2", degrade_noise=0.1, steps=4, out=str(tmp_path / "whole"))
    whole = run(config).denoiser
    parts = config.model_copy(update={"out": str(tmp_path / "parts"), "seconds": 1e-9})
    assert run(parts).step == 0
    resumed = run(parts.model_copy(update={"resume": True, "seconds": None})).denoiser
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(one, other)


def test_anchors_are_the_measurement_in_the_shape_of_the_data():
    images = rg.data.digits8("test")[0][:20]
    small = nn.functional.avg_pool2d(images, 2)
    assert torch.allclose(degraded(images, "down:2"), small.repeat_interleave(2, 2).repeat_interleave(2, 3), atol=1e-5)
    noisy = degraded(images, "down:2", 0.1, seed=3)
    drawn = noisy - degraded(images, "down:2")
    assert drawn.std() == pytest.approx(0.1, rel=0.1)
    # one draw for a block, since what was measured had it
    assert torch.allclose(drawn[..., ::2, ::2], drawn[..., 1::2, 1::2], atol=1e-5)
    assert torch.equal(noisy, degraded(images, "down:2", 0.1, seed=3))
    assert not torch.equal(noisy, degraded(images, "down:2", 0.1, seed=4))
    blur = rg.operators.make("blur:sigma=1.0", (1, 8, 8))
    assert torch.equal(degraded(images, "blur:sigma=1.0"), blur(images))  # it kept the shape: nothing is undone
    with pytest.raises(BadValue, match="data function"):
        degraded(images, "phase")


def pairs(split: str) -> tuple[Tensor, Tensor, Tensor]:
    images, labels = rg.data.digits8("test")
    return images[:16], labels[:16], -images[:16]


def misshapen(split: str) -> tuple[Tensor, Tensor, Tensor]:
    images, labels, anchors = pairs(split)
    return images, labels, anchors[..., ::2]


def test_pairs_may_come_from_the_data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "own_pairs", __import__("sys").modules[__name__])
    config = TrainConfig(**{**TINY, "data": "own_pairs:pairs"})
    images, _, anchors = load_data(config, "train")
    assert anchors is not None
    assert torch.equal(anchors, -images)
    with pytest.raises(ShapeError, match="scale the degraded"):
        load_data(config.model_copy(update={"data": "own_pairs:misshapen"}), "train")


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({}, BadValue, "without degraded copies"),
        ({"path": "vp", "degrade": "down:2"}, BadValue, "with degraded copies"),
        ({"degrade": "donw:2"}, UnknownName, "down"),
    ],
)
def test_pairs_and_paths_that_do_not_belong_together_are_refused(changes, error, match):
    with pytest.raises(error, match=match):
        load_data(TrainConfig(**{**TINY, **changes}), "test")


def test_further_conditions_reach_the_network(tmp_path: Path):
    """y = x_0 beside an anchor of zeros on a path: the network that sees it learns to answer with it."""
    path = rg.paths.ResidualShift()
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    den = rg.Denoiser(Affine(2, 2), path, "data", (2,), conditions={"noisy": torch.zeros(2)})
    config = TrainConfig(steps=80, batch=64, lr=0.1, warmup=0, out=str(tmp_path), progress=False, predicts="data")
    torch.manual_seed(0)
    kept = fit(den, x, None, config, anchors=torch.zeros_like(x), conditions={"noisy": x}).denoiser
    x_t = path.s(0.9) * torch.randn(100, 2, generator=torch.Generator().manual_seed(1)) + path.a(0.9) * x[:100]
    assert (kept(x_t, 0.9, anchor=torch.zeros(100, 2), noisy=x[:100]).data - x[:100]).square().mean().sqrt() < 0.1

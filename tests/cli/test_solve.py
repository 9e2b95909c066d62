"""`retrograde solve`: what it writes, what it says, and the errors that mend."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import retrograde as rg
from retrograde.cli.solve import strips
from retrograde.operators import GaussianNoise, ImpulseNoise, PoissonNoise, noise_of

QUICK = ("--nfe", 12, "-n", 24, "--method", "pigdm")


@pytest.fixture
def truth():
    """One blob of the toy model, without what is random about it."""
    return np.full((1, 8, 8), -1.0) + 2.0 * np.pad(np.ones((3, 3)), ((1, 4), (1, 4)))[None]


def test_samples_mean_and_spread_are_written(call, truth):
    np.save("truth.npy", truth)
    typed = ("--operator", "blur:sigma=1.0", "--noise", 0.1, "--truth", "truth.npy")
    ran = call("solve", "toys:blobs", *typed, *QUICK, "-o", "out", "--json")
    assert ran.code == 0, ran.err
    with np.load("out/solution.npz") as kept:
        samples, mean, std = kept["samples"], kept["mean"], kept["std"]
        record = json.loads(str(kept["retrograde"]))
        assert np.array_equal(kept["truth"], truth.astype(np.float32))
        y = torch.from_numpy(kept["measurement"])
    assert samples.shape == (24, 1, 8, 8)
    assert np.allclose(mean, samples.mean(0), atol=1e-6)
    assert np.allclose(std, samples.std(0, ddof=1), atol=1e-5)
    A = rg.operators.make("blur", (1, 8, 8), sigma=1.0)
    direct = rg.inverse.solve(rg.load("toys:blobs"), rg.operators.Measurement(A, y, 0.1), "pigdm", 24, 12)
    assert np.allclose(samples, direct.samples.numpy(), atol=1e-6)
    residual = (y - A(direct.samples)).double().square().mean().sqrt() / 0.1
    assert ran.json["misfit"] == pytest.approx(float(residual), rel=1e-4)
    assert ran.json["error"] == pytest.approx(float(np.sqrt(((mean - truth) ** 2).mean())), rel=1e-4)
    assert ran.json["error"] < 0.2
    low, high = np.quantile(samples, [0.05, 0.95], axis=0)
    assert ran.json["covered"] == pytest.approx(float(((low <= truth) & (truth <= high)).mean()), abs=1 / 64)
    assert record["operator"] == "blur:sigma=1.0"
    assert record["misfit"] == ran.json["misfit"]
    with Image.open("out/solution.png") as picture:
        assert picture.height > 5 * 56  # measurement, truth, mean, spread, samples
        assert json.loads(picture.info["retrograde"]) == record


def test_a_measurement_of_numbers_needs_no_picture(call, truth):
    A = rg.operators.make("compressed:share=0.25", (1, 8, 8))
    y = rg.operators.measure(A, torch.tensor(truth, dtype=torch.float32), 0.05).y
    np.savez("y.npz", y=y.numpy(), note=np.array("made by hand"))
    name = "compressed:share=0.25"
    ran = call("solve", "toys:blobs", "--operator", name, "--noise", 0.05, "--measurement", "y.npz", *QUICK)
    assert ran.code == 0, ran.err
    assert "solved/solution.npz, solved/solution.png: 24 samples by pigdm" in ran.out
    assert "misfit" in ran.out
    assert "error of the mean" not in ran.out


def test_a_picture_is_a_measurement(call, truth):
    grey = ((truth[0] + 1.0) * 127.5).astype(np.uint8)
    Image.fromarray(grey).save("y.png")
    typed = ("--operator", "blur:sigma=0.6", "--noise", 0.3, "--measurement", "y.png")
    assert call("solve", "toys:blobs", *typed, *QUICK, "--condition", 1).code == 0
    with np.load("solved/solution.npz") as kept:
        assert np.allclose(kept["measurement"], truth, atol=0.01)
        wanted = {"label": 1}
        A = rg.operators.make("blur:0.6", (1, 8, 8))
        posed = rg.operators.Measurement(A, torch.from_numpy(kept["measurement"]), 0.3)
        direct = rg.inverse.solve(rg.load("toys:blobs"), posed, "pigdm", 24, 12, condition=wanted)
        assert np.allclose(kept["samples"], direct.samples.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--operator", "blr", "--noise", 0.1, "--measurement", "y.npy"), "did you mean 'blur'?"),
        (("--operator", "blur:sgma=1", "--noise", 0.1, "--measurement", "y.npy"), "did you mean 'sigma'?"),
        (
            ("--operator", "down:2", "--noise", 0.1, "--measurement", "y.npy"),
            "y.npy of shape [1, 8, 8]\n  allowed: [1, 4, 4]",
        ),
        (("--operator", "blur:1", "--noise", 0.1, "--measurement", "flat.npy"), "y.reshape(1, 8, 8)"),
        (("--operator", "blur:1", "--noise", 0.1, "--measurement", "three.npy"), "one measurement at a time"),
        (("--operator", "hdr", "--noise", 0.1, "--measurement", "y.npy", "--method", "pigdm"), "not linear"),
        (("--operator", "blur:1", "--noise", "much", "--measurement", "y.npy"), "gaussian, impulse, poisson"),
        (("--operator", "blur:1", "--noise", -1, "--measurement", "y.npy"), "std >= 0"),
        (("--operator", "blur:1", "--noise", "poisson:gain=x", "--measurement", "y.npy"), "a number"),
        (("--operator", "blur:1", "--noise", 0.1, "--measurement", "y.npy", "--method", "pigd"), "did you mean 'pigdm'"),
        (("--operator", "blur:1", "--noise", 0.1, "--measurement", "y.npy", "--set", "zta=1"), "unknown setting of mmps"),
        (("--operator", "blur:1", "--noise", 0.1), "neither --measurement nor --truth"),
        (("--operator", "blur:1", "--noise", 0.1, "--measurement", "y.npy", "--truth", "y.npy"), "both"),
        (("--operator", "blur:1", "--noise", 0.1, "--measurement", "gone.npy"), "gone.npy, which is no file"),
        (("--operator", "blur:1", "--noise", 0.1, "--measurement", "toys.py"), ".npy, .npz or .png"),
        (("--operator", "blur:1", "--noise", 0.1, "--measurement", "complex.npy"), "complex64"),
        (("--operator", "blur:1", "--noise", 0.1, "--measurement", "two.npz"), "one that is called y"),
        (("--operator", "blur:1", "--noise", 0.1, "--measurement", "nan.npy"), "NaN"),
        (("--operator", "blur:1", "--noise", 0.1, "--measurement", "y.npy", "--condition", "0-2"), "one value"),
        (("--operator", "blur:1", "--noise", "poisson:0.1", "--measurement", "y.npy"), "GaussianNoise"),
    ],
)
def test_mistakes_are_mended(call, truth, typed, said):
    np.save("y.npy", truth)
    np.save("flat.npy", truth[0])
    np.save("three.npy", np.stack([truth] * 3))
    np.save("complex.npy", truth.astype(np.complex64))
    np.save("nan.npy", np.full_like(truth, np.nan))
    np.savez("two.npz", a=truth, b=truth)
    ran = call("solve", "toys:blobs", *typed)
    assert ran.code == 2
    assert said in ran.err
    assert "mend: " in ran.err


def test_projections_are_shown_in_their_own_range(truth):
    x = torch.tensor(truth, dtype=torch.float32)
    noisy = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    sums = rg.operators.make("radon:views=4", (1, 8, 8))(x[None])[0]
    kept = {"measurement": noisy, "mean": x, "samples": x[None]}
    assert strips(kept)[0][0] == "measurement"
    assert torch.equal(strips(kept)[0][1], noisy[None])
    label, shown = strips(kept | {"measurement": sums})[0]
    assert label == f"measurement (black: {sums.min():.2f}, white: {sums.max():.2f})"
    assert (float(shown.min()), float(shown.max())) == pytest.approx((-1.0, 1.0))


def test_noises_are_read_from_text():
    assert noise_of("0.05") == noise_of(0.05) == noise_of("gaussian:0.05") == GaussianNoise(0.05)
    assert noise_of("poisson:0.02") == PoissonNoise(0.02)
    assert noise_of("impulse:share=0.02,std=0.05") == ImpulseNoise(0.02, 0.05)

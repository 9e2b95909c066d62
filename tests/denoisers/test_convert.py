"""A denoiser of one path, asked on another."""

import pytest
import torch

import retrograde as rg
from retrograde.denoisers import KINDS, on_path
from retrograde.errors import BadValue

# oracles are exact for Gaussian noise; a path with another law of noise is judged by its own tests
GAUSSIAN = [name for name in rg.paths.names() if "score" in rg.paths.get(name).identities]
X = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)


@pytest.mark.parametrize("path_name", GAUSSIAN)
def test_predictions_agree_at_equal_signal_to_noise(path_name, path_called, mixture, anchor_for):
    path = path_called(path_name)
    moved, own = on_path(mixture(rg.paths.EDM(1e-4, 1e4), "noise"), path), mixture(path)
    beside = anchor_for(path, *X.shape)
    times = [path.time_of_sigma(s) for s in (0.05, 3.0)]
    for t in (*times, torch.tensor(times, dtype=torch.float64)):
        for kind in KINDS:
            read, exact = (den.predict(X, t, beside).read(kind) for den in (moved, own))
            assert torch.allclose(read, exact, rtol=1e-7, atol=1e-8), kind


def test_the_same_path_is_left_alone(mixture):
    den = mixture(rg.paths.VP())
    assert on_path(den, rg.paths.VP()) is den
    assert on_path(den, rg.paths.VP(beta_max=19.0)) is not den


def test_a_discrete_network_keeps_its_clock(path_called):
    told = []

    def network(x, t):
        told.append(float(t[0]))
        return x

    inner = rg.Denoiser(network, path_called("vp_discrete"), "noise", (2,), name="unet")
    den = on_path(inner, rg.paths.EDM())
    t = den.snap(1.0)
    assert inner.path.time_of_sigma(t) * 1000 == pytest.approx(round(inner.path.time_of_sigma(t) * 1000))
    prediction = den.predict(X, t)
    assert told == [den.network_time(t)]
    assert told[0] == round(inner.path.time_of_sigma(t) * 1000) - 1
    assert prediction.evaluations == {"unet": 1}


def test_levels_outside_the_inner_path_are_refused(mixture):
    den = on_path(mixture(rg.paths.EDM()), rg.paths.Flow())
    with pytest.raises(BadValue, match=r"0.002 <= sigma <= 80, the range of the denoiser's own path edm"):
        den.predict(X, 1.0)

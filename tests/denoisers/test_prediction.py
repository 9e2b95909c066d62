"""One output, read in every parameterization, at every level, or refused for a reason."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import retrograde as rg
from retrograde.denoisers import KINDS, Prediction
from retrograde.denoisers.prediction import conversion
from retrograde.errors import BadValue, UnknownName

PATHS = [rg.paths.VP(), rg.paths.EDM(), rg.paths.Flow(), rg.paths.SubVP(), rg.paths.Trigonometric(), rg.paths.VE()]


@settings(max_examples=100, deadline=None)
@given(
    path=st.sampled_from(PATHS),
    sigma=st.floats(0.01, 40.0),
    source=st.sampled_from(KINDS),
    target=st.sampled_from(KINDS),
    x_0=st.floats(-3, 3),
    eps=st.floats(-3, 3),
)
def test_a_reading_is_the_same_combination_of_data_and_noise(path, sigma, source, target, x_0, eps):
    t = path.time_of_sigma(sigma)
    a, s = path.a(t), path.s(t)
    by_definition = {
        "data": x_0,
        "noise": eps,
        "score": -eps / s,
        "v": a * eps - s * x_0,
        "velocity": path.a_dot(t) * x_0 + path.s_dot(t) * eps,
    }
    c_x, c_value, c_y = conversion(path, t, source, target)
    made = c_x * (a * x_0 + s * eps) + c_value * by_definition[source]
    scale = 1 + abs(by_definition[target]) + abs(c_value * by_definition[source])
    assert made == pytest.approx(by_definition[target], abs=1e-9 * scale)
    assert c_y == 0.0
    x_t = torch.tensor([[a * x_0 + s * eps]], dtype=torch.float64)
    value = torch.tensor([[by_definition[source]]], dtype=torch.float64)
    for time in (t, torch.tensor([t], dtype=torch.float64)):
        read = Prediction(x_t, time, path, value, source).read(target)
        assert float(read) == pytest.approx(by_definition[target], abs=1e-9 * scale)


def test_reading_does_not_change_what_is_stored():
    path = rg.paths.VP()
    x_t, value = torch.ones(2, 3), torch.full((2, 3), 0.5)
    prediction = Prediction(x_t, 0.4, path, value, "noise")
    for kind in KINDS:
        prediction.read(kind)
    assert torch.equal(x_t, torch.ones(2, 3))
    assert torch.equal(value, torch.full((2, 3), 0.5))
    assert prediction.noise is value


@pytest.mark.parametrize("path", [rg.paths.Flow(), rg.paths.Trigonometric()])
def test_the_ends_say_what_they_cannot_say(path):
    for source in ("noise", "score"):
        for target in ("data", "v", "velocity"):
            with pytest.raises(BadValue, match=f"from a '{source}' prediction at t=1.0, where {path.name} holds no signal"):
                conversion(path, 1.0, source, target)
    assert conversion(path, 1.0, "noise", "score")[:2] == (0.0, -1.0)
    assert conversion(path, 1.0, "score", "noise")[:2] == (0.0, -1.0)
    for source in ("data", "noise", "v", "velocity"):
        with pytest.raises(BadValue, match="the score at t=0.0|score"):
            conversion(path, 0.0, source, "score")
    assert conversion(path, 0.0, "data", "noise")[:2] == (0.0, 0.0)  # without noise its mean is zero
    assert conversion(path, 0.0, "noise", "data")[0] == pytest.approx(1.0)
    with pytest.raises(UnknownName, match="unknown prediction 'eps'"):
        conversion(path, 0.5, "data", "eps")


def test_a_transform_derives_a_new_prediction():
    path = rg.paths.VP()
    old = Prediction(torch.ones(1, 2), 0.5, path, torch.zeros(1, 2), "noise", evaluations={"n": 1})
    new = old.derive(torch.full((1, 2), 3.0), "data", parts={"before": old})
    assert (new.kind, new.parts["before"], new.evaluations) == ("data", old, {"n": 1})
    assert torch.equal(new.data, torch.full((1, 2), 3.0))

"""The adapter around a network: what it is told, what it may answer, and what its conditions look like."""

import math

import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.denoisers import predict_branches, prepare_condition
from retrograde.errors import BadType, BadValue, ShapeError, UnknownName

X = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)


def spy(path: rg.paths.Path, predicts: str = "data", **options: object) -> tuple[rg.Denoiser, list]:
    calls: list = []

    def network(x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        calls.append((x, t, conditions))
        return 0.5 * x

    return rg.Denoiser(network, path, predicts, (2,), **options), calls


def test_a_continuous_network_is_told_the_path_time():
    den, calls = spy(rg.paths.VP())
    den.predict(X, 0.25)
    den.predict(X, torch.tensor([0.25, 0.5]))
    den.predict(X, 0.25, network_time=0.3)
    assert [t.tolist() for _, t, _ in calls] == [[0.25, 0.25], [0.25, 0.5], pytest.approx([0.3, 0.3])]
    assert all(t.dtype == torch.float32 for _, t, _ in calls)


def test_a_discrete_network_is_told_its_index(path_called):
    den, calls = spy(path_called("vp_discrete"), "noise")
    den.predict(X, 1.0)
    den.predict(X, torch.tensor([0.001, 0.5]))
    assert [t.tolist() for _, t, _ in calls] == [[999.0, 999.0], [0.0, 499.0]]
    assert den.snap(0.50049) == 0.5
    assert (den.snap(0.0), den.snap(2.0)) == (0.001, 1.0)
    assert den.network_time(0.0) == 0.0


def test_a_clock_translates():
    den, calls = spy(rg.paths.Flow(), clock=lambda t: 1000 * t)
    den.predict(X, 0.25)
    assert calls[0][1].tolist() == [250.0, 250.0]


@pytest.mark.parametrize("path_name", ["edm", "vp", "ve"])
def test_edm_preconditioning_is_the_published_one(path_name, path_called):
    """Karras et al., 2022, table 1, on x = x_t/a."""
    path = path_called(path_name)
    t, d = path.time_of_sigma(0.7), 0.5
    den, calls = spy(path, "edm", sigma_data=d)
    sigma, x = path.sigma(t), X / path.a(t)
    prediction = den.predict(X, t)
    inner = x / math.sqrt(sigma**2 + d**2)
    expected = d**2 / (sigma**2 + d**2) * x + sigma * d / math.sqrt(sigma**2 + d**2) * 0.5 * inner
    assert torch.allclose(prediction.data, expected)
    assert torch.allclose(calls[0][0], inner)
    assert calls[0][1].tolist() == pytest.approx([math.log(sigma) / 4] * 2)
    many = den.predict(X, torch.tensor([t, t], dtype=torch.float64))
    assert torch.allclose(many.data, expected)


def test_the_network_computes_in_its_own_type():
    den, calls = spy(rg.paths.VP(), dtype=torch.bfloat16)
    assert den.predict(X, 0.5).value.dtype == torch.float64
    assert calls[0][0].dtype == torch.bfloat16
    assert calls[0][1].dtype == torch.float32


def test_conditions_reach_the_network():
    den, calls = spy(rg.paths.VP(), conditions={"label": -1, "text": torch.zeros(3)})
    den(X, 0.5, label=3)
    den(X, 0.5, label=[1, 2], text=torch.ones(2, 3))
    den(X, 0.5)
    assert [c["label"].tolist() for _, _, c in calls] == [[3, 3], [1, 2], [-1, -1]]
    assert [c["text"][:, 0].tolist() for _, _, c in calls] == [[0, 0], [1, 1], [0, 0]]


def test_conditions_are_checked():
    den, _ = spy(rg.paths.VP(), conditions={"label": -1})
    assert prepare_condition(den, 4, 2)["label"].tolist() == [4, 4]
    assert prepare_condition(den, torch.tensor([4, 5]), 2)["label"].tolist() == [4, 5]
    with pytest.raises(UnknownName, match="did you mean 'label'"):
        den(X, 0.5, lable=1)
    with pytest.raises(BadValue, match=r"shape \[3\] for 2 items"):
        den(X, 0.5, label=[1, 2, 3])
    none, _ = spy(rg.paths.VP())
    with pytest.raises(BadValue, match="it takes none"):
        prepare_condition(none, 4, 2)
    both, _ = spy(rg.paths.VP(), conditions={"label": -1, "text": torch.zeros(3)})
    with pytest.raises(BadValue, match=r"pass condition=\{name: value\}"):
        prepare_condition(both, 4, 2)


def test_a_batch_of_conditions_is_split_with_the_batch():
    means = torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, 0.0]])
    den = rg.oracles.GaussianMixture(rg.paths.VP(), means, 0.01, labels=[0, 1, 2])
    plan = rg.plan("ddim", den, nfe=6)
    for condition in ([0, 1, 2], torch.tensor([0, 1, 2]), {"label": [0, 1, 2]}):
        samples = rg.sample(den, plan, n=3, condition=condition)
        assert torch.allclose(samples, means, atol=0.6)
        for size in (1, 2):
            assert torch.equal(rg.sample(den, plan, n=3, condition=condition, batch_size=size), samples)
    same = rg.sample(den, plan, n=3, condition=1, batch_size=2)
    assert torch.allclose(same, means[[1, 1, 1]], atol=0.6)
    with pytest.raises(BadValue, match="for 3 items"):
        rg.sample(den, plan, n=3, condition=[0, 1], batch_size=1)


def test_branches_are_asked_in_one_call():
    den, calls = spy(rg.paths.VP(), conditions={"label": -1})
    one, two = ({"label": torch.tensor(v)} for v in ([1, 2], [3, 4]))
    parts = predict_branches(den, X, torch.tensor([0.3, 0.6]), {"up": one, "down": two})
    assert len(calls) == 1
    assert calls[0][2]["label"].tolist() == [1, 2, 3, 4]
    assert calls[0][1].tolist() == pytest.approx([0.3, 0.6, 0.3, 0.6])
    assert parts["up"].evaluations == {"network:up": 1}
    assert torch.equal(parts["down"].value, den.predict(X, 0.3, {"label": torch.tensor([3, 4])}).value)


def test_mistakes_are_explained():
    with pytest.raises(UnknownName, match="unknown prediction 'eps'"):
        rg.Denoiser(lambda x, t: x, rg.paths.VP(), "eps", (2,))
    with pytest.raises(BadType, match="a path"):
        rg.Denoiser(lambda x, t: x, "vp", "noise", (2,))
    den, _ = spy(rg.paths.VP())
    with pytest.raises(ShapeError, match=r"shape=\(3,\)"):
        den.predict(torch.zeros(2, 3), 0.5)
    wide = rg.Denoiser(lambda x, t: torch.cat([x, x], 1), rg.paths.VP(), "noise", (2,))
    with pytest.raises(ShapeError, match="learned variance"):
        wide.predict(X, 0.5)

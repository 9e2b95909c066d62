"""A plan gives one trajectory whatever the network predicts, and on whatever path it was trained."""

import pytest
import torch

import retrograde as rg
from retrograde.denoisers import KINDS, on_path
from retrograde.errors import BadValue

# oracles are exact for Gaussian noise; a path with another law of noise is judged by its own tests
GAUSSIAN = [name for name in rg.paths.names() if "score" in rg.paths.get(name).identities]
# the latent noise of an interpolant falls again towards its start: no chain that adds noise has it
NO_CHAIN = {("rddm", "interpolant"), ("resfusion", "interpolant")}
NOISY_END_WITHOUT_SIGNAL = ("flow", "residual_noise", "tabulated", "trigonometric")


def wide(mixture, predicts: str) -> rg.oracles.GaussianMixture:
    """The mixture on a path whose levels contain those of every other."""
    return mixture(rg.paths.EDM(sigma_min=1e-7, sigma_max=1e7), predicts)


@pytest.mark.parametrize("path_name", ["edm", "flow", "mean_reverting", "vp", "vp_discrete"])
@pytest.mark.parametrize("name", rg.recipes.names())
def test_the_parameterization_does_not_change_the_samples(name, path_name, path_called, mixture, anchor_for):
    path = path_called(path_name)
    plan = rg.plan(name, path, nfe=10, grid="log_snr", start=10.0)
    beside = anchor_for(path, 3, 2)
    reference = rg.sample(mixture(path), plan, n=3, seed=1, dtype=torch.float64, **beside)
    for kind in (*KINDS[1:], *path.targets):
        samples = rg.sample(mixture(path, kind), plan, n=3, seed=1, dtype=torch.float64, **beside)
        assert torch.allclose(samples, reference, rtol=0, atol=1e-6), kind


@pytest.mark.parametrize("path_name", GAUSSIAN)
@pytest.mark.parametrize("name", rg.recipes.names())
def test_a_denoiser_of_another_path_gives_the_same_samples(name, path_name, path_called, mixture, anchor_for):
    path = path_called(path_name)
    if (name, path_name) in NO_CHAIN:
        with pytest.raises(BadValue, match="the noise of the path rises"):
            rg.plan(name, path, nfe=7)
        return
    plan = rg.plan(name, path, nfe=7, grid="log_snr", start=min(10.0, path.sigma(path.t_max)))
    beside = anchor_for(path, 3, 2)
    own = rg.sample(mixture(path), plan, n=3, seed=1, dtype=torch.float64, **beside)
    for kind in ("data", "velocity"):
        moved = rg.sample(on_path(wide(mixture, kind), path), plan, n=3, seed=1, dtype=torch.float64, **beside)
        assert torch.allclose(moved, own, rtol=0, atol=1e-6), kind


@pytest.mark.parametrize("path_name", NOISY_END_WITHOUT_SIGNAL)
@pytest.mark.parametrize("name", rg.recipes.names())
def test_where_there_is_no_signal_the_impossible_reading_is_named(name, path_name, path_called, mixture, anchor_for):
    path = path_called(path_name)
    plan = rg.plan(name, path, nfe=6, grid="karras")
    beside = anchor_for(path, 2, 2)
    reference = rg.sample(mixture(path), plan, n=2, dtype=torch.float64, **beside)
    for kind in KINDS[1:]:
        if plan.times[0] == path.t_max and kind in ("noise", "score"):
            with pytest.raises(BadValue, match=f"from a '{kind}' prediction at t=.*, where {path_name} holds no signal"):
                rg.sample(mixture(path, kind), plan, n=2, **beside)
        else:
            samples = rg.sample(mixture(path, kind), plan, n=2, dtype=torch.float64, **beside)
            assert torch.allclose(samples, reference, rtol=0, atol=1e-6), kind


@pytest.mark.parametrize("path_name", NOISY_END_WITHOUT_SIGNAL)
@pytest.mark.parametrize("name", [name for name in rg.recipes.names() if name.startswith(("deis", "dpm_", "ipndm"))])
def test_a_table_of_noise_predictions_cannot_start_without_signal(name, path_name, path_called):
    path = path_called(path_name)
    with pytest.raises(BadValue, match="holds no signal"):
        rg.plan(name, path, grid=[path.t_max, 0.5 * path.t_max, 0.1 * path.t_max])


def test_every_path_without_signal_at_its_end_is_listed(path_called):
    ends = {name: path_called(name) for name in rg.paths.names()}
    assert {name for name, path in ends.items() if path.a(path.t_max) == 0.0} == set(NOISY_END_WITHOUT_SIGNAL)


@pytest.mark.parametrize("kind", KINDS)
def test_precision_of_the_state_follows_the_caller(kind, mixture):
    den = mixture(rg.paths.VP(), kind)
    plan = rg.plan("dpmpp_2m", den.path, nfe=10)
    half, single, double = (rg.sample(den, plan, n=4, dtype=d) for d in (torch.bfloat16, torch.float32, torch.float64))
    assert (half.dtype, single.dtype, double.dtype) == (torch.bfloat16, torch.float32, torch.float64)
    assert torch.allclose(single.double(), double, atol=1e-4)
    assert torch.allclose(half.double(), double, atol=0.5)


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp"])
@pytest.mark.parametrize("name", rg.recipes.names())
def test_single_precision_agrees_with_double(name, path_name, path_called, mixture):
    den = mixture(path_called(path_name))
    plan = rg.plan(name, den.path, nfe=10)
    single, double = (rg.sample(den, plan, n=4, seed=2, dtype=d) for d in (torch.float32, torch.float64))
    assert torch.allclose(single.double(), double, rtol=0, atol=2e-3)


def test_a_wrong_parameterization_is_seen(mixture):
    """The comparison can fail: a network that answers in another parameterization than it says gives other samples."""
    path = rg.paths.VP()
    plan = rg.plan("ddim", path, nfe=10)

    def network(x_t: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return mixture(path, "noise").predict(x_t, float(told[0])).value

    right, wrong = (rg.sample(rg.Denoiser(network, path, k, (2,)), plan, n=3) for k in ("noise", "v"))
    assert not torch.allclose(right, wrong, atol=1e-2)

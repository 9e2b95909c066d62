"""A trained reader of noise levels against the exact posterior, and in a chain of denoising MCMC."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.controllers import Levels, denoising_mcmc
from retrograde.data import digits8
from retrograde.errors import BadValue
from retrograde.nets import Classifier
from retrograde.train import fit_noise_classifier, noise_posterior

LEVELS = Levels.geometric(0.05, 20.0, 20)


def images() -> torch.Tensor:
    return digits8("train")[0].reshape(-1, 1, 8, 8).float()


@pytest.fixture(scope="module")
def trained() -> tuple[Classifier, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Classifier(1, 20)
    return network, fit_noise_classifier(network, images(), LEVELS.s, steps=150)


def test_it_reads_most_of_what_the_exact_posterior_knows(trained):
    """Cross-entropy on held-out digits between that of the exact mixture of the training data and an even guess."""
    network, loss = trained
    generator = torch.Generator().manual_seed(9)
    clean = digits8("test")[0].reshape(-1, 1, 8, 8).float()[:300]
    k = torch.randint(20, (300,), generator=generator)
    noised = clean + LEVELS.s[k].float().reshape(-1, 1, 1, 1) * torch.randn(clean.shape, generator=generator)
    path = rg.paths.EDM(sigma_min=float(LEVELS.s[0]), sigma_max=float(LEVELS.s[-1]))
    exact = LEVELS.exact(rg.oracles.GaussianMixture(path, images().flatten(1), 0.02))(noised.flatten(1))
    best = float(-torch.log_softmax(exact, 1)[torch.arange(300), k].mean())
    found = noise_posterior(network)(noised)
    reached = float(-found[torch.arange(300), k].mean())
    assert best < reached < best + 0.5 * (math.log(20) - best)
    assert reached == pytest.approx(loss, abs=0.4)
    assert float((found.argmax(1) - k).abs().float().mean()) < 1.5
    assert torch.allclose(found.exp().sum(1), torch.ones(300), atol=1e-5)


def test_a_chain_runs_on_it(trained):
    made = denoising_mcmc(
        rg.load("digits8-flow"), LEVELS, noise_posterior(trained[0]), 4, 2, skip=2, nfe=5, eta=0.02, burn_in=2
    )
    assert made.shape == (4, 2, 1, 8, 8)
    assert float((made.flatten(2).mean(2) - images().mean()).abs().max()) < 0.3


def test_training_is_reproducible_and_checked():
    runs = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Classifier(1, 20)
        runs.append(fit_noise_classifier(network, images()[:64], LEVELS.s, steps=2, batch=8))
    assert runs[0] == runs[1]
    with pytest.raises(BadValue, match="0 steps"):
        fit_noise_classifier(network, images(), LEVELS.s, steps=0)

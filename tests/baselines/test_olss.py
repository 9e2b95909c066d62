import pytest
import torch

import retrograde as rg
from retrograde.tune import Reference, teach


@pytest.mark.parametrize("path", [rg.paths.EDM(), rg.paths.VP()])
def test_olss_is_exact_where_its_subspace_holds_the_answer(path):
    # isotropic Gaussian data: every state lies in the span of x_T and its first noise prediction
    data = rg.oracles.Gaussian(path, torch.tensor([0.5, -0.3, 0.2]), 0.3)
    plan = rg.baselines.olss(data, 3, n=64, levels=200)
    assert plan.nfe == 3
    assert plan.recipe == "olss@1"
    reference = Reference(data, range(64), 9, teach(data, 64, 9, levels=200).end)
    assert float(reference.errors(plan).mean().sqrt()) < 5e-3
    ddim = rg.plan("ddim", path, nfe=3)
    assert float(reference.errors(ddim).mean().sqrt()) > 5e-2


def test_olss_improves_with_evaluations():
    means = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    data = rg.oracles.GaussianMixture(rg.paths.Flow(), means, 0.05)
    reference = Reference(data, range(64), 9, teach(data, 64, 9, levels=100).end)
    errors = [float(reference.errors(rg.baselines.olss(data, nfe)).mean().sqrt()) for nfe in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2]

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
    teacher = teach(data, 64, 9, levels=200)
    exact = data.flow(teacher.states[0].double(), path.t_max, None).float()
    error = float(Reference(data, range(64), 9, exact).errors(plan).mean().sqrt())
    # the mean of the data enters the first prediction with weight a(T): the teacher's error is divided by it
    taught = float((teacher.end - exact).pow(2).mean().sqrt())
    assert error < 2 * taught / path.a(path.t_max) + 1e-5
    ddim = rg.plan("ddim", path, nfe=3)
    assert float(Reference(data, range(64), 9, exact).errors(ddim).mean().sqrt()) > 5 * error


def test_olss_improves_with_evaluations():
    means = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    data = rg.oracles.GaussianMixture(rg.paths.Flow(), means, 0.05)
    reference = Reference(data, range(64), 9, teach(data, 64, 9, levels=100).end)
    errors = [float(reference.errors(rg.baselines.olss(data, nfe)).mean().sqrt()) for nfe in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2]

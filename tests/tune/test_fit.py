import dataclasses

import torch

import retrograde as rg
from retrograde.denoisers import prepare_condition
from retrograde.tune import Reference
from retrograde.tune.fit import Fitter, ridge_towards
from retrograde.tune.levels import OnPolicy, Surrogate, descend, starts
from retrograde.tune.teacher import levels_of, teach


def test_ridge_runs_from_least_squares_to_theory():
    generator = torch.Generator().manual_seed(0)
    regressors = [torch.randn(50, 3, generator=generator) for _ in range(3)]
    target = torch.randn(50, 3, generator=generator)
    prior = [1.0, -2.0, 0.5]
    columns = torch.stack([r.flatten() for r in regressors], 1).double()
    exact = torch.linalg.lstsq(columns, target.flatten().double()[:, None]).solution[:, 0]
    assert torch.allclose(torch.tensor(ridge_towards(prior, regressors, target, 0.0)).double(), exact, atol=1e-6)
    assert torch.allclose(torch.tensor(ridge_towards(prior, regressors, target, 1e9)), torch.tensor(prior), atol=1e-6)


def test_a_fit_held_to_theory_is_the_published_table(mixture):
    teacher = teach(mixture, 16, 0, levels=24)
    fitter = Fitter(mixture, teacher, {}, ridge=1e12)
    levels = (0, 8, 14, 20)
    fitted = fitter.run(levels)[1].rows
    theory = rg.recipes.get("dpmpp_3m").compile(mixture.path, [teacher.times[k] for k in levels]).rows
    for row, published in zip(fitted, theory, strict=True):
        assert torch.allclose(
            torch.tensor(row.states + row.outputs[: len(published.outputs)]).float(),
            torch.tensor(published.states + published.outputs).float(),
            atol=1e-5,
        )


def test_the_first_row_carries_gaussian_data_exactly(gaussian):
    teacher = teach(gaussian, 4096, 0, levels=24, batch_size=4096)
    fitter = Fitter(gaussian, teacher, {})
    for k in (3, 10, 18):
        exact = gaussian.flow(teacher.states[0], teacher.times[0], teacher.times[k])
        carried = fitter.start(k).x
        spread = (exact - exact.mean(0)).pow(2).mean().sqrt()
        # the moments are those of 4096 samples: three percent is their sampling error
        assert (carried - exact).pow(2).mean().sqrt() < 0.03 * spread
        scaled = teacher.states[0] * (teacher.times[k] / teacher.times[0])
        assert (scaled - exact).pow(2).mean().sqrt() > 0.06 * spread or k == 3


def test_teacher_levels_fall_from_the_noise_end(mixture):
    for path in (rg.paths.EDM(), rg.paths.VP(), rg.paths.Flow()):
        times = levels_of(dataclasses.replace(mixture, path=path), 40)
        assert times[0] == path.t_max
        assert all(x > y for x, y in zip(times, times[1:], strict=False))


def test_teacher_keeps_the_run(mixture):
    teacher = teach(mixture, 5, 3, levels=12, batch_size=2, first_item=7)
    plan = rg.recipes.get("dpmpp_3m").compile(mixture.path, teacher.times)
    samples = [state.x_t for state in rg.steps(plan, mixture, 5, 3, items=range(7, 12))]
    assert torch.equal(samples[-1], teacher.end)
    assert torch.equal(samples[4], teacher.states[5])


def test_students_of_a_common_beginning_are_reused_exactly(mixture):
    fitter = Fitter(mixture, teach(mixture, 16, 0, levels=24), {})
    policy = OnPolicy(fitter)
    policy((0, 8, 14, 20))
    before = policy.evaluations
    late = policy((0, 8, 15, 21))
    assert policy.evaluations - before == 2
    assert late == OnPolicy(fitter)((0, 8, 15, 21))


def test_the_surrogate_ranks_levels(mixture):
    fitter = Fitter(mixture, teach(mixture, 48, 0, levels=32), {})
    surrogate, policy = Surrogate.of(fitter), OnPolicy(fitter)
    random = list(starts(fitter.teacher, 4, 12, 0))
    scores = torch.tensor([[surrogate(levels), policy(levels)] for levels in random])
    ranks = scores.argsort(0).argsort(0).double()
    assert torch.corrcoef(ranks.T)[0, 1] > 0.5
    chosen, value = descend(surrogate, random[0], 32)
    assert value <= scores[:, 0].min() or policy(chosen) < scores[:, 1].median()


def test_the_first_row_carries_the_mean_to_the_mean(gaussian):
    for path in (rg.paths.EDM(), rg.paths.SubVP(beta_max=2.0)):  # both hold signal at the noise end
        data = dataclasses.replace(gaussian, path=path)
        teacher = teach(data, 32, 0, levels=12)
        fitter = Fitter(data, teacher, {}, samples=torch.tensor([1.0, -1.0, 0.5, 0.0]) + torch.eye(4))
        row, mean = fitter.carry(5), fitter.moments.mean
        carried = row.states[0](path.a(path.t_max) * mean[None])[0] + row.shift
        assert torch.allclose(carried, path.a(teacher.times[5]) * mean, atol=1e-5)


def test_the_fitted_plan_is_what_the_student_ran(mixture):
    labelled = dataclasses.replace(mixture, labels=[i % 3 for i in range(200)])
    condition = prepare_condition(labelled, [i % 3 for i in range(24)], 24)
    teacher = teach(labelled, 24, 0, levels=24, condition=condition)
    for element in (None, 0.1):
        fitter = Fitter(labelled, teacher, condition, element=element, batch_size=7)
        arrived = fitter.run((3, 9, 15))[1]
        reference = Reference(labelled, range(24), 0, teacher.end, condition)
        assert torch.allclose(reference.run(fitter.plan(arrived.rows, {})), arrived.x, atol=1e-4)

"""A teacher with an easier task: the tower property on Gaussian data, every parameterization, and small digits."""

import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.train import degraded, easier_target_loss, loss

PATH = rg.paths.VP()
DOUBLE = torch.float64


def correlated(d: int) -> Tensor:
    """Covariance of a smooth signal of d samples."""
    place = torch.arange(d, dtype=DOUBLE)
    return torch.exp(-0.5 * ((place[:, None] - place) / 2.0) ** 2) + 0.05 * torch.eye(d, dtype=DOUBLE)


def averaging(d: int, by: int) -> Tensor:
    return torch.eye(d // by, dtype=DOUBLE).repeat_interleave(by, 1) / by


def best(covariance: Tensor, seen: Tensor, noise: Tensor) -> Tensor:
    """The matrix of the mean of x ~ N(0, covariance) given seen x + n, n ~ N(0, noise)."""
    return covariance @ seen.T @ torch.linalg.inv(seen @ covariance @ seen.T + noise)


def told(a: float, s: float, A: Tensor) -> tuple[Tensor, Tensor]:
    """What a network sees of x, (a x + s eps, A x + 0.1 n), as a matrix and a covariance of the noise."""
    d, m = A.shape[1], A.shape[0]
    noise = torch.diag(torch.cat([torch.full((d,), s * s, dtype=DOUBLE), torch.full((m,), 0.01, dtype=DOUBLE)]))
    return torch.cat([a * torch.eye(d, dtype=DOUBLE), A]), noise


@pytest.mark.parametrize("t", [0.3, 0.8])
def test_the_best_student_is_the_exact_one_and_its_target_varies_less(t):
    """The teacher sees averages of 2 with noise, the student averages of these: regressing answers gives its own optimum."""
    covariance, (half, again) = correlated(8), (averaging(8, 2), averaging(4, 2))
    seen, noise = told(PATH.a(t), PATH.s(t), half)
    teacher = best(covariance, seen, noise)
    shrink = torch.block_diag(torch.eye(8, dtype=DOUBLE), again)  # what the student sees is made of what the teacher does
    student = best(covariance, shrink @ seen, shrink @ noise @ shrink.T)
    inputs = seen @ covariance @ seen.T + noise
    distilled = teacher @ inputs @ shrink.T @ torch.linalg.inv(shrink @ inputs @ shrink.T)
    assert torch.allclose(distilled, student, atol=1e-10)

    def left(target: Tensor) -> float:
        """Variance of a target, with this covariance of (target, inputs), that the student cannot say."""
        return float(torch.trace(target))

    explained = student @ shrink @ inputs @ shrink.T @ student.T
    direct = left(covariance - explained)
    taught = left(teacher @ inputs @ teacher.T - explained)
    assert 0.0 < taught < 0.8 * direct


@pytest.mark.parametrize("predicts", ["data", "noise", "v", "velocity", "edm"])
def test_an_answer_is_a_target_in_every_parameterization(predicts):
    """A teacher that answers x_0 gives the loss of x_0; any other gives the weighted distance of the two answers."""
    x_0, eps = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    t = torch.linspace(0.1, 0.9, 6, dtype=DOUBLE)
    held: dict[str, Tensor] = {"low": x_0.mean(1)}
    student = rg.Denoiser(lambda x, t, low: torch.tanh(x) + low[:, None], PATH, predicts, (3,), conditions={"low": 0.0})
    knows = rg.Denoiser(lambda x, t, clean: clean, PATH, "data", (3,), conditions={"clean": torch.zeros(3, dtype=DOUBLE)})
    found = easier_target_loss(student, knows, x_0, t, eps, held, {"clean": x_0})
    assert torch.allclose(found, loss(student, x_0, t, eps, held), rtol=1e-5)
    other = easier_target_loss(student, knows, x_0, t, eps, held, {"clean": x_0 + 1.0})
    assert not torch.allclose(found, other, rtol=1e-2)
    place = t[:, None]
    x_t = PATH.a(place) * x_0 + PATH.s(place) * eps
    said = student(x_t, t, **held).data
    ratio = other / (said - x_0 - 1.0).square().mean(1)
    assert torch.allclose(ratio, found / (said - x_0).square().mean(1), rtol=1e-4)


def test_a_teacher_on_another_path_is_refused():
    x = torch.zeros(2, 3)
    student = rg.Denoiser(lambda x, t: x, PATH, "data", (3,))
    with pytest.raises(BadValue, match="on_path"):
        easier_target_loss(student, rg.Denoiser(lambda x, t: x, rg.paths.EDM(), "data", (3,)), x, torch.ones(2), x, {}, {})


def fitted(low: Tensor, images: Tensor, teacher: rg.Denoiser | None, half: Tensor, seed: int, draws: int) -> rg.Denoiser:
    """The best data mean that random features of (x_t, low, t) can express, with clean digits or a teacher's as target."""
    generator = torch.Generator().manual_seed(seed)
    into = 1.2 * torch.randn(128, 256, generator=generator) / 8.0
    slope, centre = 4.0 * torch.randn(1, 256, generator=generator), torch.rand(256, generator=generator)

    def features(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        both, t = torch.cat([x.flatten(1), y.flatten(1)], 1), t.float()[:, None]
        return torch.cat([torch.relu(both @ into + (t - centre) * slope), both, both * t, torch.ones_like(t)], 1)

    chosen = torch.randint(len(images), (draws,), generator=generator)
    t = PATH.t_min + (PATH.t_max - PATH.t_min) * torch.rand(draws, generator=generator, dtype=DOUBLE)
    place = t.reshape(-1, 1, 1, 1)
    x_t = (PATH.a(place) * images[chosen] + PATH.s(place) * torch.randn((draws, 1, 8, 8), generator=generator)).float()
    target = images[chosen] if teacher is None else teacher(x_t, t, low=half[chosen]).data
    seen = features(x_t, low[chosen], t).double()
    solved = torch.linalg.solve(seen.T @ seen + torch.eye(seen.shape[1]), seen.T @ target.flatten(1).double()).float()

    def network(x: Tensor, told: Tensor, low: Tensor) -> Tensor:
        return (features(x, low, told) @ solved).reshape(x.shape)

    return rg.Denoiser(network, PATH, "data", (1, 8, 8), conditions={"low": torch.zeros(1, 8, 8)})


@pytest.mark.slow
def test_digits_from_a_quarter_gain_most_in_one_step_where_draws_are_few():
    """For as many draws of its own the student gains, most in one step; to draw as often as both is better still."""
    images, unseen = rg.data.digits8("train")[0], rg.data.digits8("test")[0][:300]
    half, quarter, asked = degraded(images, "down:2"), degraded(images, "down:4"), degraded(unseen, "down:4")

    def quality(den: rg.Denoiser, nfe: int) -> float:
        plan = rg.plan("ddim", den, nfe=nfe, grid="uniform")
        made = rg.sample(den, plan, n=300, seed=0, condition={"low": asked})
        return float((10.0 * torch.log10(4.0 / (made - unseen).square().flatten(1).mean(1))).mean())

    for seed in range(2):
        teacher = fitted(half, images, None, half, 100 + seed, 8192)
        few, distilled = (fitted(quarter, images, one, half, seed, 1024) for one in (None, teacher))
        one, four = (quality(distilled, nfe) - quality(few, nfe) for nfe in (1, 4))
        assert one > 1.0
        assert 0.0 < four < one
        many = fitted(quarter, images, None, half, seed, 1024 + 8192)
        assert quality(many, 1) > quality(distilled, 1) + 0.5
        assert 0.0 < quality(fitted(quarter, images, teacher, half, seed, 1024 + 8192), 1) - quality(many, 1) < 0.2

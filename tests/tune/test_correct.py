import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.tune.correct import Lesson, affordable, apply, correction_of, learn, multiplications


@pytest.mark.parametrize("shape", [(6,), (1, 4, 4)])
def test_a_lesson_learns_what_is_not_linear(shape):
    d = torch.Size(shape).numel()
    generator = torch.Generator().manual_seed(0)
    x, m, older = torch.randn(3, 1024, d, generator=generator)
    older = m + 0.01 * older  # a history is nearly equal to itself
    target = 0.3 * torch.tanh(2 * x) * m + 20 * (m - older) * x
    told = [z[:768] for z in (x, m, older)]
    g = learn(told, target[:768], shape, {}, Lesson(width=32, epochs=60))
    made = apply(g, [z[768:] for z in (x, m, older)], shape, {})
    left = (made - target[768:]).square().mean() / target[768:].square().mean()
    assert left < 0.35


def test_a_lesson_hears_the_condition():
    x = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    label = torch.arange(600) % 3
    target = torch.tensor([[1.0, 0, 0], [0, -2.0, 0], [0, 0, 3.0]])[label]
    g = learn([x], target, (3,), {"label": label}, Lesson(width=16, epochs=40))
    assert (apply(g, [x], (3,), {"label": label}) - target).square().mean() < 0.05
    assert (apply(g, [x], (3,), {"label": (label + 1) % 3}) - target).square().mean() > 1.0


def test_a_lesson_on_the_null_class_alone_knows_no_other():
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    null = torch.full((64,), -1)
    g = learn([x], x.tanh(), (3,), {"label": null}, Lesson(width=8, epochs=2))
    assert (apply(g, [x], (3,), {"label": null}) - x.tanh()).square().mean() < x.tanh().square().mean()
    with pytest.raises(BadValue, match="the null class"):
        apply(g, [x], (3,), {"label": null + 1})


def test_a_lesson_repeats_under_its_seed():
    x = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))
    one, other, third = (learn([x], x.tanh(), (4,), {}, Lesson(width=8, epochs=2, seed=s)) for s in (0, 0, 1))
    assert one == other != third


def test_what_is_affordable_is_counted_in_evaluations():
    den = rg.load("digits8-flow")
    cost = multiplications(den, {})
    assert cost == pytest.approx(7.83e6, rel=0.01)
    forms = [affordable(den, 3, share, {}) for share in (0.05, 0.1, 0.3)]
    widths = [form["width"] for form in forms]
    assert widths == sorted(widths)
    assert widths[0] < widths[2]
    assert not any(form["dense"] for form in forms)
    assert affordable(den, 3, 1e-6, {}) is None
    guided = rg.guide.cfg(rg.load("digits"), weight=2.0)
    alone = rg.load("digits")
    told = {"label": torch.tensor([3])}
    assert multiplications(guided, told) == pytest.approx(2 * multiplications(alone, told), rel=1e-6)
    huge = rg.oracles.Gaussian(rg.paths.EDM(), torch.zeros(5000), torch.ones(5000))
    assert affordable(huge, 1, 0.5, {}) is None


def test_beside_a_perceptron_images_get_dense_layers():
    """A perceptron costs less than convolutions over its image do."""
    network = rg.nets.MLPDenoiser((1, 14, 14), width=256, depth=3)
    den = rg.Denoiser(network, rg.paths.VP(), "v", (1, 14, 14))
    form, budget = affordable(den, 4, 0.1, {}), 0.1 * multiplications(den, {})
    assert form == {"width": 64, "dense": True}
    assert correction_of(den.shape, 5, **form).multiplications <= budget
    assert correction_of(den.shape, 5, 96, dense=True).multiplications > budget
    assert correction_of(den.shape, 5, 8).multiplications > budget
    assert correction_of(den.shape, 5, 8).multiplications < 0.5 * multiplications(den, {})
    assert affordable(den, 4, 0.5, {}) == {"width": 256, "dense": True}, "narrow convolutions would be cheap enough too"


def test_dense_layers_learn_what_convolutions_cannot_see():
    """What an image lacks at one end hangs on its other end, out of a convolution's sight."""
    x = torch.randn(2048, 64, generator=torch.Generator().manual_seed(0))
    residual = x.flip(1).tanh()
    lesson = Lesson(width=64, epochs=12, dense=True)
    left = {}
    for dense in (True, False):
        g = learn([x[:1536]], residual[:1536], (1, 8, 8), {}, dataclasses.replace(lesson, dense=dense))
        made = apply(g, [x[1536:]], (1, 8, 8), {})
        left[dense] = float((made - residual[1536:]).square().mean() / residual.square().mean())
    assert left[True] < 0.1
    assert left[True] < 0.5 * left[False]

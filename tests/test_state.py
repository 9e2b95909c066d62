"""What a run holds can be cut to some of its items."""

import torch

import retrograde as rg
from retrograde.denoisers.prediction import Reading
from retrograde.state import Memory, Resampled


def test_a_memory_of_some_items_is_theirs_alone():
    x = torch.arange(12.0).reshape(4, 3)
    memory = Memory((x, -x), (2 * x,), (3 * x,), {(1.0, 0.5): 2}, {"kept": torch.arange(4)})
    for places in ([2, 0, 0], torch.tensor([2, 0, 0])):
        some = memory.of(places)
        assert torch.equal(some.states[1], -x[[2, 0, 0]])
        assert torch.equal(some.carried["kept"], torch.tensor([2, 0, 0]))
        assert (len(some.outputs), len(some.noises), some.visits) == (1, 1, memory.visits)


def test_a_reading_goes_with_its_state_and_its_answer():
    x, answer = torch.randn(4, 3), torch.randn(4, 3)
    some = Memory((x,), (Reading(0.5, x, -2.0, answer),)).of([2, 0])
    assert torch.allclose(some.outputs[0], 0.5 * x[[2, 0]] - 2.0 * answer[[2, 0]])
    assert some.kept[0].x_t is some.states[0]  # one tensor before, and one after


def test_what_particles_remember_is_in_the_state_and_goes_on():
    """The answer's `carried` is taken as it is, everything else follows the ancestors, predictions and parts included."""
    path = rg.paths.VP()
    den = rg.oracles.GaussianMixture(path, torch.eye(3), 0.1, labels=[0, 1, 2])
    order = torch.tensor([1, 1, 2])

    class Turn:
        def resample(self, state, noise):
            seen = state.memory.carried.get("turns", torch.zeros(3))
            return Resampled(order if state.index == 1 else None, {"turns": seen + torch.arange(3)})

    plan = rg.plan("ddim", path, nfe=4)
    moved = list(rg.steps(plan, rg.guide.cfg(den, 2.0), n=3, condition=[0, 1, 2], particles=Turn()))
    plain = list(rg.steps(plan, rg.guide.cfg(den, 2.0), n=3, condition=[0, 1, 2]))
    assert torch.equal(moved[3].memory.carried["turns"], 4.0 * torch.arange(3))
    assert torch.equal(moved[1].mean, plain[1].mean[order])
    parts = moved[1].prediction.parts["conditional"]
    assert torch.equal(parts.value, plain[1].prediction.parts["conditional"].value[order])
    assert moved[1].ancestors is order
    assert moved[2].ancestors is None
    assert moved[2].plan.recipe == plan.recipe

"""Groups of particles in a run: reproducible, independent, cut and continued, with the law that potentials ask."""

import dataclasses
import math

import pytest
import torch

import retrograde as rg
from retrograde import particles as ps
from retrograde.errors import BadValue, ShapeError, UnknownName
from retrograde.run import NonFinite

LIKED = 1.5


def liking(data, t):
    return -2.0 * (data[:, 0] - LIKED).square()


def states(den, plan, n, **options):
    return list(rg.steps(plan, den, n=n, **options))


def tilted(model, power=1.0):
    return lambda x: model.log_prob(x, 1e-9) + power * liking(x, None)


@pytest.fixture
def plan(path):
    return rg.plan("ddpm", path, nfe=40)


@pytest.fixture
def fine(path):
    return rg.plan("euler_maruyama", path, nfe=100, grid="log_snr")


@pytest.mark.parametrize("form", ["difference", "max", "sum"])
def test_every_form_of_a_potential_ends_at_the_whole_of_it(form, one, plan):
    potential = ps.Potential(liking, scale=0.5, form=form)
    seen = states(one, plan, 32, particles=ps.Weighted(32, potential, threshold=0.0, last=False))
    assert torch.allclose(ps.log_weights(seen[-1]), 0.5 * liking(seen[-1].x_t, None).double(), atol=1e-5)
    rewards = torch.stack([0.5 * liking(state.mean, state.t).double() for state in seen[:-1]])
    gains = {"difference": rewards[-1], "max": rewards.cummax(0).values.sum(0), "sum": rewards.cumsum(0).sum(0)}
    assert torch.allclose(ps.log_weights(seen[-2]), gains[form], rtol=1e-5)


def test_particles_with_a_potential_have_the_tilted_law(one, fine, quick, distance):
    """The floor of 8000 draws is 0.012; the model's own samples by the same rows are 0.02 from its own law."""
    n = 8000
    assert distance(rg.sample(one, fine, n=n, noise=quick), tilted(one)) > 0.5
    assert distance(rg.sample(one, fine, n=n, noise=quick, particles=ps.Weighted(n, liking)), tilted(one)) < 0.03


def test_the_law_does_not_depend_on_scheme_threshold_or_tempering(one, fine, quick, distance):
    n = 4000
    for setting in (
        {"scheme": "residual"},
        {"scheme": "stratified", "threshold": 1.0},
        {"scheme": "multinomial"},
        {"low": 0.3, "high": 3.0},
        {"potential": ps.Potential(liking, tempering=0.7)},
    ):
        x = rg.sample(one, fine, n=n, noise=quick, particles=ps.Weighted(n, **{"potential": liking, **setting}))
        assert distance(x, tilted(one)) < 0.06, setting
    state = states(one, fine, n, noise=quick, particles=ps.Weighted(n, liking, threshold=0.0, last=False))[-1]
    assert distance(state.x_t, tilted(one), ps.normalized(ps.log_weights(state))) < 0.04
    assert distance(state.x_t, tilted(one)) > 0.5


def test_twisted_particles_have_the_tilted_law_whatever_the_proposal(one, fine, quick, distance):
    """One and a half of the gradient or a tenth: weights make up for it; without them a proposal has another law."""
    n = 8000
    for weight in (1.5, 0.1):
        den = rg.guide.loss(one, lambda data, t: -liking(data, t), weight)
        assert distance(rg.sample(den, fine, n=n, noise=quick, particles=ps.Weighted(n, liking)), tilted(one)) < 0.04
        assert distance(rg.sample(den, fine, n=n, noise=quick), tilted(one)) > 0.15
    # with the kernels' ratio and no potential the particles are the model's own again
    assert distance(rg.sample(den, fine, n=n, noise=quick, particles=ps.Weighted(n)), tilted(one, 0.0)) < 0.06


def test_an_exact_twist_leaves_the_weights_alike(path, quick):
    """Gaussian data and a potential that knows the spread of x_0 given x_t: the guided model is exact."""
    den = rg.oracles.Gaussian(path, torch.zeros(1), 1.0)
    width, y, n = 0.1, 2.0, 200

    def likelihood(data, t):
        variance = width**2 + (0.0 if t is None else path.s(t) ** 2)
        return -0.5 * (data[:, 0] - y).square() / variance - 0.5 * math.log(variance)

    plan = rg.plan("ddpm", path, nfe=200)
    sizes = []
    for led in (den, rg.guide.loss(den, lambda data, t: -likelihood(data, t), 1.0)):
        state = states(led, plan, n, noise=quick, particles=ps.Weighted(n, likelihood, threshold=0.0, last=False))[-1]
        sizes.append(float(ps.effective_size(ps.log_weights(state))))
    mean = float((ps.normalized(ps.log_weights(state)) * state.x_t[:, 0]).sum())
    assert sizes[1] > 0.8 * n > 8 * sizes[0]
    assert abs(mean - y / (1 + width**2)) < 4 * width / n**0.5


def test_groups_are_independent_and_reproducible(one, plan):
    """A group of items is the same particles alone, in any batch, and cut in the middle of the run."""
    kept = ps.Weighted(4, liking, threshold=0.9)
    for rows in (plan, ps.ask_first(plan)):
        whole = rg.sample(one, rows, n=12, seed=3, particles=kept)
        assert torch.equal(rg.sample(one, rows, n=12, seed=3, batch_size=5, particles=kept), whole)
        assert torch.equal(rg.sample(one, rows, n=4, seed=3, items=range(4, 8), particles=kept), whole[4:8])
        assert not torch.equal(rg.sample(one, rows, n=12, seed=3), whole)
        seen = states(one, rows, 12, seed=3, particles=kept)
        assert any(state.ancestors is not None for state in seen)
        for cut in (0, 7, 8, 20, 33):
            rest = rows[cut + 1 :]
            again = states(one, rest, 12, seed=3, state=seen[cut], particles=kept)[-1]
            assert torch.equal(again.x_t, whole)
            assert torch.equal(ps.log_weights(again), ps.log_weights(seen[-1]))
            assert torch.equal(rg.sample(one, rest, n=12, seed=3, state=seen[cut], batch_size=4, particles=kept), whole)


def test_groups_resample_each_at_its_own_time(one, plan):
    seen = states(one, plan, 12, seed=3, particles=ps.Weighted(4, liking, threshold=0.7))
    moved = [
        (state.ancestors.view(3, 4) != torch.arange(12).view(3, 4)).any(1)
        for state in seen[:-1]
        if state.ancestors is not None
    ]
    assert any(bool(groups.any()) and not bool(groups.all()) for groups in moved)
    for state in seen:
        if state.ancestors is not None:
            assert torch.equal(state.ancestors // 4, torch.arange(12) // 4)


def test_what_failed_takes_its_group_along(one, plan):
    """A network that fails for one item leaves the groups of the others as they would have been."""

    def network(x, t):
        bad = torch.where(x.new_tensor(range(len(x))) == 5, float("nan"), 1.0)
        return x * (bad[:, None] if len(x) == 12 else 1.0)

    den = rg.Denoiser(network, one.path, predicts="noise", shape=(1,))
    with pytest.raises(NonFinite) as raised:
        rg.sample(den, plan, n=12, particles=ps.Weighted(4, liking))
    assert raised.value.finished == [0, 1, 2, 3, 8, 9, 10, 11]
    alone = rg.sample(den, plan, n=4, items=range(8, 12), particles=ps.Weighted(4, liking))
    assert torch.equal(raised.value.samples[4:], alone)


def test_the_ledger_counts_verdicts_apart(one, plan):
    last = states(one, plan, 8, particles=ps.Weighted(4, liking))[-1]
    assert last.ledger.verdicts == plan.nfe == last.ledger.nfe


def test_asking_first_changes_no_plain_run_and_gives_copies_noise_of_their_own(one, plan):
    split = ps.ask_first(plan)
    assert split.nfe == plan.nfe
    assert torch.equal(rg.sample(one, split, n=6, seed=1), rg.sample(one, plan, n=6, seed=1))

    def distinct(rows):
        seen = states(one, rows, 64, seed=1, particles=ps.Weighted(64, lambda data, t: 20.0 * data[:, 0], threshold=1.0))
        return sum(len(state.x_t.unique()) for state in seen if state.row.noises and state.t is not None)

    assert distinct(split) == 64 * (len(plan) - 1)
    assert distinct(plan) < 50 * (len(plan) - 1)


def test_the_best_of_a_group_fills_it(one, plan):
    last = states(one, plan, 12, particles=ps.Weighted(4, liking, scheme="best", threshold=0.0))[-1]
    assert all(len(group.unique()) == 1 for group in last.x_t.view(3, 4))


def test_one_of_several_children_in_every_row_has_the_tilted_law(path, quick):
    """Data N(0, 1) and r = x: what is yet to come is the same for all children, and N(1, 1) is the law of many of them."""
    den, groups = rg.oracles.Gaussian(path, torch.zeros(1), 1.0), 300
    rows = ps.ask_first(rg.plan("euler_maruyama", path, nfe=60, grid="log_snr"))  # few rows of ddpm have too little noise

    def drawn(children, scheme):
        particles = ps.Weighted(children, lambda data, t: data[:, 0], scheme=scheme, threshold=1.0)
        x = rg.sample(den, rows, n=groups * children, noise=quick, particles=particles).view(groups, children)
        assert torch.equal(x, x[:, :1].expand_as(x))
        return x[:, 0].double()

    error = groups**-0.5
    assert abs(float(drawn(1, "one").mean())) < 3 * error
    many = drawn(16, "one")
    assert abs(float(many.mean()) - 1.0) < 3 * error
    assert abs(float(many.var()) - 1.0) < 3 * 2**0.5 * error
    assert drawn(16, "best").mean() > 1.0 + 3 * error  # the best child has another law


def test_tempering_keeps_the_size_and_ends_at_the_whole_potential(one, plan):
    strong = ps.Potential(lambda data, t: 200.0 * liking(data, t), tempering=0.6)
    seen = states(one, plan, 200, particles=ps.Weighted(200, strong, threshold=0.0, last=False))
    exponents = torch.stack([state.memory.carried["particles/exponent"] for state in seen[:-1]])
    assert (exponents.diff(dim=0) >= 0).all()
    assert 0.0 < exponents[0, 0] < 0.5
    assert abs(float(ps.effective_size(ps.log_weights(seen[0]))) - 120.0) < 0.01
    total = ps.log_weights(seen[-1])
    assert torch.allclose(total, 200.0 * liking(seen[-1].x_t, None).double(), rtol=1e-5)


def test_mistakes_say_how_to_mend_them(one, plan):
    with pytest.raises(BadValue, match="n=12"):
        rg.sample(one, plan, n=10, particles=ps.Weighted(4))
    with pytest.raises(UnknownName, match="systematic"):
        ps.Weighted(4, scheme="no such scheme")
    with pytest.raises(BadValue, match="threshold"):
        ps.Weighted(4, threshold=2.0)
    with pytest.raises(UnknownName, match="difference"):
        ps.Potential(liking, form="product")
    with pytest.raises(BadValue, match="tempering"):
        ps.Potential(liking, form="max", tempering=0.5)
    with pytest.raises(BadValue, match="finite"):
        ps.Potential(liking, scale=math.inf)
    with pytest.raises(ShapeError, match="one number for each"):
        rg.sample(one, plan, n=4, particles=ps.Weighted(4, lambda data, t: data))
    with pytest.raises(BadValue, match="without particles"):
        ps.log_weights(states(one, plan, 4)[-1])
    with pytest.raises(BadValue, match="above 0"):
        ps.start_of(plan, -1.0)
    with pytest.raises(BadValue, match="holds no signal"):
        ps.start_of(rg.plan("euler_ancestral", rg.paths.Flow(), nfe=5), 2.0)
    assert dataclasses.is_dataclass(ps.Weighted(4))

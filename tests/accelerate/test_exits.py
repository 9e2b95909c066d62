"""Early exits: each item leaves by itself, where its doubt says so, and the doubt is learned."""

import pytest
import torch

import retrograde as rg
from retrograde import sites
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.train.exits import answered

PLAN = rg.plan("ddim", rg.paths.Flow(), nfe=3)
N = 5
BLOCKS = [f"transformer.transformer_blocks.{k}" for k in range(5)]


@pytest.fixture(scope="module")
def exits(dit, asked) -> rg.accelerate.Exits:
    """Not taught, but other than nothing everywhere; at each exit the doubt of half of the items is below 0.5."""
    made = rg.accelerate.exits(dit).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    for _ in range(4):
        for k, doubt in enumerate(answered(dit, made, **asked, condition=labels(dit))[1]):
            made.doubts[k].get_parameter("bias").sub_(doubt.median().logit())
    return made


def labels(denoiser) -> dict[str, torch.Tensor]:
    return rg.denoisers.prepare_condition(denoiser, [k % 3 for k in range(N)], N)


@pytest.fixture(scope="module")
def asked() -> dict[str, torch.Tensor]:
    """States at one level, with all that exits would answer there."""
    generator = torch.Generator().manual_seed(2)
    x_0, eps = torch.randn(2, N, 1, 8, 8, generator=generator)
    return {"x_0": x_0, "eps": eps, "t": torch.full((N,), 0.6, dtype=torch.float64)}


def ask(denoiser, asked, **knobs):
    x_t = 0.4 * asked["x_0"] + 0.6 * asked["eps"]
    return denoiser.predict(x_t, 0.6, labels(denoiser), knobs).value


def test_each_item_leaves_where_its_own_doubt_allows_it(dit, exits, asked):
    """Against all exits computed for all items, item by item; and the blocks that were computed, counted."""
    answers, doubts, whole = answered(dit, exits, **asked, condition=labels(dit), teacher="network")
    left = [next((k for k in range(4) if doubts[k][i] <= 0.5), 4) for i in range(N)]
    assert len(set(left)) > 2, torch.stack(doubts)
    with sites.counted(dit.network) as book:
        made = ask(rg.accelerate.early_exit(dit, exits, 0.5), asked)
    expected = torch.stack([[*answers, whole][k][i] for i, k in enumerate(left)])
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)
    block = book.per_item[BLOCKS[0]]
    assert [book.macs.get(name, 0) / block for name in BLOCKS] == [sum(k >= j for k in left) for j in range(5)]
    assert book.saved / block == sum(4 - k for k in left)


def test_at_nought_it_is_the_denoiser_and_at_one_everything_leaves_after_the_first_block(dit, exits, asked):
    policy = rg.accelerate.early_exit(dit, exits, 0.0)
    assert torch.equal(ask(policy, asked), ask(dit, asked))
    with sites.counted(dit.network) as book:
        ask(policy, asked, exit=1.0)  # the row's own threshold
    assert [book.calls.get(name, 0) for name in BLOCKS] == [1, 0, 0, 0, 0]


def test_exits_serve_a_network_of_half_precision(exits):
    """Its features are of 16 bits, the heads' weights of 32: both are as near as 8 bits of mantissa let them be."""
    features = torch.randn(2, 6, exits.leave[0].get_parameter("weight").shape[0], generator=torch.Generator().manual_seed(4))
    level = torch.randn(2, 8, generator=torch.Generator().manual_seed(5))
    few = features.to(torch.bfloat16)
    made = exits.exit(0, few, level)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), exits.exit(0, few.float(), level), rtol=0.02, atol=0.05)
    torch.testing.assert_close(exits.doubt(0, few, level), exits.doubt(0, few.float(), level))


def test_the_weights_they_begin_with_are_drawn_by_the_seed_alone(dit):
    before = torch.get_rng_state()
    one, again, other = (rg.accelerate.exits(dit, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in one.named_parameters():
        assert torch.equal(value, again.get_parameter(name))
        assert torch.equal(value, other.get_parameter(name)) == name.startswith("leave")
        assert float(value.detach().abs().max()) < value.shape[-1] ** -0.5 + 1e-6 or value.ndim == 1


def test_a_sample_does_not_depend_on_its_batch(dit, exits):
    policy = rg.accelerate.early_exit(dit, exits, 0.5)
    together = rg.sample(policy, PLAN, N, condition=[k % 3 for k in range(N)])
    for k in range(N):
        alone = rg.sample(policy, PLAN, 1, condition=k % 3, items=[k])
        torch.testing.assert_close(alone[0], together[k], rtol=1e-4, atol=1e-5)


def test_exits_learn_what_the_network_says_and_how_far_they_are_from_it(dit):
    images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    given = {"condition": [k % 3 for k in range(32)], "teacher": "network", "batch": 16, "rate": 1e-2}
    few, many = (rg.train.fit_exits(dit, images, steps=steps, **given) for steps in (1, 25))
    eps = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    t, condition = torch.linspace(0.05, 0.95, 32).double(), rg.denoisers.prepare_condition(dit, given["condition"], 32)
    told = {"x_0": images, "t": t, "eps": eps, "condition": condition, "teacher": "network"}
    errors, missed = [], []
    for exits in (few, many):
        with torch.no_grad():
            answers, doubts, whole = answered(dit, exits, **told)
        answers = [g.detach() for g in answers]
        apart = torch.stack([(g - whole).abs().tanh().flatten(1).mean(1) for g in answers])
        errors.append(float(torch.stack([(g - whole).square().mean() for g in answers]).mean()))
        missed.append(float((torch.stack(doubts) - apart).abs().mean()))
    assert errors[1] < 0.7 * errors[0]
    assert missed[1] < 0.5 * missed[0]
    assert all(parameter.grad is None for parameter in dit.network.parameters())


class Named(torch.nn.Module):
    """Blocks under names that no pattern knows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x_t: torch.Tensor, network_time: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x_t[:, 0]))[:, None]


def test_blocks_that_cannot_be_found_are_named():
    net = Named()
    den = rg.Denoiser(net, rg.paths.Flow(), "velocity", (1, 3, 4))
    places = sites.Places(net, chain=sites.chain(net, ["one", "two"]))
    with pytest.raises(BadType, match="known pattern"):
        rg.train.fit_exits(den, torch.zeros(4, 1, 3, 4), steps=1)
    exits = rg.train.fit_exits(den, torch.zeros(4, 1, 3, 4), steps=1, places=places)
    with sites.counted(net) as book:
        rg.sample(rg.accelerate.early_exit(den, exits, 1.0, places=places), PLAN, 2)
    assert book.calls == {"": 3, "one": 3}


def test_mistakes_are_explained(dit, den, exits):
    with pytest.raises(BadValue, match=r"threshold=1\.5"):
        rg.accelerate.early_exit(dit, exits, 1.5)
    with pytest.raises(BadType, match="no chain"):
        rg.accelerate.exits(den)
    with pytest.raises(UnknownName, match="teacher"):
        rg.train.fit_exits(dit, torch.zeros(1, 1, 8, 8), teacher="nobody")  # type: ignore[arg-type]

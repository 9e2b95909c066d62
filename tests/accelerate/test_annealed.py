"""Tokens one by one, exactly conditioned: where steps are worth most."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.accelerate import annealed, one_by_one
from retrograde.errors import BadValue, UnknownName
from retrograde.noise import Bulk, apart
from retrograde.quality import sliced_wasserstein

PATH, BLOCKS, SIZE, VARIANCE = rg.paths.VP(), 4, 4, 0.01
N = 2000


def tree() -> torch.Tensor:
    """Means [16, 4, 4] of components that part once at each token, by less and less, whichever way they parted before."""
    generator = torch.Generator().manual_seed(0)
    ways = torch.nn.functional.normalize(torch.randn(BLOCKS, BLOCKS, SIZE, generator=generator, dtype=torch.float64), dim=-1)
    bits = torch.tensor([[1.0 - 2.0 * (c >> b & 1) for b in range(BLOCKS)] for c in range(2**BLOCKS)], dtype=torch.float64)
    widths = torch.tensor([1.2, 0.5, 0.2, 0.08], dtype=torch.float64)
    earlier = torch.tril(torch.ones(BLOCKS, BLOCKS, dtype=torch.float64))
    return torch.einsum("cj,kj,k,kjd->ckd", bits, earlier, widths, ways)


MEANS = tree()


def known(seen: torch.Tensor | None, k: int) -> torch.Tensor:
    """Log-weights [n, components] given the tokens before."""
    if seen is None:
        return torch.zeros(1, len(MEANS), dtype=torch.float64)
    far = seen.double().reshape(len(seen), 1, k, SIZE) - MEANS[:, :k]
    return -far.square().sum((2, 3)) / (2 * VARIANCE)


def head(k: int, tokens: torch.Tensor | None) -> tuple[rg.Denoiser, dict[str, torch.Tensor]]:
    """The exact denoiser of token k given those before it."""

    def data_mean(x: torch.Tensor, t: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        a, s = (c(t.double()).reshape(-1, 1, 1) for c in (PATH.a, PATH.s))
        means, spread = MEANS[:, k], a * a * VARIANCE + s * s
        away = x.double()[:, None] - a * means
        weights = (known(seen, k) - (away.square() / (2 * spread)).sum(-1)).softmax(-1)
        return torch.einsum("nc,ncd->nd", weights, means + a * VARIANCE / spread * away).to(x)

    if tokens is None:
        return rg.Denoiser(data_mean, PATH, "data", (SIZE,)), {}
    conditions = {"seen": torch.zeros(k * SIZE, dtype=tokens.dtype)}
    return rg.Denoiser(data_mean, PATH, "data", (SIZE,), conditions), {"seen": tokens.flatten(1)}


def plans(budgets: list[int]) -> list[rg.Plan]:
    return [rg.plan("ddim", PATH, nfe=k, grid="log_snr") for k in budgets]


def test_steps_are_worth_most_where_least_is_known():
    """At 20 evaluations in all: falling budgets are nearer to the data than equal ones, and these than rising ones."""
    generator = torch.Generator().manual_seed(2)
    data = MEANS.repeat(N // len(MEANS), 1, 1)
    data = data + VARIANCE**0.5 * torch.randn(data.shape, generator=generator, dtype=torch.float64)
    falling = annealed(8, 2, BLOCKS)
    assert falling == [8, 6, 4, 2]
    apart = []
    for budgets in (falling, [5, 5, 5, 5], falling[::-1]):
        made = one_by_one(head, plans(budgets), N, noise=Bulk)
        apart.append(sliced_wasserstein(made.double(), data, slices=64).value)
    assert apart[0] < 0.85 * apart[1] < 0.85 * 0.5 * apart[2]


def test_the_laws_of_later_tokens_are_narrower():
    """Variance of a token given those before it, over the data."""
    left = []
    for k in range(BLOCKS):
        weights = known(MEANS[:, :k] if k else None, k).expand(len(MEANS), -1).softmax(-1)
        mean = weights @ MEANS[:, k]
        left.append(float((weights @ MEANS[:, k].square() - mean.square()).sum(-1).mean()))
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.05 * left[0]


def test_equal_budgets_are_the_base_sampler():
    made = one_by_one(head, plans(annealed(5, 5, BLOCKS)), 3, 7)
    tokens = []
    for k, plan in enumerate(plans([5] * BLOCKS)):
        denoiser, condition = head(k, torch.stack(tokens, 1) if tokens else None)
        tokens.append(rg.sample(denoiser, plan, 3, apart(7, k), condition=condition))
    assert torch.equal(made, torch.stack(tokens, 1))
    longer = one_by_one(head, plans([5, 5, 5, 9]), 3, 7)
    assert torch.equal(longer[:, :3], made[:, :3])


def test_budgets_are_those_of_the_rules():
    assert annealed(50, 5, 64)[0] == 50
    assert annealed(50, 5, 64)[-1] == 5
    assert annealed(25, 5, 5) == [25, 20, 15, 10, 5]
    assert annealed(9, 1, 5, "cosine") == [9, 1 + int(8 * 0.5 * (1 + math.cos(math.pi / 4))), 5, 2, 1]
    assert annealed(9, 1, 5, "two_stage") == [9, 9, 9, 1, 1]
    assert annealed(9, 1, 1) == [9]
    with pytest.raises(BadValue, match="1 to 5 steps"):
        annealed(1, 5, 4)
    with pytest.raises(UnknownName, match="square"):
        annealed(5, 1, 4, "square")  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="without plans"):
        one_by_one(head, [])

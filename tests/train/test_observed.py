"""Signals that nobody saw: with an exact network their law given an observation is exact; observations teach it."""

import pytest
import torch

import retrograde as rg
from retrograde import train
from retrograde.errors import BadType, ShapeError
from retrograde.noise import Bulk
from retrograde.quality import sliced_wasserstein

DOUBLE, PATH = torch.float64, rg.paths.VP()
MEANS = torch.tensor([[-1.5, 1.0, 0.5, -1.0], [1.5, 1.0, -1.0, 1.0], [0.0, -1.5, 1.0, 1.0]], dtype=DOUBLE)
PRIOR = rg.oracles.GaussianMixture(PATH, MEANS, 0.1)


def observe(signal, rows):
    return torch.einsum("nmd,nd->nm", rows, signal)


def given(y, A):
    """Mean of the signal given y = A S + standard noise, of [n, m] at once."""
    C = 0.1 * torch.eye(4, dtype=DOUBLE)
    S = A @ C @ A.T + torch.eye(len(A), dtype=DOUBLE)
    off = y[:, None] - MEANS @ A.T
    solved = torch.linalg.solve(S, off[..., None])[..., 0]
    weights = torch.softmax(PRIOR.log_weights - 0.5 * (off * solved).sum(-1), -1)
    return torch.einsum("nk,nkd->nd", weights, MEANS + solved @ A @ C)


def exact(x_t, t, context, seen, asked):
    """E[S | context, x_t], the context up to noise of 1e-3; rows are the same for all items."""
    a, s = PATH.a(float(t[0])), PATH.s(float(t[0]))
    A = torch.cat([seen[0].double() / 1e-3, a * asked[0].double() / s])
    return given(torch.cat([context.double() / 1e-3, x_t.double() / s], 1), A)


def frames(n, generator):
    """Orthonormal bases, [n, 4, 4]: two rows are a projection, the two others what it leaves open."""
    return torch.linalg.qr(torch.randn(n, 4, 4, generator=generator, dtype=DOUBLE))[0]


def asked_of(truth, frame, n):
    seen, other = frame[:2].expand(n, 2, 4), frame[2:].expand(n, 2, 4)
    return observe(truth.expand(n, 4), seen), seen, other


def test_signals_have_their_exact_posterior():
    """Seen in two directions that do not tell two modes apart: nearer than the best single estimate and than the prior."""
    n, random = 400, torch.randn(4, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    turned = torch.linalg.qr(torch.cat([(MEANS[1] - MEANS[0])[:, None], random], 1))[0].T
    context, seen, other = asked_of(0.5 * (MEANS[0] + MEANS[1]), frame := turned[[1, 2, 0, 3]], n)
    den = train.observed(exact, observe, PATH, context[0], seen[0])
    made = train.signals(den, rg.plan("ddpm", PATH, nfe=40), context, seen, other, noise=Bulk, dtype=DOUBLE)
    assert float((observe(made, seen) - context).abs().max()) < 0.01
    posterior = PRIOR.posterior(frame[:2], context[0], 1e-3)
    draws, again = posterior.sample(n, 1).double(), posterior.sample(n, 2).double()

    def far(x):
        return sliced_wasserstein(x, draws, p=2, slices=50).value

    floor, mean = far(again), posterior.moments()[0].expand(n, 4)
    assert far(made) < 2.0 * floor + 0.05
    assert far(made) < 0.3 * min(far(mean), far(PRIOR.sample(n, 3).double()))


def test_the_loss_is_that_of_both_observations_and_is_least_at_the_mean_given_them():
    n, g = 2000, torch.Generator().manual_seed(0)
    S, frame = PRIOR.sample(n, 1).double(), frames(2, g)
    pairs = [(observe(S, one), one) for one in (r.expand(n, 2, 4) for r in (frame[0, :2], frame[0, 2:], frame[1, :2]))]
    t, eps = torch.full((n,), 0.5, dtype=DOUBLE), torch.randn(n, 2, generator=g, dtype=DOUBLE)

    def mean_loss(network, lam=1.0):
        den = train.observed(network, observe, PATH, pairs[0][0][0], pairs[0][1][0])
        return float(train.observed_loss(den, t, eps, *pairs, lam=lam).mean())

    best = mean_loss(exact)
    hidden = torch.linalg.qr(torch.cat([frame[0, :2], frame[0, 2:]]).T)[0] @ torch.tensor([0.3, 0.0, 0.0, 0.0], dtype=DOUBLE)
    for shift in (hidden, torch.tensor([0.0, 0.2, -0.2, 0.1], dtype=DOUBLE)):
        assert mean_loss(lambda *a, s=shift: exact(*a) + s) > best
    null = torch.linalg.svd(frame[0, 2:])[2][-1] * 0.5  # no row that is asked sees it: only the novel observation does

    def blind(*arguments):
        return exact(*arguments) + null

    assert mean_loss(blind, 0.0) == pytest.approx(mean_loss(exact, 0.0), abs=1e-9)
    assert mean_loss(blind) > best + 0.01


def test_mistakes_are_mended():
    den = train.observed(exact, observe, PATH, torch.zeros(2), torch.zeros(2, 4))
    y, phi = torch.zeros(3, 2), torch.zeros(3, 2, 4)
    with pytest.raises(ShapeError, match="eps"):
        train.observed_loss(den, torch.zeros(3), torch.zeros(3, 1), (y, phi), (y, phi), (y, phi))
    with pytest.raises(BadType, match="Observed"):
        train.signals(rg.Denoiser(lambda x, t: x, PATH, "data", (2,)), rg.plan("ddim", PATH, nfe=2), y, phi, phi)


class Learned(torch.nn.Module):
    def __init__(self):
        super().__init__()
        sizes = (4 + 4 + 4 + 4 + 2, 128, 128, 128, 4)
        layers = [torch.nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False)]
        self.body = torch.nn.Sequential(*[m for one in layers[:-1] for m in (one, torch.nn.SiLU())], layers[-1])

    def forward(self, x_t, t, context, seen, asked):
        context, seen, asked = (one.to(x_t) for one in (context, seen, asked))
        placed = [torch.einsum("nmd,nm->nd", rows, y) for rows, y in ((asked, x_t), (seen, context))]
        level = torch.stack([t, t.log() / 3.0], 1).to(x_t)
        made = self.body(torch.cat([*placed, asked.sum(1), seen.sum(1), level], 1))
        # what the context says of the signal is kept exactly, the network adds what it leaves open
        return made + torch.einsum("nmd,nm->nd", seen, context - observe(made, seen))


SIGNS = torch.tensor([[s, s, r, r] for s in (-1.2, 1.2) for r in (-1.2, 1.2)], dtype=DOUBLE)
PAIRS = rg.oracles.GaussianMixture(PATH, SIGNS, 0.1)
"""Numbers 0 and 1 share a sign, and so do 2 and 3: of a pair alone the other sign stays open."""


def two_of_four(n, generator):
    """Rows of the identity: which two numbers are seen, [n, 2, 4]."""
    return torch.eye(4)[torch.rand(n, 4, generator=generator).argsort(1)[:, :2]]


def learned(steps=1500, batch=256):
    torch.manual_seed(0)
    g, network = torch.Generator().manual_seed(1), Learned()
    den = train.observed(network, observe, PATH, torch.zeros(2), torch.zeros(2, 4))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    pool = PAIRS.sample(20000, 7).float()
    for _ in range(steps):
        S = pool[torch.randint(len(pool), (batch,), generator=g)]
        pairs = [(observe(S, rows), rows) for rows in (two_of_four(batch, g) for _ in range(3))]
        t = 0.001 + 0.999 * torch.rand(batch, generator=g).square()
        optimizer.zero_grad()
        train.observed_loss(den, t, torch.randn(batch, 2, generator=g), *pairs).mean().backward()
        optimizer.step()
        schedule.step()
    return den


@pytest.mark.slow
def test_it_is_learned_from_observations_alone():
    """Of two numbers the other two are drawn, with both signs: nearer than the best single estimate and than the prior."""
    den, n, seen, other = learned(), 400, torch.eye(4)[:2], torch.eye(4)[2:]
    context = torch.tensor([1.1, 1.4]).expand(n, 2)
    asked = other.expand(n, 2, 4)
    made = train.signals(den, rg.plan("ddim", PATH, nfe=40), context, seen.expand(n, 2, 4), asked, noise=Bulk).double()
    assert float((made[:, :2] - context).abs().max()) < 1e-4
    posterior = PAIRS.posterior(seen.double(), context[0].double(), 1e-3)
    draws = posterior.sample(n, 1).double()
    single, free = posterior.moments()[0].expand(n, 4), PAIRS.sample(n, 3).double()
    ours, *others = (sliced_wasserstein(x, draws, p=2, slices=50).value for x in (made, single, free))
    assert ours < 0.4 * min(others)

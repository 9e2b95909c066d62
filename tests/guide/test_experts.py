"""Experts by range of levels: what they share with one network, which one answers, and how near they come to the truth."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import retrograde as rg
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.guide.experts import unit_variance
from retrograde.train import LowRank, fit_experts, low_rank

PATH = rg.paths.VP()


def perceptron(size: int, outputs: int = 3, width: int = 64) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inside = [nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)]
        return nn.Sequential(nn.Linear(size, width), nn.SiLU(), *inside)


def told_of_clean(network: nn.Sequential, samples: torch.Tensor, said: torch.Tensor) -> nn.Sequential:
    """Train a network of clean samples to say what is said of them."""
    optimizer, generator = torch.optim.Adam(network.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(500):
        chosen = torch.randint(len(samples), (128,), generator=generator)
        optimizer.zero_grad()
        functional.kl_div(network(samples[chosen]).log_softmax(1), said[chosen], reduction="batchmean").backward()
        optimizer.step()
    return network


def test_a_change_begins_as_nothing_and_alone_learns():
    network = nn.Sequential(nn.Conv2d(2, 5, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(20, 3))
    x = torch.randn(4, 2, 4, 4)
    changed = low_rank(network, rank=2, alpha=3.0)
    assert torch.equal(changed(x), network(x))
    learning = [name for name, weight in changed.named_parameters() if weight.requires_grad]
    assert learning == ["0.down.weight", "0.up.weight", "3.down.weight", "3.up.weight"]
    assert all(weight.requires_grad for weight in network.parameters())  # the copy is frozen, not the network
    nn.init.normal_(changed[3].up.weight)
    extra = 1.5 * changed[3].up.weight @ changed[3].down.weight  # type: ignore[union-attr]
    h = network[2](network[1](network[0](x)))
    assert torch.allclose(changed(x), network(x) + h @ extra.T, atol=1e-5)
    assert isinstance(low_rank(nn.Linear(3, 2), rank=1), LowRank)


def test_one_network_is_guidance_by_it(labelled, x):
    den, network = labelled(PATH), perceptron(2).double()
    guided = rg.guide.experts(den, [network], 1, 2.0)
    by_hand = rg.guide.classifier(den, lambda x, t: functional.log_softmax(network(x), 1)[:, 1], 2.0)
    assert torch.allclose(guided(x, 0.4).value, by_hand(x, 0.4).value, atol=1e-12)
    drawn = rg.guide.experts(den, [network], lambda out: functional.log_softmax(out, 1)[:, 1], 2.0)
    assert torch.equal(guided(x, 0.4).value, drawn(x, 0.4).value)
    each = guided(x, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).value
    assert torch.allclose(each[1], guided(x, 0.5).value[1], atol=1e-12)
    # where the path does not keep variance, the expert sees the state at unit variance
    edm = rg.paths.EDM()
    wide = rg.guide.experts(labelled(edm), [network], 1, 2.0)(5 * x, 3.0).value
    norm = math.sqrt(10.0)
    by_hand = rg.guide.classifier(labelled(edm), lambda x, t: functional.log_softmax(network(x / norm), 1)[:, 1], 2.0)
    assert torch.allclose(wide, by_hand(5 * x, 3.0).value, atol=1e-12)


def test_every_row_of_a_plan_has_one_expert(labelled):
    asked: list[int] = []

    def made(k: int):
        def network(x):
            asked.append(k)
            return x

        return network

    plan = rg.plan("ddim", PATH, nfe=25, grid="uniform")
    rg.sample(rg.guide.experts(labelled(PATH), [made(k) for k in range(5)], 0), plan, n=2)
    assert asked == [min(int(5 * t), 4) for t in plan.times]
    assert set(asked) == set(range(5))
    assert len(asked) == 25


def test_experts_begin_as_the_network_and_repeat(labelled):
    samples = labelled(PATH).sample(64, seed=0).float()
    network = perceptron(2)
    still, again = (fit_experts(network, samples, PATH, 2, rank=1, steps=3, rate=r)[1](samples) for r in (0.0, 0.0))
    assert torch.equal(still, again)
    assert torch.equal(still, network(samples))
    one, two = (fit_experts(network, samples, PATH, 2, rank=1, steps=3, rate=0.1) for _ in range(2))
    assert torch.equal(one[0](samples), two[0](samples))
    assert not torch.allclose(one[0](samples), one[1](samples), atol=1e-3)


def test_values_are_matched_in_the_mean():
    """Data and network linear and Gaussian: the best expert of one level says E[f(x_0) | x_t]."""
    path, t = rg.paths.Tabulated((0, 0.999, 1), (0.6002, 0.6, 0.5999), (0.7998, 0.8, 0.8001)), 0.5
    samples = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, 2.0)
    nn.init.constant_(network.bias, 0.0)
    (expert,) = fit_experts(network, samples, path, 1, match="values", rank=1, alpha=1.0, steps=800, rate=3e-2)
    slope = expert(torch.ones(1, 1)) - expert(torch.zeros(1, 1))
    assert float(slope) == pytest.approx(2.0 * 0.6, abs=0.08)  # a/(a^2 + s^2), of data of unit variance
    assert float(unit_variance(path, torch.ones(1), t)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
def test_experts_come_nearest_to_the_exact_classifier():
    """Six modes, three classes, eight dimensions: five experts, one change of their size for all levels, none at all.

    The divergence from the true p(c | x_t), over the levels: 0.01, 0.08, 2.9 nats. Guided by weight 3, classes are right in
    1.00 (exact classifier), 1.00, 0.84 and 0.97 of the samples. The clean classifier is not twenty points worse, as its
    entry expects (it is where data fill few of many directions, below): where classes are far apart its gradient is too
    strong at high levels and not lost, which reaches the class and misses its law: of two equal modes one gets 0.45 (exact),
    0.43, 0.32 and 0.32, and samples lie twice as far from their mode.
    """
    size = 8
    means = torch.randn(6, size, generator=torch.Generator().manual_seed(3))
    means = means / means.norm(dim=1, keepdim=True) * math.sqrt(size) * 0.95
    den = rg.oracles.GaussianMixture(PATH, means, torch.tensor(0.1), labels=[0, 1, 2, 0, 1, 2])
    classes = [rg.oracles.GaussianMixture(PATH, means[[c, c + 3]], torch.tensor(0.1)) for c in range(3)]

    def exact(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.stack([one.log_prob(x, t) for one in classes], 1).log_softmax(1)

    samples = den.sample(4000, seed=0).float()
    clean = told_of_clean(perceptron(size), samples, exact(samples.double(), 1e-4).exp().float())
    settings = {"temperature": 1.0, "rate": 3e-3}
    five = fit_experts(clean, samples, PATH, 5, rank=2, alpha=2.0, steps=500, **settings)
    one = fit_experts(clean, samples, PATH, 1, rank=10, alpha=10.0, steps=2500, **settings)
    rules = {"five": five, "one": one, "clean": (clean,)}

    fresh, eps = den.sample(2000, seed=5), torch.randn(2000, size, generator=torch.Generator().manual_seed(6))
    missed = dict.fromkeys(rules, 0.0)
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        x_t = (PATH.a(t) * fresh + PATH.s(t) * eps).float()
        true = exact(x_t.double(), t)
        for name, networks in rules.items():
            with torch.no_grad():
                found = networks[int(len(networks) * t)](x_t).log_softmax(1)
            missed[name] += float((true.exp() * (true - found)).sum(1).mean()) / 5
    assert missed["five"] < 0.5 * missed["one"] < 0.1 * missed["clean"]

    plan, right, mode = rg.plan("ddim", PATH, nfe=25), {}, {}
    guides = {name: rg.guide.experts(den, networks, 1, 3.0) for name, networks in rules.items()}
    guides["exact"] = rg.guide.classifier(den, lambda x, t: exact(x, t)[:, 1], 3.0)
    for name, guided in guides.items():
        nearest = torch.cdist(rg.sample(guided, plan, n=500, seed=2).float(), means).argmin(1)
        right[name] = float((nearest % 3 == 1).double().mean())
        mode[name] = float((nearest == 1).double().mean())
    assert right["five"] > right["exact"] - 0.03
    assert right["one"] < right["five"] - 0.05
    assert abs(mode["five"] - mode["exact"]) < 0.05 < 0.08 < abs(mode["clean"] - mode["exact"])


@pytest.mark.slow
def test_where_data_fill_few_directions_the_clean_classifier_loses_its_way():
    """Six modes, three classes, eight dimensions of 128; in the others the data are nearly still and the noise is not.

    What a network of clean data does with those others is chance, so noise confuses it: guided by it with weight 1, where
    the exact classifier gives the exact conditional law, 0.80 of the samples are right, 1.00 by the exact one and 0.97 by
    five experts of rank 16. That is what the entry expects of images; in eight dimensions of eight it is not so (above).
    """
    size, filled = 128, 8
    means = torch.zeros(6, size)
    means[:, :filled] = torch.randn(6, filled, generator=torch.Generator().manual_seed(3))
    means = means / means.norm(dim=1, keepdim=True) * math.sqrt(filled) * 0.95
    variances = torch.full((6, size), 0.01)
    variances[:, :filled] = 0.1
    den = rg.oracles.GaussianMixture(PATH, means, variances, labels=[0, 1, 2, 0, 1, 2])
    classes = [rg.oracles.GaussianMixture(PATH, means[[c, c + 3]], variances[[c, c + 3]]) for c in range(3)]

    def exact(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.stack([one.log_prob(x, t) for one in classes], 1).log_softmax(1)

    samples = den.sample(10000, seed=0).float()
    clean = told_of_clean(perceptron(size, width=128), samples, exact(samples.double(), 1e-4).exp().float())
    settings = {"temperature": 1.0, "rate": 3e-3, "rank": 16, "alpha": 16.0, "steps": 3000}
    rules = {"clean": (clean,), "five": fit_experts(clean, samples, PATH, 5, **settings)}
    guides = {name: rg.guide.experts(den, networks, 1, 1.0) for name, networks in rules.items()}
    guides["exact"] = rg.guide.classifier(den, lambda x, t: exact(x, t)[:, 1], 1.0)
    plan, right = rg.plan("ddim", PATH, nfe=25), {}
    for name, guided in guides.items():
        nearest = torch.cdist(rg.sample(guided, plan, n=300, seed=2).float(), means).argmin(1)
        right[name] = float((nearest % 3 == 1).double().mean())
    assert right["exact"] > 0.98
    assert right["five"] > right["exact"] - 0.05
    assert right["clean"] < right["exact"] - 0.15


@pytest.mark.slow
def test_on_digits_experts_beat_one_network_of_their_size():
    """Small digits, a perceptron of clean ones, taught by the model's own 600 samples: no labels, 8 % of its parameters.

    Of noisy test images at five levels the label's surprise is 1.57 nats for five experts and for one change of their size,
    4.1 for the clean classifier. Guided by weight 5, a classifier of other images meets the class in 0.86, 0.56 and 0.83 of
    the samples, of weight 2 in 0.58, 0.28 and 0.63. So experts beat one network; that the clean classifier reaches the class
    as well is what the mixture above shows too.
    """
    images, labels = rg.data.digits8("train")
    unseen, wanted = rg.data.digits8("test")
    images, unseen, half = images.float(), unseen.float(), len(images) // 2

    def told(x: torch.Tensor, y: torch.Tensor, seed: int) -> nn.Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            sizes = [nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 128), nn.SiLU(), nn.Linear(128, 10)]
            network = nn.Sequential(nn.Flatten(), *sizes)
        optimizer, generator = torch.optim.Adam(network.parameters(), lr=2e-3), torch.Generator().manual_seed(seed)
        for _ in range(700):
            chosen = torch.randint(len(x), (128,), generator=generator)
            optimizer.zero_grad()
            functional.cross_entropy(network(x[chosen]), y[chosen]).backward()
            optimizer.step()
        return network.eval().requires_grad_(False)

    clean, judge = told(images[:half], labels[:half], 0), told(images[half:], labels[half:], 1)
    den = rg.load("digits8-flow")
    own = rg.sample(den, rg.plan("ddim", den, nfe=10), n=600, seed=0).clamp(-1, 1)
    settings = {"temperature": 1.0, "rate": 3e-3}
    five = fit_experts(clean, own, den.path, 5, rank=1, alpha=2.0, steps=600, **settings)
    one = fit_experts(clean, own, den.path, 1, rank=5, alpha=10.0, steps=3000, **settings)
    added = [layer for expert in five for layer in expert.modules() if isinstance(layer, LowRank)]
    learned = sum(layer.up.weight.numel() + layer.down.weight.numel() for layer in added)
    assert learned < 0.1 * sum(weight.numel() for weight in clean.parameters())
    plan, targets = rg.plan("ddim", den.path, nfe=12, start=0.98), torch.arange(100) % 10
    surprise, met = {}, {}
    for name, networks in {"five": five, "one": one, "clean": (clean,)}.items():
        surprise[name] = 0.0
        for t in (0.1, 0.3, 0.5, 0.7, 0.9):
            eps = torch.randn(unseen.shape, generator=torch.Generator().manual_seed(int(10 * t)))
            x_t = unit_variance(den.path, den.path.a(t) * unseen + den.path.s(t) * eps, torch.full((len(unseen),), t))
            with torch.no_grad():
                surprise[name] += float(functional.cross_entropy(networks[int(len(networks) * t)](x_t), wanted)) / 5
        guided = rg.guide.experts(den, networks, lambda out: out.log_softmax(1)[torch.arange(100), targets], 5.0)
        made = rg.sample(guided, plan, n=100, seed=3)
        met[name] = float((judge(made).argmax(1) == targets).double().mean())
    assert surprise["five"] < surprise["one"] + 0.02 < 0.5 * surprise["clean"]
    assert met["five"] > met["one"] + 0.1
    assert met["five"] > met["clean"] - 0.03


def test_mistakes_are_explained(labelled):
    samples = torch.zeros(4, 2)
    with pytest.raises(BadValue, match="one or more"):
        rg.guide.experts(labelled(PATH), [], 0)
    with pytest.raises(UnknownName, match="classes"):
        fit_experts(perceptron(2), samples, PATH, match="clases")  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="positive temperature"):
        fit_experts(perceptron(2), samples, PATH, temperature=0.0)
    with pytest.raises(BadType, match="layers to change"):
        low_rank(nn.SiLU())
    with pytest.raises(BadValue, match="rank=0"):
        low_rank(nn.Linear(2, 2), rank=0)

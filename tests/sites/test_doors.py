"""Taps decide what is computed, for their own context alone, and leave no trace."""

import threading

import pytest
import torch
from torch import nn

from retrograde.errors import UnknownName
from retrograde.sites import opened

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Counts(nn.Module):
    """Doubles, and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return 2 * x


class Bends(nn.Module):
    """A layer that is not one of torch's own, which are not compiled alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x))


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(Counts(), nn.Sequential(Counts(), Counts()))


def clean(net: nn.Module) -> bool:
    return not any("forward" in module.__dict__ for module in net.modules())


def test_a_site_that_is_replaced_is_not_computed(net):
    with opened(net, {"1": lambda call: call.args[0] + 1}):
        assert torch.equal(net(X), 2 * X + 1)
    assert [net[0].calls, net[1][0].calls] == [1, 0]
    assert torch.equal(net(X), 8 * X)
    assert clean(net)


def test_a_site_can_be_read_and_asked_something_else(net):
    seen = []

    def tap(call):
        seen.append((call.site, call.args[0]))
        return call.compute() + call.compute_with(torch.ones_like(call.args[0]))

    with opened(net, {"1.0": tap}):
        assert torch.equal(net(X), 2 * (4 * X + 2))
    assert seen[0][0] == "1.0"
    assert torch.equal(seen[0][1], 2 * X)


def test_the_network_itself_is_a_site(net):
    with opened(net, {"": lambda call: -call.compute()}):
        assert torch.equal(net(X), -8 * X)
    assert clean(net)


def test_contexts_nest_the_outer_around_the_inner_and_watchers_see_what_is_computed(net):
    order, watched = [], []

    def named(name):
        def tap(call):
            order.append(name)
            return call.compute() if name != "skips" else call.args[0]

        return tap

    with opened(net, {"0": watched.append}, watching=True), opened(net, {"0": named("outer")}):
        with opened(net, {"0": named("inner")}), opened(net, {"0": named("skips")}):
            net(X)
        assert order == ["outer", "inner", "skips"]
        assert not watched
        with pytest.raises(TypeError):
            net(X)  # the watcher returned nothing, and it is what is computed
        assert len(watched) == 1
    assert clean(net)


def test_an_exception_leaves_the_module_as_it_was(net):
    def fails(call):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), opened(net, {"0": fails, "1.1": fails}):
        net(X)
    with pytest.raises(UnknownName, match=r"1\.1"), opened(net, {"0": fails, "1.7": fails}):
        pass
    assert clean(net)
    assert torch.equal(net(X), 8 * X)


def test_another_thread_gets_the_module_as_it_is(net):
    inside, done = threading.Event(), threading.Event()
    other = []

    def work():
        inside.wait(5)
        other.append(net(X))
        with opened(net, {"0": lambda call: call.args[0]}):
            other.append(net(X))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    with opened(net, {"1": lambda call: call.args[0]}):
        inside.set()
        done.wait(5)
        here = net(X)
    thread.join()
    assert torch.equal(here, 2 * X)
    assert torch.equal(other[0], 8 * X)
    assert torch.equal(other[1], 4 * X)
    assert clean(net)


def test_a_forward_that_somebody_else_replaced_is_put_back(net):
    def mine(x):
        return x + 5

    net[0].forward = mine
    with opened(net, {"0": lambda call: 10 * call.compute()}):
        assert torch.equal(net(X), 40 * (X + 5))
    assert net[0].__dict__["forward"] is mine


@pytest.mark.parametrize("whole", [False, True], ids=["blocks", "network"])
def test_compiled_blocks_keep_their_graphs_and_a_compiled_network_breaks_at_its_sites(whole):
    torch._dynamo.reset()
    plain = nn.Sequential(Bends(), Bends(), Bends())
    expected, skipped, turned = plain(X), plain[2](plain[0](X)), plain[2](-plain[1](plain[0](X)))
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    if whole:
        asked = torch.compile(plain, backend=backend)
    else:
        asked = plain
        for block in plain:
            block.compile(backend=backend, fullgraph=True)
    for _ in range(3):
        assert torch.equal(asked(X), expected)
        with opened(plain, {"1": lambda call: call.args[0]}):
            assert torch.equal(asked(X), skipped)
        with opened(plain, {"1": lambda call: -call.compute()}):
            assert torch.equal(asked(X), turned)
    assert clean(plain)
    assert len(graphs) <= (12 if whole else 3)
    if whole:
        torch._dynamo.reset()
        strict = torch.compile(plain, backend=backend, fullgraph=True)
        with pytest.raises(torch._dynamo.exc.Unsupported), opened(plain, {"1": lambda call: call.args[0]}):
            strict(X)

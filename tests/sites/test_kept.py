"""What is kept is cut, joined and indexed like a tensor, and is forgotten where it does not fit."""

import torch

from retrograde.sites import Entry, Kept, filled, outline


def some(n: int, clock: float = 0.5, start: int = 0) -> Kept:
    values = torch.arange(start, start + n).float()
    tree = (values[:, None], {"more": values})
    return Kept(n, {"a": (Entry(clock, tree), Entry(0.9, tree)), "b": (Entry(clock, values),)})


def test_parts_joined_in_order_are_the_whole_without_a_copy():
    whole = some(6)
    parts = whole.chunk(2)
    assert [part.n for part in parts] == [3, 3]
    assert torch.cat(parts) is whole
    turned = torch.cat(parts[::-1])
    assert torch.equal(turned.entries["b"][0].value, torch.tensor([3.0, 4, 5, 0, 1, 2]))
    assert torch.equal(turned.entries["a"][1].value[1]["more"], torch.tensor([3.0, 4, 5, 0, 1, 2]))


def test_items_are_taken_along():
    taken = some(4)[torch.tensor([2, 2, 0])]
    assert taken.n == 3
    assert torch.equal(taken.entries["a"][0].value[0], torch.tensor([[2.0], [2], [0]]))
    assert torch.equal(some(4)[[1]].entries["b"][0].value, torch.tensor([1.0]))


def test_what_was_kept_at_different_evaluations_is_forgotten():
    other = some(2, clock=0.4, start=7)
    both = torch.cat([some(2), other])
    assert both.n == 4
    assert not both.entries
    assert set(torch.cat([some(2), some(3, start=5)]).entries) == {"a", "b"}
    assert set(torch.cat([some(2), Kept(2, {"b": some(2).entries["b"]})]).entries) == {"b"}


def test_an_outline_takes_no_memory_and_has_the_shape():
    made = filled(outline((torch.randn(2, 3, dtype=torch.float64), None)), 5)
    assert made[1] is None
    assert made[0].shape == (5, 3)
    assert made[0].dtype == torch.float64
    assert made[0].stride() == (0, 0)

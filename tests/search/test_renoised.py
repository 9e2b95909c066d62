"""Search over paths: the law without an opinion, the gain with one, and the books."""

import math

import pytest
import torch

import retrograde as rg


def value(x, searches):
    return x.flatten(1).sum(1)


def test_branches_keep_the_law_and_are_led_to_the_verifier(normal, path):
    """Of data N(0, 1) a search without an opinion draws N(0, 1); with one it beats the best of as many paths."""
    plan = rg.plan("heun", path, nfe=21)
    options = {"n": 200, "paths": 2, "up": 2, "down": 4}
    plain = rg.search.over_paths(normal, plan, lambda x, i: torch.zeros(len(x)), branches=1, **options)
    assert abs(float(plain.samples.mean())) < 3 / math.sqrt(200)
    assert abs(float(plain.samples.var()) - 1.0) < 3 * math.sqrt(2 / 200)
    led = rg.search.over_paths(normal, plan, value, branches=4, **options)
    assert led.samples.mean() > 1.42360  # the best of 8 without going back
    assert led.trace[-1][1].mean() > led.trace[0][1].mean()


@pytest.mark.parametrize("settings", [{"up": 1, "down": 2, "begin": 3}, {"up": 2, "down": 5}])
def test_the_books_are_the_calls(modes, path, counted, settings):
    den, asked = counted(modes)
    plan = rg.plan("ddim", path, nfe=8)
    found = rg.search.over_paths(den, plan, value, n=3, paths=2, branches=3, **settings)
    begin, up, down = settings.get("begin", settings["up"]), settings["up"], settings["down"]
    expected, at, rounds = 2 * begin, begin, 0
    while at < 8:
        end = min(at - up + down, 8)
        expected, at, rounds = expected + 6 * (end - at + up), end, rounds + 1
    assert sum(asked) / 3 == found.ledger.nfe == expected
    assert found.ledger.verdicts == 6 * rounds
    assert [nfe for nfe, _ in found.trace][-1] == expected


def test_company_changes_nothing(modes, path):
    plan = rg.plan("ddpm", path, nfe=8)
    found = rg.search.over_paths(modes, plan, value, n=3)
    assert torch.equal(rg.search.over_paths(modes, plan, value, n=3, batch_size=5).samples, found.samples)
    assert torch.equal(rg.search.over_paths(modes, plan, value, n=1).samples, found.samples[:1])

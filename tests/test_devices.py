"""Which devices and types there are, and what is said of others."""

import re
from typing import Any

import pytest
import torch

from retrograde import devices
from retrograde.errors import BadType, BadValue


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "cuda", "cuda:1", "meta", torch.device("cuda", 0)])
def test_a_device_that_is_there_is_returned(name, two_gpus):
    assert devices.checked(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda:2", "mps", "gpu", None])
def test_another_is_answered_with_those_that_are_there(name, two_gpus):
    with pytest.raises(BadValue, match=re.escape("cpu, cuda:0, cuda:1")):
        devices.checked(name)


def test_a_machine_may_have_mps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.found() == ("cpu", "mps")
    assert devices.checked("mps").type == "mps"


def test_a_type_is_one_of_floating_point():
    for name in devices.TYPES:
        assert devices.checked_type(name) == devices.checked_type(getattr(torch, name)) == getattr(torch, name)
    wrong: tuple[Any, ...] = ("int64", torch.int64, "bf16", 16)
    for one in wrong:
        with pytest.raises(BadType, match="bfloat16"):
            devices.checked_type(one)

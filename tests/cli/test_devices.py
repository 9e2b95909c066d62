"""`--device` and `--dtype`: where and in what a network computes; the state stays float32."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde import devices
from retrograde.errors import BadType


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a CUDA device")
@pytest.mark.parametrize(
    "command",
    [
        ["sample"],
        ["tune"],
        ["compare"],
        ["solve", "--operator", "mask:keep=left", "--noise", "0.1", "--measurement", "y.npy"],
        ["profile"],
    ],
    ids=lambda words: words[0],
)
def test_a_device_that_is_not_there_is_answered_with_those_that_are(call, command):
    ran = call(command[0], "digits8-flow", *command[1:], "--device", "cuda:1")
    assert ran.code == 2
    assert "--device 'cuda:1', which this machine does not have" in ran.err
    assert "allowed: a device of it: " + ", ".join(devices.found()) in ran.err
    assert "mend: --device cpu" in ran.err


def test_a_network_computes_in_half_precision_and_the_state_does_not(call):
    asked = ("sample", "digits8-flow", "--nfe", 2, "-n", 2, "--condition", 3, "-o", "x.npz")
    made = {}
    for dtype in ("float32", "bfloat16"):
        ran = call(*asked, "--dtype", dtype, "--device", "cpu", "--json")
        assert (ran.code, ran.json["dtype"], ran.json["device"]) == (0, dtype, "cpu")
        with np.load("x.npz") as file:
            made[dtype] = torch.from_numpy(file["samples"])
    den = rg.load("digits8-flow", "bfloat16")
    assert {p.dtype for p in den.network.parameters()} == {torch.bfloat16}
    expected = rg.sample(den, rg.plan("dpmpp_2m", den, nfe=2), n=2, condition=3)
    assert expected.dtype == torch.float32
    assert torch.equal(made["bfloat16"], expected)
    apart = (made["bfloat16"] - made["float32"]).square().mean().sqrt()
    assert 1e-5 < apart < 0.05  # eight bits of the network's answers, not of the state


def test_other_types_are_answered_with_those_that_there_are(call):
    ran = call("sample", "digits8-flow", "--dtype", "float8")
    assert ran.code == 2
    for name in devices.TYPES:
        assert name in ran.err


def test_where_the_network_of_a_name_or_a_function_is_put(call):
    for source in ("digits8-flow", "toys:labelled_network"):
        den = rg.load(source, "bfloat16", "meta")  # torch's device without values
        assert {(p.dtype, p.device.type) for p in den.network.parameters()} == {(torch.bfloat16, "meta")}
        assert den.dtype == torch.bfloat16
    with pytest.raises(BadType, match="around a network"):
        rg.load("toys:blobs", "bfloat16")


def test_the_other_commands_take_them(call):
    solve = ("--operator", "mask:keep=left", "--noise", "0.1", "--truth", "item.npy", "--nfe", 2, "-n", 2)
    np.save("item.npy", np.zeros((1, 8, 8), np.float32))
    assert call("solve", "digits8-flow", *solve, "--dtype", "float32", "--device", "cpu").code == 0
    ran = call("profile", "digits8-flow", "--nfe", 1, "--dtype", "bfloat16", "--json")
    assert ran.code == 0
    compare = ("--nfe", 2, "--solver", "ddim", "--grid", "log_snr", "-n", 2, "--no-tune", "--no-plot")
    compare += ("--quality", "none", "--reference-nfe", 20)
    asked = call("compare", "toys:labelled_network", *compare, "--dtype", "float32", "--json").json
    again = call("compare", "toys:labelled_network", *compare, "--json").json  # the same folder: nothing may be mixed up
    assert [(one["settings"]["dtype"], one["settings"]["device"]) for one in (asked, again)] == [
        ("float32", "cpu"),
        (None, "cpu"),
    ]
    prints = {json.loads(line)["of"] for line in Path("comparison/results.jsonl").read_text().splitlines()}
    assert len(prints) == 2

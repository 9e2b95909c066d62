import json

import retrograde as rg

SMALL = ["--data", "digits8", "--batch", "4", "--set", 'network={"class": "UNet", "channels": [8, 8], "blocks": 1}']


def test_train_makes_a_model_that_samples_and_goes_on(call, tmp_path):
    first = call("train", "-o", "run", "--steps", 2, *SMALL, "--json")
    assert first.code == 0
    assert first.json["steps"] == 2
    assert rg.load(tmp_path / "run" / "model").shape == (1, 8, 8)
    assert call("sample", "run/model", "-n", 2, "--nfe", 2, "-o", "x.png").code == 0
    refused = call("train", "-o", "run", "--steps", 3)
    assert refused.code == 2
    assert "--resume" in refused.err
    again = call("train", "-o", "run", "--steps", 3, "--resume", "--json")
    assert again.json["steps"] == 3
    assert json.loads((tmp_path / "run" / "train.json").read_text())["batch"] == 4


def test_train_says_which_field_is_wrong(call):
    ran = call("train", "-o", "run", "--predicts", "nothing")
    assert ran.code == 2
    assert "predicts" in ran.err
    assert call("train", "-o", "run", "--set", "stpes=3").code == 2
    assert call("train", "-o", "run", "--config", "absent.json").code == 2

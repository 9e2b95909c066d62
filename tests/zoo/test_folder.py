"""Model folders: round trips, and errors that say what is wrong with them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from retrograde import paths, zoo
from retrograde.denoisers import Denoiser
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.nets import Classifier, UNet
from retrograde.train.folder import ModelConfig, write_folder

NETWORK = {"class": "UNet", "shape": [1, 8, 8], "channels": [8], "patch": 2, "width": 8, "classes": 3}


@pytest.fixture
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    network = UNet(**{name: value for name, value in NETWORK.items() if name != "class"})  # type: ignore[arg-type]
    torch.nn.init.normal_(network.leave.weight)
    return Denoiser(network.eval(), paths.VP(beta_max=15.0), "v", (1, 8, 8), conditions={"label": 3}, name="small")


def described(**changes: object) -> ModelConfig:
    fields = {
        "name": "small",
        "network": NETWORK,
        "path": paths.VP(beta_max=15.0).config(),
        "predicts": "v",
        "shape": [1, 8, 8],
        "conditions": {"label": 3},
    }
    return ModelConfig(**{**fields, **changes})  # type: ignore[arg-type]


def test_saved_and_loaded_is_the_same(denoiser: Denoiser, tmp_path: Path) -> None:
    folder = zoo.save(denoiser, tmp_path / "model", described(), "# small\n")
    again = zoo.load(folder)
    x_t = torch.randn(4, 1, 8, 8)
    label = torch.tensor([0, 1, 2, 3])
    assert torch.equal(denoiser(x_t, 0.4, label=label).data, again(x_t, 0.4, label=label).data)
    assert (again.path, again.predicts, again.shape, again.name) == (paths.VP(beta_max=15.0), "v", (1, 8, 8), "small")
    assert dict(again.conditions) == {"label": 3}
    assert (folder / "README.md").read_text() == "# small\n"
    network = again.network  # type: ignore[attr-defined]
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_discrete_path_comes_back(tmp_path: Path, denoiser: Denoiser) -> None:
    path = paths.from_alphas_cumprod([0.9, 0.5, 0.1])
    zoo.save(denoiser, tmp_path / "model", described(path=path.config()))
    again = zoo.load(tmp_path / "model")
    assert again.path == path
    assert again.network_time(1.0) == 2.0


def test_half_precision_is_stored_and_upcast(denoiser: Denoiser, tmp_path: Path) -> None:
    write_folder(tmp_path / "model", described(), denoiser.network, dtype=torch.float16)  # type: ignore[arg-type]
    assert {value.dtype for value in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.float16}
    again = zoo.load(tmp_path / "model")
    for name, value in again.network.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(value, denoiser.network.state_dict()[name].half().float())  # type: ignore[attr-defined]


def test_dtype_is_what_the_network_computes_in(denoiser: Denoiser, tmp_path: Path) -> None:
    zoo.save(denoiser, tmp_path / "model", described())
    x_t = torch.randn(2, 1, 8, 8)
    single, half = zoo.load(tmp_path / "model"), zoo.load(tmp_path / "model", dtype=torch.bfloat16)
    found = half(x_t, 0.4).data
    assert found.dtype == torch.float32
    assert 0 < (found - single(x_t, 0.4).data).abs().amax() < 0.1


def test_an_existing_folder_is_replaced_whole_and_nothing_is_left_beside_it(denoiser: Denoiser, tmp_path: Path) -> None:
    zoo.save(denoiser, tmp_path / "model", described())
    (tmp_path / "model" / "old.txt").write_text("old")
    zoo.save(denoiser, tmp_path / "model", described(name="newer"))
    assert zoo.load(tmp_path / "model").name == "newer"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "old.txt").exists()


def test_a_failed_save_leaves_the_old_folder(denoiser: Denoiser, tmp_path: Path) -> None:
    zoo.save(denoiser, tmp_path / "model", described())
    with pytest.raises(BadValue, match="other tensors"):
        zoo.save(denoiser, tmp_path / "model", described(network={**NETWORK, "channels": [16]}))
    with pytest.raises(TypeError):
        write_folder(tmp_path / "model", described(), denoiser.network, card=3)  # type: ignore[arg-type]
    assert zoo.load(tmp_path / "model").name == "small"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def edit(folder: Path, **changes: object) -> None:
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"predicts": "noize"}, "predicts: Input should be"),
        ({"shape": None}, "shape: Field required"),
        ({"format": 2}, "format: Input should be 1"),
        ({"network": {**NETWORK, "class": "Unet"}}, "did you mean 'UNet'"),
        ({"network": {**NETWORK, "depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"network": {**NETWORK, "channels": [16]}}, "size mismatch"),
        ({"path": {"name": "vpp"}}, "did you mean 'vp'"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(
    denoiser: Denoiser, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = zoo.save(denoiser, tmp_path / "model", described())
    edit(folder, **changes)
    with pytest.raises((BadValue, UnknownName), match=message):
        zoo.load(folder)


def test_incomplete_folders(denoiser: Denoiser, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"config\.json"):
        zoo.load(tmp_path)
    folder = zoo.save(denoiser, tmp_path / "model", described())
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadValue, match=r"without model\.safetensors"):
        zoo.load(folder)
    with pytest.raises(BadValue, match="no folder"):
        zoo.load(tmp_path / "nowhere")


def test_functions_make_denoisers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine_for_the_test.py").write_text(
        "import retrograde.paths as paths\nfrom retrograde.denoisers import Denoiser\n"
        "def make():\n    return Denoiser(lambda x, t: 0 * x, paths.VP(), 'noise', (2,), name='mine')\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert zoo.load("mine_for_the_test:make").name == "mine"
    with pytest.raises(BadType, match="returned a int"):
        zoo.load("mine_for_the_test:wrong")
    with pytest.raises(BadValue, match="missing"):
        zoo.load("mine_for_the_test:missing")
    with pytest.raises(BadValue, match="no_such_module"):
        zoo.load("no_such_module:make")


def test_only_modules_can_be_saved(tmp_path: Path) -> None:
    with pytest.raises(BadType, match="Module"):
        zoo.save(Denoiser(lambda x, t: x, paths.VP(), "data", (1,)), tmp_path / "model", described())


def test_classifier_round_trip_and_errors(tmp_path: Path) -> None:
    network = Classifier(classes=4).eval()
    folder = zoo.save_classifier(network, tmp_path / "c", zoo.ClassifierConfig(name="c", classes=4))
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(zoo.load_classifier(folder)(x), network(x))
    edit(folder, colour="red")
    with pytest.raises(BadValue, match="Extra inputs"):
        zoo.load_classifier(folder)
    with pytest.raises(BadValue, match=r"config\.json"):
        zoo.load_classifier(tmp_path)

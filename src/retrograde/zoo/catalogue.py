"""Loading and saving denoisers by name, folder or function."""

import dataclasses
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from retrograde import devices, nets, paths
from retrograde.denoisers import AbstractDenoiser, Denoiser
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.train.folder import ModelConfig, read_config, read_weights, write_folder
from retrograde.zoo.features import load_classifier

_MODELS = Path(__file__).with_name("models")
_FORMATS = {"model_index.json": "retrograde.interop.pipelines:load"}
"""What opens folders of other people's formats, by the file that marks them; named, for it is not imported before."""
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def models() -> tuple[str, ...]:
    """Return the names of the embedded denoisers, sorted."""
    return tuple(sorted(file.parent.name for file in _MODELS.glob("*/config.json") if _is_denoiser(file.parent)))


def load(
    source: str | Path,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    **size: int,
) -> AbstractDenoiser:
    """Return a denoiser: an embedded one by name, one from a folder, or what "package.module:function" returns.

    A folder is one of our own, or a pipeline that diffusers saved (see `interop.diffusers.denoiser`).

    Args:
        dtype: type the network computes in, whatever that of the states is; None for float32. What a function returns is
            left as it is then.
        device: where the network computes, "cpu", "cuda:1", "mps"; None for the CPU. Say it to `sample` too, which keeps
            the states there: `rg.sample(den, plan, device="cuda")`.
        **size: what a pipeline is to make, in pixels: height, width, frames.

    The network of a folder is in evaluation mode and its parameters ask for no gradient.

    Raises UnknownName for a name that is neither embedded nor a folder, BadValue for a broken folder or function, or a
    device that this machine does not have, BadType where a function returns something that is not a denoiser, or one
    without a network that could compute in another type.
    """
    text = str(source)
    kind = None if dtype is None else devices.checked_type(dtype)
    place = torch.device("cpu") if device is None else devices.checked(device)
    for mark, opener in _FORMATS.items():
        if text not in models() and (Path(source) / mark).is_file():
            return _imported(opener)(source, kind, place, **size)
    if size:
        raise BadValue(f"{', '.join(size)} of {text!r}", "a size of a pipeline; this model has its own", f"load({text!r})")
    if text in models():
        embedded = _from_folder(_MODELS / text, kind, place)
        return _quicker(embedded) if place.type == "cpu" else embedded
    if Path(source).is_dir():
        return _from_folder(Path(source), kind, place)
    if _FUNCTION.fullmatch(text):
        return _from_function(text, kind, None if device is None else place)
    if "/" in text:
        raise BadValue(
            f"no folder {text!r}", "a folder with config.json, or with a pipeline's model_index.json", "check the path"
        )
    raise UnknownName("model", text, models())


def save(denoiser: Denoiser | nn.Module, folder: str | Path, config: ModelConfig, card: str = "") -> Path:
    """Write a model folder that `load` reads back; an existing folder is replaced in one move.

    `config.network` names the class in `retrograde.nets` and its keywords.

    Raises BadType where there is no module to store, BadValue where the configuration does not build a network with
    the same tensors.
    """
    network = denoiser if isinstance(denoiser, nn.Module) else denoiser.network
    if not isinstance(network, nn.Module):
        raise BadType(f"a network of type {type(network).__name__}", "a torch.nn.Module", "wrap it in a module")
    built = {name: value.shape for name, value in build_network(config.network).state_dict().items()}
    given = {name: value.shape for name, value in network.state_dict().items()}
    if built != given:
        wrong = sorted(name for name in built.keys() | given.keys() if built.get(name) != given.get(name))
        raise BadValue(
            f"config.network builds other tensors than the network has: {', '.join(wrong[:4])}",
            "the keywords the network was made with",
            "correct config.network",
        )
    return write_folder(folder, config, network, card)


def classifier() -> nets.Classifier:
    """Return the embedded classifier of 28x28 digits; `classifier().features(x)` is [n, 64]."""
    return load_classifier(_MODELS / "digits-classifier")


def build_network(described: dict[str, Any]) -> nn.Module:
    """Build the network a configuration describes: its "class" and the keywords of that class.

    The class is one of `retrograde.nets`, or "package.module:Class".

    Raises UnknownName for an unknown class, BadValue for keywords it does not take.
    """
    arguments = dict(described)
    name = str(arguments.pop("class", ""))
    if _FUNCTION.fullmatch(name):
        make = _imported(name)
    elif name in nets.__all__:
        make = getattr(nets, name)
    else:
        raise UnknownName("network", name, nets.__all__)
    try:
        # Fresh weights are drawn and thrown away: the caller's random state must not notice.
        with torch.random.fork_rng(devices=[]):
            return make(**arguments)
    except TypeError as error:
        raise BadValue(f"{name} with {sorted(arguments)}: {error}", "the keywords of its class", "correct them") from None


def _from_folder(folder: Path, dtype: torch.dtype | None, device: torch.device) -> Denoiser:
    config = read_config(folder)
    network = build_network(config.network)
    read_weights(folder, network)
    network.eval().requires_grad_(False).to(device, dtype)
    return Denoiser(
        network,
        paths.from_config(config.path),
        config.predicts,
        tuple(config.shape),
        conditions=config.conditions,
        sigma_data=config.sigma_data,
        dtype=next((weight.dtype for weight in network.parameters()), dtype),
        name=config.name,
    )


def _quicker(denoiser: Denoiser) -> Denoiser:
    """Return the denoiser with its kernels channel by channel, as convolutions on a CPU are a quarter quicker.

    The last bits of its answers change. Networks that people saved are left alone: they come back to the bit.
    """
    if isinstance(denoiser.network, nn.Module):
        denoiser.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return denoiser


def _from_function(text: str, dtype: torch.dtype | None, device: torch.device | None) -> AbstractDenoiser:
    made = _imported(text)()
    if not isinstance(made, AbstractDenoiser):
        raise BadType(f"{text!r} returned a {type(made).__name__}", "a denoiser", "return retrograde.Denoiser(...)")
    if dtype is not None and not isinstance(made, Denoiser):
        allowed = "a Denoiser, around a network, whose type can be chosen"
        raise BadType(f"dtype={dtype} for {text!r}, a {type(made).__name__}", allowed, f"load({text!r})")
    if not isinstance(made, Denoiser):
        return made
    if isinstance(made.network, nn.Module):
        made.network.to(device, dtype)
    return made if dtype is None else dataclasses.replace(made, dtype=dtype)


def _imported(text: str) -> Any:
    module, _, name = text.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadValue(f"{text!r}: {error}", "package.module:function", "check both parts") from error


def _is_denoiser(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file() and '"predicts"' in (folder / "config.json").read_text("utf-8")

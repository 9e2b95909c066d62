"""Pipelines of diffusers as denoisers: the library's loop asks their networks."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from retrograde.denoisers import Denoiser
from retrograde.errors import BadType, BadValue, MissingExtra, UnknownName
from retrograde.interop import image_transformers, schedulers, unets, video_transformers
from retrograde.interop.answered import told_on
from retrograde.interop.asked_part import BY_HAND, AskedPart, Opening, Size
from retrograde.paths import VE, Flow, VPDiscrete
from retrograde.paths import Path as NoisePath

FAMILIES: dict[str, Callable[[Any, Size], Opening]] = {
    "UNet2DModel": unets.unconditional,
    "UNet2DConditionModel": unets.text_to_image,
    "DiTTransformer2DModel": image_transformers.by_class,
    "Transformer2DModel": image_transformers.by_class,
    "SD3Transformer2DModel": image_transformers.stable_diffusion_3,
    "FluxTransformer2DModel": image_transformers.flux,
    "WanTransformer3DModel": video_transformers.wan,
}
"""What opens a pipeline, by the class of its network."""


SIZES = ("height", "width", "frames")
"""What can be said of a pipeline's size, in pixels."""


def denoiser(pipe: Any, *, height: int | None = None, width: int | None = None, frames: int | None = None) -> Denoiser:
    """Return the network of a pipeline as a denoiser, with the pipeline's codec, text encoders and conventions.

    The path, and what the network predicts, are those of `pipe.scheduler`: the trained betas (with terminal SNR of zero,
    where they are rescaled), or the straight path of flow matching. The network is told what it was trained with: the index
    of a trained step, or that number times t. It is the pipeline's own, looked up there at every call: on its device, in
    its type, with the adapters that are active; states stay where the run keeps them. Options of the scheduler that clip
    predictions are not the network's: `rg.guide.threshold(denoiser, None)` is `clip_sample` (of which DDIMScheduler makes an
    exception: it goes on with the noise that was not clipped). A safety checker is not run.

    Texts are read by the pipeline's encoders: condition="a text", {"prompt": "a text"} or a list of texts; or hand over
    embeddings by name. Null is what the pipeline takes for no text; `rg.guide.cfg(den, 7.5)` weighs as the pipeline's
    `guidance_scale` does, and negative="a text" is its negative prompt. `den.codec` goes between states and pixels.

    Args:
        height, width, frames: what is to be made, in pixels; left out, what the pipeline makes by default.

    Raises:
        BadType: a pipeline, a network or a scheduler of another kind; the families that open are named.
        BadValue: a size that the network cannot make.
    """
    parts = (getattr(pipe, part, None) for part in ("unet", "transformer", "transformer_2"))
    network = next((part for part in parts if part is not None), None)
    scheduler = getattr(pipe, "scheduler", None)
    family = FAMILIES.get(_class_of(network))
    if family is None or scheduler is None:
        raise BadType(
            f"a {type(pipe).__name__} around {type(network).__name__ if network is not None else 'no denoising network'}",
            f"pipelines around {', '.join(FAMILIES)}",
            BY_HAND,
        )
    plan = getattr(scheduler, "plan", None)
    if plan is not None:
        path, predicts = plan.path, schedulers.PREDICTIONS[scheduler.config["prediction_type"]]
    else:
        path, predicts = schedulers.path_of(scheduler), schedulers.predicts(scheduler)
    opened = family(pipe, Size(height, width, frames))
    sure = tuple(k for k, v in opened.conditions.items() if isinstance(v, torch.Tensor) and bool(v.isnan().any()))
    return Denoiser(
        AskedPart(pipe, opened.part, opened.ask, sure),
        path,
        predicts,
        opened.shape,
        conditions=opened.conditions,
        clock=_clock(path, predicts, int(scheduler.config.get("num_train_timesteps", 1000)), scheduler),
        sigma_data=float(scheduler.config.get("sigma_data", 0.5)),
        name=opened.part,
        reads=opened.reads,
        codec=opened.codec,
        shared=opened.shared,
    )


def load(
    folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str | None = None, **size: int
) -> Denoiser:
    """Return the denoiser of a pipeline's folder, as `save_pretrained` writes it; nothing is fetched from elsewhere.

    Its parameters ask for no gradient.

    Args:
        dtype: type of all networks; None for float32.
        device: where all of them are put; None for the CPU.
        **size: height, width, frames, as `denoiser` takes them.

    Raises:
        MissingExtra: diffusers, or what the folder's text encoders need, is not installed.
        BadValue: the folder cannot be read.
        UnknownName: a size that there is not.
    """
    for name in size:
        if name not in SIZES:
            raise UnknownName("size", name, SIZES)
    named = _parts(Path(folder))
    _check_installed(named)
    from diffusers import DiffusionPipeline

    try:
        with warnings.catch_warnings():
            # Newer versions say `dtype`, the oldest that are served do not know it.
            warnings.filterwarnings("ignore", ".*torch_dtype.*", FutureWarning)
            pipe = DiffusionPipeline.from_pretrained(
                str(folder),
                local_files_only=True,
                torch_dtype=torch.float32 if dtype is None else dtype,
                # What was saved without a part is missing it only if that is not said.
                **{name: None for name, part in named.items() if part == [None, None]},
            )
    except (OSError, ValueError, AttributeError, ImportError) as error:
        allowed = "a folder that DiffusionPipeline.save_pretrained wrote"
        raise BadValue(f"{folder}: {error}", allowed, "save the pipeline again") from error
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    if device is not None:
        pipe.to(device)
    return denoiser(pipe, **size)


def _parts(folder: Path) -> dict[str, Any]:
    """Return what the index of a folder says: for each part its package and class, None twice for a part that is not."""
    try:
        named = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        named = {}  # what reads the folder says it better
    return named if isinstance(named, dict) else {}


def _check_installed(named: dict[str, Any]) -> None:
    """Raise MissingExtra for a package that the parts of a folder come from and that is not there."""
    sources = {part[0] for part in named.values() if isinstance(part, list) and part and isinstance(part[0], str)}
    for package in ("diffusers", *({"transformers"} & sources)):
        try:
            found = sys.modules.get(package) or find_spec(package)
        except ValueError:  # an entry of None among the modules: it was taken away
            found = None
        if found is None:
            raise MissingExtra(package, "diffusers")


def _class_of(network: Any) -> str:
    """Return the name of a network's class, also of one that was compiled."""
    return type(getattr(network, "_orig_mod", network)).__name__


def _clock(path: NoisePath, predicts: str, steps: int, scheduler: Any) -> Callable[[float], float] | None:
    """Return what the network is told at a path time; None where the path or the preconditioning says it.

    Raises:
        BadType: a scheduler whose network is told something else.
    """
    if isinstance(path, Flow):
        return told_on(path, steps, schedulers.tells_whole(scheduler))
    if isinstance(path, VE):
        return path.s
    if isinstance(path, VPDiscrete) or predicts == "edm":
        return None
    raise BadType(
        f"a pipeline of {type(scheduler).__name__}, on path {path.fingerprint}",
        "schedulers of trained betas, of flow matching, or of EDM",
        "wrap it yourself: rg.Denoiser(network, interop.schedulers.path_of(pipe.scheduler), predicts, shape, clock=...)",
    )


__all__ = ["FAMILIES", "denoiser", "load"]

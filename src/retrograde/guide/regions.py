"""Regions of a picture that listen to prompts of their own, by mixing what cross-attention answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction, prepare_condition
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue, ShapeError, UnknownName
from retrograde.guide.transform import Transform
from retrograde.guide.weight import Weight
from retrograde.sites import Call, Places, opened, places_of

KNOB = "regions"
"""Knob of a row that overrides the regions' weights: one for each, numbers or a tensor that is learned."""
_TEXT = "encoder_hidden_states"


@final
@dataclass(frozen=True, eq=False)
class Regional(Transform):
    """A denoiser whose regions listen to prompts of their own (see `regions`)."""

    places: Places
    text: str
    local: Tensor
    masks: Tensor
    weights: Sequence[Weight] | Tensor
    obeys = frozenset({KNOB})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        passed = {name: value for name, value in knobs.items() if name != KNOB}
        weights = self._weights(t, knobs).to(x_t)
        given = condition.get(self.text)
        null = torch.as_tensor(self.inner.conditions[self.text]).to(x_t.device)
        told = torch.zeros(len(x_t)) if given is None else (given != null).flatten(1).any(1)
        if not (weights.requires_grad or bool(weights.any())) or not bool(told.any()):
            return self.inner.predict(x_t, t, condition, passed, network_time)
        share = weights * told.to(x_t)[:, None]

        def mixed(call: Call) -> Any:
            return self._mixed(call, share)

        with opened(self.places.network, dict.fromkeys(self.places.cross, mixed)):
            return self.inner.predict(x_t, t, condition, passed, network_time)

    def _weights(self, t: float | Tensor, knobs: Mapping[str, Any]) -> Tensor:
        weights: Any = knobs.get(KNOB, self.weights)
        if isinstance(weights, Tensor):
            return weights
        if any(callable(one) for one in weights) and isinstance(t, Tensor):
            raise BadType("weights that are functions of the level, at levels of the items' own", "numbers", "[1.0]")
        return torch.tensor([one(self.path.sigma(t)) if callable(one) else one for one in weights], dtype=torch.float64)

    def _mixed(self, call: Call, share: Tensor) -> Any:
        """A(global) + sum_i weight_i mask_i (A(local_i) - A(global)) of one attention."""
        tokens: Tensor = call.args[0] if call.args else call.kwargs["hidden_states"]
        seen: Tensor | None = call.kwargs.get(_TEXT, call.args[1] if len(call.args) > 1 else None)
        if seen is None or seen.shape[-1] != self.local.shape[-1]:
            got = "no text" if seen is None else f"text of width {seen.shape[-1]}"
            raise ShapeError(
                f"cross-attention {call.site!r} that is given {got}",
                f"the condition {self.text!r} as it is, of width {self.local.shape[-1]}",
                "name sites that see it: places=rg.sites.Places(network, cross=(...))",
            )
        everywhere = call.compute()
        masks = self._masks(tokens.shape[1], call.site).to(everywhere)
        made = everywhere
        for place, local in enumerate(self.local.to(seen)):
            text = local.expand(len(seen), *local.shape)
            args = (call.args[0], text, *call.args[2:]) if len(call.args) > 1 else call.args
            kwargs = {**call.kwargs, _TEXT: text} if len(call.args) < 2 else call.kwargs
            here = share[:, place].to(everywhere)[:, None, None] * masks[place][None, :, None]
            made = made + here * (call.compute_with(*args, **kwargs) - everywhere)
        return made

    def _masks(self, count: int, site: str) -> Tensor:
        """The masks [regions, count] at the resolution of an attention over so many places."""
        height, width = self.masks.shape[-2:]
        rows = round(math.sqrt(count * height / width))
        if rows < 1 or count % rows:
            raise ShapeError(
                f"cross-attention {site!r} over {count} places, for masks [{height}, {width}]",
                "places that lie in a picture of their proportions",
                "name other sites: places=rg.sites.Places(network, cross=(...))",
            )
        return functional.interpolate(self.masks[:, None], (rows, count // rows), mode="nearest-exact").flatten(1)


def regions(
    denoiser: AbstractDenoiser,
    prompts: Sequence[Any],
    masks: Tensor,
    weights: Sequence[Weight] | Tensor | None = None,
    *,
    text: str | None = None,
    places: Places | None = None,
) -> Regional:
    """Return the denoiser whose cross-attention mixes, within each region, the answers to a prompt of its own.

        out = A(global) + sum_i weight_i mask_i (A(local_i) - A(global))

    at every cross-attention, where A(text) is what it answers. Weight 0 everywhere is the denoiser, bit by bit; one region
    that is the whole picture, with weight 1, is the denoiser under the local prompt alone. Items without text, such as the
    second branch of guidance, are left as they are; put guidance around this, not inside. A row's knob "regions"
    overrides the weights, so they are a plan's column, and everything is differentiable in them. One evaluation of the
    network, with one more of each cross-attention for every region; the ledger counts the first.

    Args:
        prompts: for each region the condition of its text, as a run would be given it.
        masks: [regions, height, width] of 0 and 1, in the proportions of the picture (see `discs`).
        weights: for each region a number or a function of the noise level, or a tensor [regions]; None is 5/regions, from
            where the authors learn them.
        text: name of the condition that cross-attention sees; None where there is only one.
        places: where the network is not the denoiser's own module (`rg.sites.find(pipe.unet)` for a pipeline), or its
            cross-attention has no usual name.

    Raises:
        BadType: no network, or one without cross-attention.
        BadValue: other numbers of prompts, masks and weights; or no telling which condition is the text.
        UnknownName: a condition that the denoiser does not have.
        ShapeError: masks of another shape; at a run, cross-attention that sees another text or no picture.

    Reference: Wu et al., Harnessing the Spatial-Temporal Attention of Diffusion Models for High-Fidelity Text-to-Image
    Synthesis, 2023, arXiv 2304.03869.
    """
    names = list(denoiser.conditions)
    if text is None and len(names) != 1:
        raise BadValue(f"a denoiser with the conditions {names}", "the name of the one that is text", "text='text'")
    text = names[0] if text is None else text
    if text not in denoiser.conditions:
        raise UnknownName("condition", text, names)
    if masks.ndim != 3:
        raise ShapeError(f"masks of shape {list(masks.shape)}", "[regions, height, width]", "mask[None] for one region")
    weights = [5.0 / max(1, len(prompts))] * len(prompts) if weights is None else weights
    if not len(prompts) == len(masks) == len(weights) > 0:
        given = f"{len(prompts)} prompts, {len(masks)} masks, {len(weights)} weights"
        raise BadValue(given, "as many of each, at least one", "weights=[1.0, 1.0] for two regions")
    found = places_of(denoiser) if places is None else places
    found.need("cross")
    local = torch.cat([prepare_condition(denoiser, {text: prompt}, 1)[text] for prompt in prompts])
    return Regional(denoiser, found, text, local, masks.float(), weights)


def discs(centres: Sequence[tuple[float, float]], height: int, width: int, radius: float = 0.2) -> Tensor:
    """Return masks [regions, height, width], 1 within `radius` sides of a centre (row, column), in shares of the sides.

    The radius is measured in the shorter side.
    """
    side = min(height, width)
    rows = (torch.arange(height) + 0.5)[:, None] / side
    columns = (torch.arange(width) + 0.5) / side
    spots = [(row * height / side, column * width / side) for row, column in centres]
    return torch.stack([((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).float() for y, x in spots])


systems.register(
    systems.System(
        title="Harnessing the Spatial-Temporal Attention of Diffusion Models for High-Fidelity Text-to-Image Synthesis",
        authors=("Qiucheng Wu", "Yujian Liu", "Handong Zhao", "Trung Bui", "Zhe Lin", "Yang Zhang", "Shiyu Chang"),
        year=2023,
        arxiv="2304.03869",
        home="guidance",
        call="rg.guide.regions(denoiser, [first, second], rg.guide.discs([(0.5, 0.25), (0.5, 0.75)], 64, 64))",
        test="tests/guide/test_regions.py::test_a_whole_region_of_weight_one_is_its_prompt_alone",
    )
)

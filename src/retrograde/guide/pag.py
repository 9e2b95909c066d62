"""Perturbed-attention guidance: led away from what the network says where its self-attention sees nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.carried import CARRIED, carried, into
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue, ShapeError, UnknownName
from retrograde.guide.branches import counts, extrapolate, labelled
from retrograde.guide.transform import Transform
from retrograde.guide.weight import KNOB, Weight, checked, weight_at, without
from retrograde.sites import Call, Places, Within, opened, places_of

systems.register(
    systems.System(
        title="Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance",
        authors=(
            "Donghoon Ahn",
            "Hyoungwon Cho",
            "Jaewon Min",
            "Wooseok Jang",
            "Jungwoo Kim",
            "SeonHwa Kim",
            "Hyun Hee Park",
            "Kyong Hwan Jin",
            "Seungryong Kim",
        ),
        year=2024,
        arxiv="2403.17377",
        home="guidance",
        call="rg.guide.pag(denoiser, weight=4.0)",
        test="tests/guide/test_pag.py::test_a_chosen_site_answers_with_its_values_and_no_other_changes",
    )
)

PERTURBED = "perturbed"
_MIDDLE = ("middle", "mid_block")


class _Identity(TorchFunctionMode):
    """While it is entered, attention answers with its values: the map of softmax(Q K^T/sqrt d) is the identity."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site, self.met = site, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        if query.shape[-2] != key.shape[-2] or query.shape[:-2] != value.shape[:-2]:
            given = f"attention {self.site!r} of {query.shape[-2]} places over {key.shape[-2]}"
            raise ShapeError(given, "self-attention", "name other sites: rg.guide.pag(den, 4.0, sites=[...])")
        self.met = True
        return value


def _values(call: Call) -> Any:
    """Tap that answers as the attention would with the identity for its map; projections and residual are as usual."""
    with _Identity(call.site) as mode:
        made = call.compute()
    if not mode.met:
        raise BadType(
            f"attention {call.site!r}, which does not call scaled_dot_product_attention",
            "attention that does: torch's and diffusers' usual ones, and ours",
            "pipe.unet.set_attn_processor(AttnProcessor2_0())",
        )
    return made


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Perturbed(Transform):
    """A denoiser led away from its network with perturbed attention (see `pag`)."""

    network: AbstractDenoiser
    places: Places
    sites: tuple[str, ...]
    weight: Weight
    obeys: ClassVar[frozenset[str]] = frozenset({KNOB})
    makes: ClassVar[frozenset[str]] = frozenset({"plain", PERTURBED})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        weight, passed = weight_at(self.weight, self.path, t, knobs, x_t.ndim), without(knobs)
        if KNOB in knobs and KNOB in self.inner.consumes:  # the row speaks to the guidance that is inside
            weight, passed = weight_at(self.weight, self.path, t, NOTHING, x_t.ndim), dict(knobs)
        own = {name: value for name, value in carried(passed).items() if not name.startswith(f"{PERTURBED}/")}
        held = {name: value for name, value in passed.items() if name != CARRIED} | ({CARRIED: own} if own else {})
        led = self.inner.predict(x_t, t, condition, held, network_time)
        if not isinstance(weight, Tensor) and weight == 1.0:
            return led
        plain = led.parts.get("conditional", led)
        obeyed = (CARRIED, *self.network.consumes)
        told = {name: value for name, value in into(passed, [PERTURBED]).items() if name in obeyed}
        with opened(self.places.network, dict.fromkeys(self.sites, _values)):
            away = labelled(self.network.predict(x_t, t, condition, told, network_time), PERTURBED)
        made = extrapolate(plain, away, weight)
        if plain is not led:  # the two terms add: m_u + w (m_c - m_u) + s (m_c - m')
            made = dataclasses.replace(led, value=led.value + (made.value - plain.value))
        return dataclasses.replace(
            made,
            parts={**led.parts, "plain": led, PERTURBED: away},
            evaluations={**led.evaluations, **counts({PERTURBED: away})},
            carried={**led.carried, **away.carried},
            exponents={},
        )


def pag(
    denoiser: AbstractDenoiser,
    weight: Weight | None = None,
    *,
    strength: float | None = None,
    sites: Sequence[str] | None = None,
    places: Places | None = None,
) -> Perturbed:
    """Return the denoiser with perturbed-attention guidance, m = m' + weight (m - m').

    m' is what the network says where the self-attention at `sites` has the identity in place of its map, so that each place
    sees itself alone; projections, residuals and all other sites are as they are. weight = 1 is the denoiser, bit by bit
    and at its cost; other weights cost one evaluation more, "name:perturbed". Around classifier-free guidance its term is
    added, m_u + w (m_c - m_u) + (weight - 1)(m_c - m'), with the condition in both. A row's knob "guidance" overrides the
    weight, unless guidance inside obeys it. Of which law the samples are is not known.

    Args:
        weight: a number, or a function of the noise level sigma = s/a. The authors take 4 on ImageNet, in DDIM of 25 steps.
        strength: weight - 1, the scale s of the paper and of diffusers (3 there), instead of `weight`.
        sites: names of self-attentions (`rg.sites.find(network).attention`); None for those in the middle of the network.
        places: where the network is not the denoiser's own module: `rg.sites.find(pipe.unet)`.

    Raises:
        BadType: no network, or none with self-attention; other guidance inside than `cfg` and its like.
        BadValue: not exactly one of weight and strength, or one that is not finite.
        UnknownName: a site that is no self-attention of the network.
        ShapeError: at a run, attention to something else.

    Reference: Ahn et al., 2024, arXiv 2403.17377.
    """
    if (weight is None) == (strength is None):
        given = f"weight={weight}, strength={strength}"
        raise BadValue(given, "one of them; strength = weight - 1", "weight=4.0 (or strength=3.0, the same)")
    network: Any = denoiser
    while isinstance(network, Transform) and not isinstance(network, Within):
        if "conditional" not in network.makes:
            raise BadType(
                f"perturbed attention around {type(network).__name__}",
                "the network's denoiser, or classifier-free guidance of it",
                f"put it inside: {type(network).__name__} around rg.guide.pag(den, 4.0)",
            )
        network = network.inner
    found = places_of(network) if places is None else places
    known = found.need("attention")
    chosen = _middle(found) if sites is None else tuple(sites)
    for site in chosen:
        if site not in known:
            raise UnknownName("self-attention", site, known)
    asked = checked(1.0 + strength if weight is None and strength is not None else weight or 0.0)
    return Perturbed(denoiser, network, found, chosen, asked)


def _middle(places: Places) -> tuple[str, ...]:
    """Return the self-attentions in the middle of a network; all where none are."""
    inside = _MIDDLE if not places.chain else (places.chain[len(places.chain) // 2].name,)
    return tuple(site for site in places.attention if any(site.startswith(f"{one}.") for one in inside)) or places.attention

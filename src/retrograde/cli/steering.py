"""From `--guide NAME:SETTINGS` to transforms of the denoiser, and of the plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from retrograde.errors import BadValue, UnknownName

if TYPE_CHECKING:
    from retrograde.denoisers import AbstractDenoiser
    from retrograde.plan import Plan

    Load = Callable[[str], AbstractDenoiser]

GUIDES = (
    "adaptive",
    "anneal",
    "apg",
    "autoguide",
    "cfg",
    "cfgpp",
    "first_network",
    "interval",
    "pag",
    "product",
    "rescale",
    "residual",
    "shift_time",
    "superpose",
    "threshold",
)
"""Functions of `retrograde.guide` whose settings can be typed; those that take conditions or functions are for Python."""

_OF_PLANS = ("cfgpp",)
_TOGETHER = ("product", "superpose")
"""Those of several models: the model itself and `other`."""
_ELSEWHERE = ("biases", "conditions", "exponents", "places", "reference")
"""Settings that are for Python."""
_MODELS = ("first", "other", "worse")
_SPELLINGS = {"scale": "weight", "eta": "parallel", "norm": "radius"}
_OWN = {"pag": {"scale": "strength"}}
"""Other spellings, of one guide: a scale of 0 is no perturbed-attention guidance."""


def guided(
    denoiser: AbstractDenoiser, texts: Sequence[str], *, device: str | None = None, dtype: str | None = None
) -> tuple[AbstractDenoiser, Callable[[Plan], Plan]]:
    """Return the denoiser with what was asked for around it, the first innermost, and what becomes of its plan.

    A text is a name, or a name with settings: "apg:scale=7,momentum=-0.5", "interval:0.2,0.8". Bare numbers are the first
    settings in turn; "scale" is another spelling of the weight. Models among the settings compute where `device` and `dtype`
    say.

    Raises:
        UnknownName: a guide or a setting that does not exist; those that do are listed.
        BadValue: settings that are missing, twice there or no numbers.
    """
    import retrograde as rg
    from retrograde.cli import asked

    def load(text: str) -> AbstractDenoiser:
        return asked.model(text, device=device, dtype=dtype)

    steps: list[Callable[[Plan], Plan]] = []
    for text in texts:
        name, _, rest = text.partition(":")
        if name not in GUIDES:
            raise UnknownName("guide", name, GUIDES)
        function = getattr(rg.guide, name)
        settings = _settings(text, name, rest, function, denoiser, load)
        if name in _OF_PLANS:
            steps.append(lambda plan, function=function, settings=settings: function(plan, **settings))
            if "guidance" not in denoiser.consumes:
                denoiser = rg.guide.cfg(denoiser, 1.0)
        elif name in _TOGETHER:
            denoiser = function([denoiser, settings.pop("other")], **settings)
            steps += [_with_noise] if name == "superpose" else []
        else:
            denoiser = function(denoiser, **settings)

    def steered(plan: Plan) -> Plan:
        for step in steps:
            plan = step(plan)
        return plan

    return denoiser, steered


def _with_noise(plan: Plan) -> Plan:
    """Return the plan, which draws the noise that superposition tells densities by."""
    if not plan.stochastic:
        given, allowed = f"--guide superpose along {plan.recipe}, which draws no noise", "the noise of the reversed process"
        raise BadValue(given, allowed, "--solver reverse_diffusion --nfe 100")
    return plan


def _known(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Return the settings of a guide that can be typed, each with its default (Parameter.empty where there is none)."""
    parameters = list(signature(function).parameters.values())[1:]
    first = {"other": Parameter.empty} if name in _TOGETHER else {}
    return first | {p.name: p.default for p in parameters if p.name not in _ELSEWHERE}


def _settings(
    text: str, name: str, rest: str, function: Callable[..., Any], denoiser: AbstractDenoiser, load: Load
) -> dict[str, Any]:
    known = _known(name, function)
    allowed, spellings = list(known), _SPELLINGS | _OWN.get(name, {})
    usage = ", ".join(key if default is Parameter.empty else f"{key}={default}" for key, default in known.items())
    found: dict[str, Any] = {}
    for place, part in enumerate(one for one in rest.split(",") if one):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = (allowed[place] if place < len(allowed) else ""), part
        key = spellings[key] if key not in allowed and spellings.get(key) in allowed else key
        if equals and key not in allowed:
            raise UnknownName(f"setting of {name}", key, allowed)
        if not key or key in found:
            raise BadValue(f"--guide {text}: {part!r} is one too many", f"the settings {usage}", f"--guide {name}:...")
        found[key] = _value(text, key, value, denoiser, load)
    missing = [key for key, default in known.items() if default is Parameter.empty and key not in found]
    if missing or (name in ("cfg", "pag") and not found):
        raise BadValue(
            f"--guide {text} without {', '.join(missing or ['weight'])}",
            f"the settings {usage}",
            f"--guide {name}:{(missing or ['weight'])[-1]}=...",
        )
    return found


def _value(text: str, key: str, value: str, denoiser: AbstractDenoiser, load: Load) -> Any:
    """Return a number, None for "none", a model for one, conditions for `negative`, names for sites, and one for a grid."""
    if key == "sites":
        return value.split("+")
    if key in _MODELS:
        return load(value)
    if key in ("grid", "on"):
        return value
    try:
        number = None if value == "none" else float("inf") if value == "inf" else json.loads(value)
    except ValueError:
        number = value
    if isinstance(number, str | bool | list | dict):
        raise BadValue(f"--guide {text}: {key}={value!r}", "a number, inf, or none", f"{key}=1.5")
    return dict.fromkeys(list(denoiser.conditions)[:1], number) if key == "negative" else number

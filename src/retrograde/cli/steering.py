"""From `--guide NAME:SETTINGS` to transforms of the denoiser, and of the plan."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from inspect import Parameter, getdoc, signature
from typing import TYPE_CHECKING, Any

from retrograde.errors import BadValue, RetrogradeError, UnknownName

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
_BY_CONDITION = ("apg", "cfg", "residual")
"""Those that lead from the model without the condition to the model with it."""
_AROUND = ("adaptive", "interval", "rescale")
"""Those that change the guide before them."""
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
        name = name.strip()
        if name not in GUIDES:
            raise _unknown(text)
        function = getattr(rg.guide, name)
        settings = _settings(text, name, rest, function, denoiser, load)
        if name in _BY_CONDITION and "guidance" in denoiser.consumes:
            given = f"--guide {text} around a guide by the condition"
            raise BadValue(given, f"one of --guidance, {', '.join(_BY_CONDITION)}", f"--guide {text} alone")
        if name in _OF_PLANS:
            steps.append(lambda plan, f=function, text=text, settings=settings: _made(text, f, plan, **settings))
            if "guidance" not in denoiser.consumes:
                denoiser = rg.guide.cfg(denoiser, 1.0)
        elif name in _TOGETHER:
            denoiser = _made(text, function, [denoiser, settings.pop("other")], **settings)
            steps += [_with_noise] if name == "superpose" else []
        else:
            denoiser = _made(text, function, denoiser, **settings)

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


def leads_nowhere(texts: Sequence[str]) -> bool:
    """Return whether one of the guides leads from the model without a condition to the model with it."""
    return any(text.partition(":")[0].strip() in _BY_CONDITION and "negative" not in text for text in texts)


def listed() -> list[tuple[str, dict[str, Any], str]]:
    """Return each guide's name, its settings with their defaults (Parameter.empty where there is none), and a summary."""
    import retrograde as rg

    functions = [(name, getattr(rg.guide, name)) for name in GUIDES]
    return [
        (name, _known(name, one), (getdoc(one) or "").partition("\n")[0].removeprefix("Return ").rstrip(",:"))
        for name, one in functions
    ]


def usage(known: dict[str, Any]) -> str:
    """Return the settings of a guide as a line, those that have to be there first without a default."""
    return ", ".join(key if default is Parameter.empty else f"{key}={default}" for key, default in known.items())


def _made(text: str, function: Callable[..., Any], *inner: Any, **settings: Any) -> Any:
    """Return what a guide makes of a denoiser or a plan; what it refuses is said in terms of the command."""
    try:
        return function(*inner, **settings)
    except RetrogradeError as error:
        name = function.__name__
        mend = error.mend
        if name in _OF_PLANS:
            mend = f"--solver ddim --guide {text}"
        elif name in _AROUND and "rg.guide" in mend:
            mend = f"a guide before it: --guide cfg:3 --guide {text}"
        raise BadValue(f"--guide {text}: {error.given}", error.allowed, mend) from None


def _unknown(text: str) -> Exception:
    """Return the error for a text that does not begin with the name of a guide."""
    import retrograde as rg

    name = text.partition(":")[0]
    begins = re.fullmatch(r"\s*([A-Za-z_]+)[\s=]*(.*)", text)
    if begins and begins[1].lower() in GUIDES:
        rest = begins[2].lstrip(":")
        return BadValue(
            f"--guide {text}", "NAME, or NAME:SETTINGS", f"--guide {begins[1].lower()}{':' if rest else ''}{rest}"
        )
    if name and callable(getattr(rg.guide, name, None)):
        mend = f"rg.guide.{name} takes conditions, functions or masks: call it from Python"
        return BadValue(f"--guide {text}", f"what can be typed: {', '.join(GUIDES)}", mend)
    return UnknownName("guide", name, GUIDES, "those that `retrograde guides` lists")


def _known(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Return the settings of a guide that can be typed, each with its default (Parameter.empty where there is none)."""
    parameters = list(signature(function).parameters.values())[1:]
    first = {"other": Parameter.empty} if name in _TOGETHER else {}
    return first | {p.name: p.default for p in parameters if p.name not in _ELSEWHERE}


def _settings(
    text: str, name: str, rest: str, function: Callable[..., Any], denoiser: AbstractDenoiser, load: Load
) -> dict[str, Any]:
    known = _known(name, function)
    kinds = {p.name: str(p.annotation) for p in signature(function).parameters.values()}
    allowed, spellings = list(known), _SPELLINGS | _OWN.get(name, {})
    also = [key for key, meant in spellings.items() if meant in allowed]
    found: dict[str, Any] = {}
    for place, part in enumerate(one for one in rest.split(",") if one):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            key, value = (allowed[place] if place < len(allowed) else ""), part.strip()
        typed = key
        key = spellings[key] if key not in allowed and spellings.get(key) in allowed else key
        if equals and key not in allowed:
            raise UnknownName(f"setting of {name}", key, [*allowed, *also])
        if not key or key in found:
            raise BadValue(
                f"--guide {text}: {part!r} is one too many", f"the settings {usage(known)}", f"--guide {name}:..."
            )
        found[key] = _value(f"--guide {text}: {typed}", key, value, kinds.get(key, ""), denoiser, load)
    missing = [key for key, default in known.items() if default is Parameter.empty and key not in found]
    if missing or (name in ("cfg", "pag") and not found):
        raise BadValue(
            f"--guide {text} without {', '.join(missing or ['weight'])}",
            f"the settings {usage(known)}",
            f"--guide {name}:{','.join(f'{key}=...' for key in missing or ['weight'])}",
        )
    return found


def _value(given: str, key: str, value: str, kind: str, denoiser: AbstractDenoiser, load: Load) -> Any:
    """Return a number, None for "none", a model for one, conditions for `negative`, names for sites, and others as typed.

    Args:
        given: what an error begins with.
        kind: the annotation of the setting.
    """
    if key == "sites":
        return value.split("+")
    if key in _MODELS:
        return load(value)
    if "str" in kind and key != "negative":
        return value
    try:
        number = None if value == "none" else float("inf") if value == "inf" else json.loads(value)
    except ValueError:
        number = value
    if isinstance(number, str | bool | list | dict) or (number is None and "None" not in kind):
        allowed = "a number, inf, or none" if "None" in kind else "a number, or inf"
        raise BadValue(f"{given}={value!r}", allowed, f"{given.rpartition(' ')[2]}=1.5")
    return dict.fromkeys(list(denoiser.conditions)[:1], number) if key == "negative" else number

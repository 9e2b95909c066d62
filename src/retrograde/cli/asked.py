"""From what was typed to what the library takes: numbers, names, models, conditions, plans."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrograde.errors import BadValue, PlanError, UnknownName

if TYPE_CHECKING:
    from retrograde.denoisers import AbstractDenoiser
    from retrograde.plan import Plan


def numbers(text: str, option: str) -> list[int]:
    """Return the whole numbers of "3-6,8,10", in order and once each."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise BadValue(f"{option} {text!r}", "numbers and ranges such as 3-6,8,10", f"{option} 3-6,8,10")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(found)


def names(text: str, registered: Sequence[str], kind: str) -> list[str]:
    """Return the names of "all" or "a,b"; an unknown one lists the nearest."""
    if text == "all":
        return list(registered)
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    for name in chosen:
        if name not in registered:
            raise UnknownName(kind, name, registered)
    if not chosen:
        raise BadValue(f"no {kind} in {text!r}", f"all, or some of {', '.join(registered)}", "all")
    return list(dict.fromkeys(chosen))


def model(
    text: str,
    guidance: float | None = None,
    negative: str | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    **size: int | None,
) -> AbstractDenoiser:
    """Return the denoiser of a name, folder or function, guided where a weight is given.

    Args:
        negative: the text that guidance leads away from.
        device, dtype: where the network computes and in which type, as `rg.load` takes them.
        **size: height, width, frames in pixels, of what a pipeline makes; None for its own.

    Raises:
        BadValue: a negative text without a weight, or for a model that reads none; a device that is not there.
    """
    import sys

    if negative is not None and guidance is None:
        allowed = "a weight of guidance, which leads away from it"
        raise BadValue("--negative-prompt without --guidance", allowed, "--guidance 7.5")
    import retrograde as rg

    # A function is looked for where the command was called, as `python -m` does; a console script does not.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    known = {name: value for name, value in size.items() if value is not None}
    denoiser = rg.load(text, dtype, _device(device), **known)
    if negative is not None and not denoiser.reads:
        given = f"--negative-prompt for {denoiser.name!r}, which reads no text"
        raise BadValue(given, "a model that reads texts", "leave out --negative-prompt")
    return denoiser if guidance is None else rg.guide.cfg(denoiser, guidance, negative=negative)


def _device(name: str | None) -> Any:
    from retrograde import devices

    try:
        return None if name is None else devices.checked(name)
    except BadValue as error:  # said as the command's option
        raise BadValue(error.given.replace("device=", "--device ", 1), error.allowed, "--device cpu") from None


def condition(text: str | None, n: int) -> Any:
    """Return the condition of n items: None, a list of n values, or such lists by name ("label=0-9;style=2")."""
    dealt = {name: [values[i % len(values)] for i in range(n)] for name, values in _conditions(text).items()}
    return dealt.get("", dealt or None)


def check_labels(denoiser: AbstractDenoiser, text: str | None) -> None:
    """Raise BadValue for a class that the model's network does not have; it would fail in the middle of the network."""
    network = getattr(getattr(denoiser, "inner", denoiser), "network", None)
    classes = getattr(getattr(network, "embedding", None), "classes", 0)
    if of_pipeline(denoiser):  # a pipeline's own network says it by the class that stands for none
        classes = denoiser.conditions.get("label", 0)
    if not classes:
        return
    values = [value for part in _conditions(text).values() for value in part]
    if wrong := [value for value in values if not (isinstance(value, int) and 0 <= value <= classes)]:
        allowed = f"classes 0 to {classes - 1}, or {classes} for none"
        raise BadValue(f"--condition {text}: class {wrong[0]}", allowed, f"--condition 0-{classes - 1}")


def of_pipeline(denoiser: AbstractDenoiser) -> bool:
    """Whether the network belongs to a pipeline of diffusers."""
    while (inner := getattr(denoiser, "inner", None)) is not None:
        denoiser = inner
    return hasattr(getattr(denoiser, "network", None), "pipe")


def _conditions(text: str | None) -> dict[str, list[int | float]]:
    """Return the values by name; "" is the name of a bare list."""
    if text is None:
        return {}
    if "=" not in text:
        return {"": _values(text)}
    return {name.strip(): _values(values) for name, _, values in (part.partition("=") for part in text.split(";"))}


def _values(text: str) -> list[int | float]:
    values: list[int | float] = []
    for part in text.split(","):
        if match := re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", part):
            values.extend(range(int(match[1]), int(match[2]) + 1))
        elif re.fullmatch(r"\s*[+-]?\d+\s*", part):
            values.append(int(part))
        else:
            try:
                values.append(float(part))
            except ValueError:
                allowed = "a number, a range 0-9, or a list 1,5,7"
                raise BadValue(f"--condition {text!r}", allowed, "--condition 3") from None
    if not values:
        raise BadValue(f"--condition {text!r}", "a range that rises, such as 0-9", "--condition 0-9")
    return values


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the options of "eta=0.5" and the like: numbers, true, false, or text."""
    import json

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name):
            raise BadValue(f"--set {pair!r}", "name=value", "--set eta=0.5")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def options(pairs: Sequence[str], function: Callable[..., Any]) -> dict[str, Any]:
    """Return the settings of a function, as `settings` does; one it does not have lists those it has."""
    from inspect import Parameter, signature

    allowed = [p.name for p in signature(function).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    found = settings(pairs)
    for name in found:
        if name not in allowed:
            raise UnknownName("option", name, allowed)
    return found


def plan_file(file: Path, denoiser: AbstractDenoiser | None = None, *, convert: bool = False) -> Plan:
    """Return the plan of a file, checked to be of the denoiser's path unless `convert` allows another."""
    import retrograde as rg

    if not file.is_file():
        given = f"no file {file}" if not file.exists() else f"{file} is no file"
        raise BadValue(given, "a plan written by `retrograde tune` or plan.save", "check the name")
    try:
        plan = rg.Plan.load(file)
    except UnicodeDecodeError:
        raise BadValue(f"{file} is not text", "a plan file (JSON)", "write it with plan.save(file)") from None
    if denoiser is not None and plan.path != denoiser.path and not convert:
        raise PlanError(
            f"{file} is a plan for path {plan.path.fingerprint}; {denoiser.name!r} is on {denoiser.path.fingerprint}",
            "a plan of the model's own path",
            "add --convert, which runs the model on the plan's path at equal signal-to-noise ratio",
        )
    return plan

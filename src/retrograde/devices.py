"""Where tensors live: the devices of this machine, and the types that a network may compute in."""

from __future__ import annotations

import torch

from retrograde.errors import BadType, BadValue

TYPES = ("float32", "bfloat16", "float16")
"""Types a network may compute in; the state keeps its own."""


def found() -> tuple[str, ...]:
    """Return the names of the devices of this machine: "cpu", and what torch finds, such as "cuda:0" or "mps"."""
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return (*names, "mps") if torch.backends.mps.is_available() else tuple(names)


def checked(device: torch.device | str) -> torch.device:
    """Return a device that is there; of several a name without number means torch's current one.

    Raises:
        BadValue: it is no device of torch, or this machine does not have it; those that it has are named.
    """
    try:
        made = torch.device(device)
    except (RuntimeError, TypeError):
        raise BadValue(f"device={device!r}", f"a device of this machine: {_listed()}", "device='cpu'") from None
    if made.type in ("cuda", "mps") and not any(str(made) in (name, name.partition(":")[0]) for name in found()):
        raise BadValue(
            f"device={str(made)!r}, which this machine does not have", f"a device of it: {_listed()}", "device='cpu'"
        )
    return made


def checked_type(dtype: torch.dtype | str) -> torch.dtype:
    """Return a type of floating point, by itself or by name.

    Raises:
        BadType: anything else.
    """
    made = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(made, torch.dtype) or not made.is_floating_point:
        raise BadType(f"dtype={dtype!r}", f"a type of floating point, such as {', '.join(TYPES)}", "dtype=torch.float32")
    return made


def _listed() -> str:
    return ", ".join(found())

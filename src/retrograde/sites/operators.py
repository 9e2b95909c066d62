"""Where the time of a run goes: by operator, by row of the plan, and by the lengths that attention sees."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.sampling import steps
from retrograde.sites.ledger import counter

systems.register(
    systems.System(
        title="Generative AI Beyond LLMs: System Implications of Multi-Modal Generation",
        authors=(
            "Alicia Golden",
            "Samuel Hsia",
            "Fei Sun",
            "Bilge Acun",
            "Basil Hosmer",
            "Yejin Lee",
            "Zachary DeVito",
            "Jeff Johnson",
            "Gu-Yeon Wei",
            "David Brooks",
            "Carole-Jean Wu",
        ),
        year=2023,
        arxiv="2312.14385",
        home="accelerate",
        call="rg.sites.profile(denoiser, plan)",
        test="tests/sites/test_operators.py::test_the_work_of_attention_grows_with_the_fourth_power_of_the_side",
    )
)

KINDS = ("convolution", "linear", "attention", "norm", "activation", "moving", "other")
"""Kinds of operators. "moving" copies, joins and resizes; views cost nothing and are not counted."""

_WORDS = (
    ("attention", ("scaled_dot_product", "bmm", "softmax", "_attention")),
    ("convolution", ("conv",)),
    ("linear", ("mm", "linear", "mv", "dot")),
    ("norm", ("norm",)),
    ("activation", ("silu", "gelu", "relu", "sigmoid", "tanh")),
    ("moving", ("cat", "clone", "copy", "stack", "upsample", "pad", "repeat", "shuffle", "index", "constant", "contiguous")),
)


@final
@dataclasses.dataclass
class Operators:
    """What one kind of operators did: calls, seconds, multiply-accumulates, bytes read and written."""

    calls: int = 0
    seconds: float = 0.0
    macs: int = 0
    bytes: int = 0

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: floating-point operations (two to a multiply-accumulate) per byte."""
        return 2 * self.macs / self.bytes if self.bytes else 0.0


@final
@dataclasses.dataclass(frozen=True)
class Step:
    """One row of the plan: its time (None where it asks nothing), and what it took."""

    time: float | None
    seconds: float
    macs: int


@final
@dataclasses.dataclass(frozen=True)
class Profile:
    """Where a run spent its time (see `profile`).

    Attributes:
        operators: by kind, those that ran.
        steps: row by row.
        lengths: calls of attention by (queries, keys): how long the sequences were.
        seconds: the whole run, what is between the operators included, what the measuring took left out.
        n: items.
    """

    operators: dict[str, Operators]
    steps: tuple[Step, ...]
    lengths: dict[tuple[int, int], int]
    seconds: float
    n: int

    @property
    def between(self) -> float:
        """Seconds between the operators: Python, views, the loop, and some microseconds of the stopwatch at each."""
        return self.seconds - sum(one.seconds for one in self.operators.values())

    @property
    def evaluation(self) -> float:
        """Seconds of one evaluation of the network for the n items: the median over the rows that ask it."""
        asked = sorted(step.seconds for step in self.steps if step.time is not None)
        return asked[len(asked) // 2]

    def summary(self) -> dict[str, Any]:
        """Return the profile as plain numbers, for JSON."""
        return {
            "items": self.n,
            "seconds": self.seconds,
            "between": self.between,
            "operators": {
                name: dataclasses.asdict(one) | {"intensity": one.intensity} for name, one in self.operators.items()
            },
            "steps": [dataclasses.asdict(step) for step in self.steps],
            "attention": [{"queries": q, "keys": k, "calls": calls} for (q, k), calls in sorted(self.lengths.items())],
        }


def kind_of(name: str) -> str:
    """Return the kind of an operator, by its name: "aten::convolution" is a "convolution"."""
    word = name.removeprefix("aten::").removesuffix("_")
    for kind, parts in _WORDS:
        if any(part in word for part in parts):
            return kind
    return "other"


@final
class _Watch(TorchDispatchMode):
    """Takes the time of every operator."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.counts = counter().flop_registry
        self.aside = 0.0  # seconds of keeping these books
        self.operators: dict[str, Operators] = {}
        self.lengths: dict[tuple[int, int], int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        began = self.clock()
        made = func(*args, **kwargs)
        ended = self.clock()
        if not func.is_view:
            self._entered(func, args, kwargs, made, ended - began)
        self.aside += self.clock() - ended
        return made

    def _entered(self, func: Any, args: Any, kwargs: Any, made: Any, seconds: float) -> None:
        name = func._schema.name
        entry = self.operators.setdefault(kind_of(name), Operators())
        entry.calls += 1
        entry.seconds += seconds
        entry.bytes += sum(x.numel() * x.element_size() for x in tree_leaves((args, kwargs, made)) if isinstance(x, Tensor))
        flops = self.counts.get(func.overloadpacket)
        entry.macs += int(flops(*args, **kwargs, out_val=made)) // 2 if flops else 0
        if "scaled_dot_product" in name:
            self._seen(args[0].shape[-2], args[1].shape[-2])
        elif "softmax" in name:
            self._seen(args[0].shape[-2], args[0].shape[-1])

    def _seen(self, queries: int, keys: int) -> None:
        self.lengths[queries, keys] = self.lengths.get((queries, keys), 0) + 1


def profile(
    denoiser: AbstractDenoiser,
    plan: Plan,
    n: int = 1,
    *,
    fused: bool = True,
    clock: Callable[[], float] | None = None,
    **options: Any,
) -> Profile:
    """Measure where the time of sampling n items goes: by kind of operator, by row, and what lengths attention sees.

    Every operator is timed as it runs, its multiply-accumulates counted and the bytes of its inputs and outputs added; the
    arithmetic intensity is their ratio. A GPU is waited for after each operator, so that the sum is that of the work, not
    of a run that overlaps. The first row of a first run holds what libraries set up; sample once before.

    Args:
        n: items, computed at once.
        fused: whether attention may use the fused kernels; False takes products and softmax one by one, as before them.
        clock: what is read before and after each operator; seconds of the wall by default, after the device is done.
        **options: what `retrograde.steps` takes: seed, condition, controllers.

    Raises:
        BadValue: no items.

    Reference: Golden et al., 2023, arXiv 2312.14385.
    """
    if n < 1:
        raise BadValue(f"n={n}", "1 or more items", "n=1")
    watch, rows = _Watch(clock or _seconds), []
    with _attention(fused), watch:
        before, done = watch.clock(), 0
        for state in steps(plan, denoiser, n, **options):
            now, macs = watch.clock(), sum(one.macs for one in watch.operators.values())
            rows.append(Step(state.row.time, now - before - watch.aside, macs - done))
            before, done, watch.aside = watch.clock(), macs, 0.0
    found = {kind: watch.operators[kind] for kind in KINDS if kind in watch.operators}
    return Profile(found, tuple(rows), watch.lengths, sum(row.seconds for row in rows), n)


def _seconds() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _attention(fused: bool) -> contextlib.AbstractContextManager[Any]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return contextlib.nullcontext() if fused else sdpa_kernel(SDPBackend.MATH)

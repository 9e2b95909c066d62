"""Faster Diffusion: the way down a UNet is computed now and then, the way up always, of several rows at once if asked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from retrograde import systems
from retrograde.accelerate.runs import some
from retrograde.accelerate.schedule import asking
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.laws import POINT_MASS
from retrograde.plan import Plan
from retrograde.sites import REUSE, ROOT, Call, Ladder, Places, Policy, Tap, Visit, Within, filled, network_of, outline
from retrograde.sites import places_of as found
from retrograde.sites import within as around

systems.register(
    systems.System(
        title="Faster Diffusion: Rethinking the Role of UNet Encoder in Diffusion Models",
        authors=(
            "Senmao Li",
            "Taihang Hu",
            "Joost van de Weijer",
            "Fahad Shahbaz Khan",
            "Tao Liu",
            "Linxuan Li",
            "Shiqi Yang",
            "Yaxing Wang",
            "Ming-Ming Cheng",
            "Jian Yang",
        ),
        year=2023,
        arxiv="2312.09608",
        home="accelerate",
        call="rg.sample(rg.accelerate.encoder_cache(denoiser), rg.accelerate.reuse(plan, [0, 1, 2, 3, 5, 10, 15, 25, 35]))",
        test="tests/accelerate/test_encoder.py::test_reused_encoders_err_less_than_reused_predictions_at_their_share_of_the_cost",
    )
)


@final
@dataclasses.dataclass(frozen=True)
class EncoderCache(Policy):
    """Rows that reuse compute the way up alone (see `encoder_cache`)."""

    ladder: Ladder
    prefix: str
    title: ClassVar[str] = "encoder_cache"

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        sites = self.ladder.gathered(self.ladder.encoder)
        values = {*(part[-1] for part in self.ladder.makes), *self.ladder.middle[-1:]}
        containers = {name for name, _ in self.ladder.whole}
        ahead = list(visit.asked) if isinstance(visit.asked, list | tuple) else []
        if visit.asked is True and all(visit.newest(site) is not None for site in sites):
            visit.skip(*(self.prefix + site for site in sites))
            if (known := visit.newest("ahead")) is not None and visit.network_time in known[0]:
                return {ROOT: lambda call: known[1][:, known[0].index(visit.network_time)]}
            return {self.prefix + site: lambda call, s=site: filled(visit.newest(s), visit.n) for site in sites}

        def keep(call: Call) -> Any:
            n, copies = visit.n, 1 + len(ahead)
            first = torch.arange(n, device=visit.x_t.device)
            made = call.compute_with(*some(call.args, first, n * copies), **some(call.kwargs, first, n * copies))
            site = call.site.removeprefix(self.prefix)
            visit.keep(site, made if site in values or site in containers else outline(made))
            return _repeated(made, copies)

        def together(call: Call) -> Tensor:
            x, told, *rest = call.args
            clocks = [told, *(torch.full_like(told, t) for t in ahead)]
            copied: Any = [_repeated(part, len(clocks)) for part in (x, tuple(rest), call.kwargs)]
            made = call.compute_with(copied[0], torch.cat(clocks), *copied[1], **copied[2])
            now, *later = made.chunk(len(clocks))
            visit.keep("ahead", (tuple(ahead), torch.stack(later, 1)))
            return now

        taps: dict[str, Tap] = {self.prefix + site: keep for site in sites}
        if not ahead:
            visit.keep("ahead", None)
            return taps
        return {ROOT: together, **taps}


def _repeated(tree: Any, times: int) -> Any:
    if times == 1:
        return tree
    return tree_map(lambda x: x.repeat(times, *(1,) * (x.ndim - 1)) if isinstance(x, Tensor) and x.ndim else x, tree)


def encoder_cache(denoiser: AbstractDenoiser, *, places: Places | None = None) -> Within:
    """Return the denoiser whose rows with the knob "reuse" compute the decoder of its UNet alone.

    The skip connections and the middle are those of the last full evaluation, the embedding of the noise level is the
    row's own: such a row does not look at its state. The column is a plan's; the authors' for fifty steps of Stable
    Diffusion is `rg.accelerate.reuse(plan, [0, 1, 2, 3, 5, 10, 15, 25, 35])`. Without the column the samples are the
    denoiser's, bit by bit. Full evaluations may compute the decoder of the rows to come in the same call (`decode_ahead`).

    It spares the encoder's share and no more, which is a third in the embedded `digits`: there it errs less than reusing the
    whole prediction, but more than as many DDIM steps as its cost pays for. Compare before use (`rg.sites.cost`).

    Raises:
        BadType: no UNet was found in the denoiser.

    Reference: Li et al., 2023, arXiv 2312.09608.
    """
    places = found(denoiser) if places is None else places
    ladder: Ladder = places.need("ladder")
    outer = network_of(denoiser)
    name = next(name for name, module in outer.named_modules() if module is places.network)
    policy = EncoderCache(ladder, f"{name}." if name else "")
    return around(denoiser, policy, dataclasses.replace(places, network=outer))


def decode_ahead(plan: Plan, denoiser: AbstractDenoiser) -> Plan:
    """Return the plan whose full evaluations compute the decoders of the rows that follow and reuse, all in one call.

    For `encoder_cache`: as many network calls as full evaluations, larger ones; the samples are the same to rounding. The
    knob "reuse" of a full row then lists what the network is told in the others.
    """
    bound = plan.bind(denoiser).rows
    places = asking(plan)
    rows = list(plan.rows)
    for number, place in enumerate(places):
        if rows[place].knobs.get(REUSE) is True:
            continue
        later: list[Any] = []
        for following in places[number + 1 :]:
            if rows[following].knobs.get(REUSE) is not True:
                break
            later.append(bound[following].network_time)
        knobs = {key: value for key, value in rows[place].knobs.items() if key != REUSE}
        rows[place] = dataclasses.replace(rows[place], knobs=knobs | ({REUSE: later} if later else {}))
    return dataclasses.replace(plan, rows=tuple(rows))


def inject(plan: Plan, weight: float = 0.003, part: float = 0.5) -> Plan:
    """Return the plan that adds a little of the noise it began with to the states of its last evaluations.

        x_t <- x_t + weight r(t) / r(T) x_T,   r(t) = sqrt(a(t)^2 + s(t)^2),

    before the evaluations in the last `part` of them, against the texture that reused features lose. On a variance
    preserving path, where it was published, r is 1. The states are no longer the path's: the plan says that it misses the
    point-mass law.

    Raises:
        BadValue: a plan cut from a longer one, which does not hold its first state; a part outside [0, 1].

    Reference: Li et al., 2023, arXiv 2312.09608, section 3.3 (0.003, the last half of the steps).
    """
    if plan.history or not 0 <= part <= 1:
        given = f"a plan cut from a longer one ({plan.history} states), part={part}"
        raise BadValue(given, "a plan that holds its first state, part in [0, 1]", "inject, then cut: plan[k:]")
    if weight == 0.0:
        return plan
    path, places = plan.path, asking(plan)
    late = set(places[len(places) - int(part * len(places)) :])

    def size(t: Any) -> float:
        return math.hypot(path.a(t), path.s(t))

    rows = []
    for k, row in enumerate(plan.rows):
        if k + 1 in late and row.next_time is not None:
            states: tuple[Any, ...] = (*row.states, *(0.0,) * (k + 1 - len(row.states)))  # the last of them is x_T
            more = weight * size(row.next_time) / size(plan.start)
            row = dataclasses.replace(row, states=(*states[:-1], states[-1] + more))
        rows.append(row)
    note = {"inject": {"weight": weight, "part": part}}
    misses = (*plan.misses, *((POINT_MASS,) if POINT_MASS not in plan.misses else ()))
    return dataclasses.replace(plan, rows=tuple(rows), misses=misses, provenance={**plan.provenance, **note})

"""A stream of frames through one network: every call advances all frames on their way, each at its own row of the plan."""

from __future__ import annotations

import collections
import dataclasses
import queue
from collections.abc import Generator, Iterable, Iterator
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.accelerate.answered import Answered
from retrograde.denoisers import AbstractDenoiser, Prediction, on_path, prepare_condition
from retrograde.denoisers.prediction import selected
from retrograde.errors import BadType, BadValue, PlanError
from retrograde.noise import Noise
from retrograde.plan import Plan
from retrograde.sampling import steps
from retrograde.state import State

systems.register(
    systems.System(
        title="StreamDiffusion: A Pipeline-level Solution for Real-time Interactive Generation",
        authors=(
            "Akio Kodaira",
            "Chenfeng Xu",
            "Toshiki Hazama",
            "Takanori Yoshimoto",
            "Kohei Ohno",
            "Shogo Mitsuhori",
            "Soichi Sugano",
            "Hanying Cho",
            "Zhijian Liu",
            "Kurt Keutzer",
        ),
        year=2023,
        arxiv="2312.12491",
        home="accelerate",
        call="rg.accelerate.stream(rg.accelerate.changed(frames), denoiser, plan)",
        test="tests/accelerate/test_stream.py::test_frames_on_their_way_together_are_those_sampled_one_by_one",
    )
)


@final
class _Flight:
    """One frame on its way: its loop, which stands where the network has to be asked."""

    def __init__(self, plan: Plan, denoiser: AbstractDenoiser, x: Tensor, item: int, seed: int, condition: Any) -> None:
        self.plan, self.x, self.place, self.answer = plan, x, 0, []
        self.condition = prepare_condition(denoiser, condition, 1, x.device)
        self.loop: Generator[State, None, Plan] = steps(
            plan, Answered(denoiser, self._answer), seed=seed, x=x, items=[item], condition=condition
        )
        self._settle()

    @property
    def arrived(self) -> bool:
        return self.place == len(self.plan.rows)

    def advance(self, answer: Prediction) -> None:
        self.answer.append(answer)
        self._step()
        self._settle()

    def _answer(self, x_t: Tensor, t: float | Tensor, condition: Any) -> Prediction:
        return dataclasses.replace(self.answer.pop(), x_t=x_t, t=t)

    def _step(self) -> None:
        self.x = next(self.loop).x_t
        self.place += 1

    def _settle(self) -> None:
        while not self.arrived and self.plan.rows[self.place].time is None:
            self._step()


def stream(
    frames: Iterable[Tensor | None],
    denoiser: AbstractDenoiser,
    plan: Plan,
    *,
    seed: int = 0,
    condition: Any = None,
) -> Iterator[Tensor]:
    """Sample a stream of frames, with one network call for each frame that comes in; yields them in their order.

    Frame j enters as a(T) f_j + s(T) eps_j at the start T of the plan, with the noise of item j. Every call of the network
    holds all frames on their way, each at its own row, so that with n evaluations in the plan a frame is done n calls
    after it came, and one leaves for each that enters. Each frame goes through the loop by itself, with its own history
    and noise: the samples are those of `rg.sample(..., signal=f_j, items=[j])`, to the rounding of a batch. Nothing is
    asked ahead of need: a frame is taken from the source when there is room for it.

    Args:
        frames: clean data [*shape], one by one; None where nothing new has come (`arriving`) or the frame is like the last
            one (`changed`): the frames on their way go on without a new one. Zeros are frames of pure noise, where the
            plan starts there.
        plan: any recipe, multistep and stochastic ones too; it may start below pure noise (`plan.from_noise`).
        condition: of all frames, as in `rg.sample`; or a function from a frame to its own.

    Raises:
        PlanError: rows with knobs, or told another time than is usual: the frames of a call stand at different rows.
        BadType: a denoiser that remembers from one row to the next, which frames that share a call cannot; an anchored
            path.

    Reference: Kodaira et al., 2023, arXiv 2312.12491 (stream batch).
    """
    if plan.path.anchored:
        raise BadType(f"a stream on the anchored path {plan.path.name!r}", "a path without anchor", "sample frame by frame")
    asked, plan = on_path(denoiser, plan.path), plan.bind(denoiser)
    if knobs := sorted({knob for row in plan.rows for knob in row.knobs}):
        raise PlanError(
            f"a stream by a plan with the knobs {knobs}", "rows without knobs", "give the settings to the transform itself"
        )
    for k, row in enumerate(plan.rows):
        if row.time is not None and row.network_time != asked.network_time(row.time):
            raise PlanError(
                f"a stream by a plan whose row {k} tells the network {row.network_time:g} at time {row.time:g}",
                f"what it is told there: {asked.network_time(row.time):g}, for frames at unlike rows share a call",
                "rows without a network_time of their own, or sample frame by frame",
            )
    return _streamed(frames, asked, plan, seed, condition)


def _streamed(
    frames: Iterable[Tensor | None], denoiser: AbstractDenoiser, plan: Plan, seed: int, condition: Any
) -> Iterator[Tensor]:
    flights: collections.deque[_Flight] = collections.deque()
    start: Any = plan.start
    a, s = float(plan.path.a(start)), float(plan.path.s(start))
    number = 0
    for frame in frames:
        if frame is not None:
            eps = Noise(seed, [number]).prior(frame.shape, torch.float32, frame.device)
            own = condition(frame) if callable(condition) else condition
            flights.append(_Flight(plan, denoiser, a * frame[None].float() + s * eps, number, seed, own))
            number += 1
        yield from _ticked(flights, denoiser)
    while flights:
        yield from _ticked(flights, denoiser)


def _ticked(flights: collections.deque[_Flight], denoiser: AbstractDenoiser) -> Iterator[Tensor]:
    """Ask the network once for all frames on their way, and hand out those that arrived."""
    waiting = [flight for flight in flights if not flight.arrived]
    if waiting:
        times = [flight.plan.rows[flight.place].time for flight in waiting]
        t = torch.tensor(times, dtype=torch.float64, device=waiting[0].x.device)
        condition = {name: torch.cat([flight.condition[name] for flight in waiting]) for name in waiting[0].condition}
        with torch.no_grad():
            together = denoiser.predict(torch.cat([flight.x for flight in waiting]), t, condition)
        if together.carried:
            raise BadType(
                f"a stream through {denoiser.name!r}, which remembers {sorted(together.carried)} from row to row",
                "a denoiser without memory: the frames of one call stand at different rows",
                "take the policy or momentum out",
            )
        for k, flight in enumerate(waiting):
            flight.advance(selected(together, slice(k, k + 1)))
    while flights and flights[0].arrived:
        yield flights.popleft().x[0]


def changed(frames: Iterable[Tensor | None], eta: float = 0.98, most: int = 10, seed: int = 0) -> Iterator[Tensor | None]:
    """Pass on the frames that differ from the last one passed on, and None for those that are much like it.

    With the cosine similarity S of both, a frame is left out with probability max(0, (S - eta) / (1 - eta)), and at most
    `most` in a row.

    Raises:
        BadValue: eta outside [-1, 1), or a negative number.

    Reference: Kodaira et al., 2023, arXiv 2312.12491 (stochastic similarity filter).
    """
    if not -1 <= eta < 1 or most < 0:
        raise BadValue(f"eta={eta}, most={most}", "eta in [-1, 1), most >= 0", "eta=0.98, most=10")
    return _changed(frames, eta, most, torch.Generator().manual_seed(seed))


def _changed(frames: Iterable[Tensor | None], eta: float, most: int, generator: torch.Generator) -> Iterator[Tensor | None]:
    reference: Tensor | None = None
    streak = 0
    for frame in frames:
        if frame is None:
            yield None
            continue
        alike = 0.0
        if reference is not None:
            similarity = float(torch.cosine_similarity(frame.flatten().double(), reference.flatten().double(), 0))
            alike = max(0.0, (similarity - eta) / (1 - eta))
        if float(torch.rand((), generator=generator)) < alike and streak < most:
            streak += 1
            yield None
        else:
            reference, streak = frame, 0
            yield frame


def arriving(source: queue.Queue[Any], end: Any = None, patience: float = 0.001) -> Iterator[Tensor | None]:
    """Take frames from a queue that another thread fills; None while it is empty, until `end` comes out of it.

    A producer faster than the model fills the queue (give it a `maxsize`, and it waits), a slower one leaves it empty, and
    what is on its way goes on meanwhile: no frame is lost, and their order is the queue's.

    Args:
        patience: seconds to wait for a frame before saying None.
    """
    while True:
        try:
            frame = source.get(timeout=patience)
        except queue.Empty:
            yield None
            continue
        if frame is end:
            return
        yield frame

"""The registry of published solvers, and `plan`, which compiles one into a table.

A recipe is a function (path, times, options) to rows. It asks the network once at every time of its grid, steps from each
to the next, and leaves the end ("return the data mean") to `end_row`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retrograde import grids, laws, paths, systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.denoisers.prediction import conversion, readings
from retrograde.errors import BadType, BadValue, PlanError, UnknownName, described
from retrograde.paths import Path
from retrograde.plan import Plan, Row


@dataclasses.dataclass(frozen=True)
class Level:
    """A point of a path: its time, its coefficients a and s, and half its log-SNR lam = log(a/s)."""

    t: float
    a: float
    s: float

    @property
    def lam(self) -> float:
        return math.log(self.a / self.s) if self.a > 0.0 else -math.inf

    @property
    def sigma(self) -> float:
        return self.s / self.a if self.a > 0.0 else math.inf


def level(path: Path, t: float) -> Level:
    """Return the level of a path at time t."""
    return Level(t, path.a(t), path.s(t))


def level_between(path: Path, start: Level, end: Level, ratio: float) -> Level:
    """Return the level a part `ratio` of the way from start to end in log-SNR."""
    return level(path, path.time_of_log_snr(2.0 * (start.lam + ratio * (end.lam - start.lam))))


def end_row(path: Path, t: float, basis: str) -> Row:
    """Return the last row: ask at t and return the data mean."""
    if "data" in (kinds := readings(basis)):
        return Row(t, None, (0.0,), tuple(float(kind == "data") for kind in kinds))
    c_x, c_output, _ = conversion(path, t, basis, "data")
    return Row(t, None, (c_x,), (c_output,))


Writer = Callable[..., list[Row]]
Layout = Callable[[int], tuple[int, ...]]
"""From the evaluations spent before the end row to those of each interval; their sum is the argument."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A published solver as a compiler of plans.

    Attributes:
        name: its name in the field.
        version: raised when its tables change, so that stored names stay true.
        write: (path, times, **options) to the rows between the times; with `stages`, also the evaluations per interval.
        basis: parameterization of its tables; None where the writer picks by path (it then sets it on the rows' plan).
        order: declared order of convergence (weak order where it is stochastic).
        evaluations: evaluations per step.
        stochastic: whether it draws noise.
        clock: the variable in which its grid must be smooth (or, with "uniform ", evenly spaced) for that order.
        summary: one line: what it is.
        layout: how evaluations are dealt to the intervals, where these do not all take the same number.
    """

    name: str
    write: Writer
    basis: Callable[[Path], str]
    order: int
    evaluations: int
    stochastic: bool
    clock: str
    summary: str
    version: int = 1
    approximate: bool = False
    layout: Layout | None = None

    @property
    def title(self) -> str:
        """Name with version, as stored in plans."""
        return f"{self.name}@{self.version}"

    @property
    def options(self) -> dict[str, Any]:
        """Options of the recipe with their defaults."""
        parameters = list(inspect.signature(self.write).parameters.values())[2:]
        return {p.name: p.default for p in parameters if p.name != "stages"}

    def points(self, nfe: int) -> tuple[int, tuple[int, ...]]:
        """Return the number of grid points, and the evaluations of each interval, that cost exactly `nfe`.

        The end costs one evaluation; what is left over after full steps becomes one cheaper step, the last.
        """
        if not isinstance(nfe, numbers.Integral) or nfe < 1:
            raise BadValue(f"nfe={nfe}", "a whole number, nfe >= 1", "nfe=10")
        if self.layout is not None:
            stages = self.layout(nfe - 1)
        else:
            full, rest = divmod(nfe - 1, self.evaluations)
            stages = (self.evaluations,) * full + ((rest,) if rest else ())
        return len(stages) + 1, stages

    def stages(self, intervals: int) -> tuple[int, ...]:
        """Return the evaluations of each of so many intervals, none of them cheapened to meet a budget."""
        if self.layout is None or intervals == 0:
            return (self.evaluations,) * intervals
        # the richest of the budgets that are dealt to so many intervals; no step takes more than four evaluations
        return [s for s in map(self.layout, range(intervals, 4 * intervals + 1)) if len(s) == intervals][-1]

    def compile(self, path: Path, times: Sequence[float], stages: Sequence[int] | None = None, **options: Any) -> Plan:
        """Return the plan of this recipe on explicit times.

        Args:
            stages: evaluations of each interval between the times, for recipes that take several per step.

        Raises:
            BadValue: unknown options, or times that do not fall.
        """
        if unknown := sorted(set(options) - set(self.options)):
            raise BadValue(
                f"recipe {self.name!r} with {unknown}", f"the options {sorted(self.options)}", f"remove {unknown}"
            )
        if not times or any(x <= y for x, y in zip(times, times[1:], strict=False)):
            raise BadValue(f"times {list(times)[:6]}", "falling path times, noisiest first", "sorted(times, reverse=True)")
        basis = self.basis(path)
        if basis == "noise" and path.a(times[0]) == 0.0:
            raise BadValue(
                f"a start at t={times[0]:g}, where path {path.name} holds no signal",
                f"times with a(t) > 0 for recipe {self.name!r}, which steps with noise predictions",
                f"start at t={path.time_of_sigma(grids.levels(path)[1]):.6g}",
            )
        if self.evaluations > 1 or self.layout is not None:
            options["stages"] = tuple(stages) if stages is not None else self.stages(len(times) - 1)
        rows = [*self.write(path, tuple(times), **options), end_row(path, times[-1], basis)]
        options.pop("stages", None)
        provenance = {"recipe": self.name, "options": options, "times": list(times)}
        fields: dict[str, Any] = {"basis": basis, "recipe": self.title, "start": times[0], "provenance": provenance}
        try:
            return Plan(path, tuple(rows), **fields)
        except PlanError as error:
            if not self.approximate or laws.POINT_MASS not in error.given:
                raise
        return Plan(path, tuple(rows), misses=(laws.POINT_MASS,), **fields)


_RECIPES: dict[str, Recipe] = {}


def data_basis(path: Path) -> str:
    """The basis of recipes that step with the data mean."""
    return "data"


def noise_basis(path: Path) -> str:
    """The basis of recipes that step with the noise mean."""
    return "noise"


def recipe(
    name: str,
    *,
    order: int,
    summary: str,
    basis: Callable[[Path], str] = data_basis,
    evaluations: int = 1,
    stochastic: bool = False,
    clock: str = "log_snr",
    approximate: bool = False,
    version: int = 1,
    layout: Layout | None = None,
    paper: dict[str, Any] | None = None,
) -> Callable[[Writer], Writer]:
    """Register a writer of rows as a recipe, and its paper as a published system.

    Args:
        layout: how evaluations are dealt to the intervals, where these do not all take the same number.
        paper: title, authors, year, arxiv and test of the system it implements, where it is the one to cite.
    """

    def register(write: Writer) -> Writer:
        _RECIPES[name] = Recipe(
            name, write, basis, order, evaluations, stochastic, clock, summary, version, approximate, layout
        )
        if paper is not None:
            systems.register(systems.System(home="solvers", call=f"rg.plan({name!r}, path, nfe=10)", **paper))
        return write

    return register


ELSEWHERE = {
    "euler_a": "euler_ancestral",
    "Euler a": "euler_ancestral",
    "Euler": "euler",
    "DDIM": "ddim",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M Karras": "dpmpp_2m",
    "DPM++ SDE": "dpmpp_sde",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "UniPC": "unipc_2",
    "unipc": "unipc_2",
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc_2",
}
"""What the best-known recipes are called elsewhere; `interop.schedulers` has all names, with their levels."""


def names() -> tuple[str, ...]:
    """Return the names of all recipes."""
    return tuple(sorted(_RECIPES))


def get(name: str) -> Recipe:
    """Return the recipe called `name`; an unknown name lists the nearest ones."""
    if not isinstance(name, str):
        raise BadType(f"{described(name)}, as the name of a recipe", "a name of rg.recipes.names()", "'dpmpp_2m'")
    if name not in _RECIPES:
        raise UnknownName("recipe", name, names(), "rg.recipes.names(), or of what `retrograde recipes` prints", ELSEWHERE)
    return _RECIPES[name]


def plan(
    name: str,
    path: Path | AbstractDenoiser,
    *,
    nfe: int | None = None,
    grid: str | Sequence[float] | None = None,
    start: float | None = None,
    **options: Any,
) -> Plan:
    """Compile a published solver into a plan of exactly `nfe` network evaluations.

    Args:
        name: a recipe of `recipes.names()`.
        path: the path, or a denoiser; a denoiser's grid is snapped to the times its network was trained at.
        nfe: network evaluations; left out, the explicit grid decides.
        grid: a grid of `grids.names()`, or explicit path times, used exactly as given. By default "karras", and "uniform"
            on paths whose noise end holds no signal.
        start: noise level s/a to start from, instead of the path's noise end.
        **options: options of the recipe (eta=...) and of the grid (rho=...).

    Raises:
        UnknownName: unknown recipe or grid.
        BadValue: an option neither has, or neither nfe nor explicit times.
        PlanError: the table breaks a law.
    """
    chosen = get(name)
    denoiser = path if isinstance(path, AbstractDenoiser) else None
    path = paths.checked(path.path if isinstance(path, AbstractDenoiser) else path, "a path or a denoiser")
    own = {k: options.pop(k) for k in list(options) if k in chosen.options}
    endless = path.a(path.t_max) == 0.0
    grid = ("uniform" if endless else "karras") if grid is None else grid
    if isinstance(grid, str):
        if nfe is None:
            raise BadValue(f"plan({name!r}) without nfe", "a number of network evaluations", "nfe=10")
        if start is not None:
            time = path.time_of_sigma(start) if start > 0.0 else 0.0
            _check_within(path, (time,), f"start={start:g}", f"start={min(10.0, path.sigma(path.t_max)):g}")
            options["sigma_max"] = start
        if unknown := sorted(set(options) - set(grids.options_of(grid))):
            allowed = f"{sorted(chosen.options)} of the recipe, {grids.options_of(grid)} of the grid"
            raise BadValue(f"recipe {name!r} on grid {grid!r} with {unknown}", allowed, f"remove {unknown}")
        count, stages = chosen.points(nfe)
        times = grids.make(path, count, grid, **options)
        if endless and times[0] == path.t_max and chosen.basis(path) == "noise":
            # a noise prediction says nothing of the data where the path holds no signal: start just below
            times = (path.time_of_sigma(grids.levels(path)[1]), *times[1:])
    else:
        if callable(grid):
            raise BadType(f"grid={described(grid)}", "the name of a grid, or path times", "grid='karras'")
        times = tuple(float(t) for t in grid)
        _check_within(path, times, f"times {list(times)[:6]}")
        if options:
            raise BadValue(f"options {sorted(options)} beside explicit times", f"{sorted(chosen.options)}", "remove them")
        count, stages = (len(times), None) if nfe is None else chosen.points(nfe)
        times = grids.make(path, count, times)
    if denoiser is not None:
        times = tuple(dict.fromkeys(denoiser.snap(t) for t in times))
        if len(times) != count:
            named = isinstance(grid, str)
            raise BadValue(
                f"nfe={nfe} on grid {grid!r}" * named
                + f"a grid of {count} times" * (not named)
                + f", which after snapping has {len(times)} different times",
                f"{count} times the network was trained at",
                "grid='uniform', or fewer evaluations" if named else "grid=dict.fromkeys(map(denoiser.snap, grid))",
            )
    return chosen.compile(path, times, stages, **own)


def _check_within(path: Path, times: Sequence[float], given: str, mend: str | None = None) -> None:
    """Refuse times at which the path is not: whole trained steps, levels in place of times, or a closing zero.

    Raises:
        BadValue: with the range, and the line that turns levels or steps into times.
    """
    last = path.t_max if path.t_end is None else path.t_end
    # at time 0 some paths, such as VE, still hold noise: there it is a level like others
    if all((t > 0.0 or (t == 0.0 and path.s(t) > 0.0)) and t <= last * (1.0 + 1e-6) for t in times):
        return
    most = path.sigma(path.t_max)
    levels = "any noise level" if math.isinf(most) else f"noise levels up to {most:.5g}"
    if mend is None and times[-1] == 0.0:
        mend = "leave the closing 0 out: the end is a row of its own"
    levels_or_steps = "retrograde.grids.from_sigmas(path, levels), or [(step + 1)/N for step in steps] of N trained steps"
    raise BadValue(
        f"{given} on path {path.name!r}", f"path times 0 < t <= {last:g}: {levels}", mend or f"grid={levels_or_steps}"
    )


def times_below_the_end(
    path: Path | AbstractDenoiser, nfe: int | None, grid: str | Sequence[float], **options: Any
) -> tuple[Path, tuple[float, ...]]:
    """Return the path and `nfe` falling times for a method that divides by log-SNR and asks once at each of them.

    A named grid starts just below a noise end without signal; a denoiser's times are snapped to those of its network.

    Raises:
        BadValue: a named grid without nfe, or times that do not fall.
    """
    on = path.path if isinstance(path, AbstractDenoiser) else path
    if isinstance(grid, str) and nfe is None:
        raise BadValue("a named grid without nfe", "a number of network evaluations", "nfe=10")
    times = grids.make(on, len(grid) if nfe is None else nfe, grid, **options)
    if isinstance(grid, str) and on.a(times[0]) == 0.0:
        times = (on.time_of_sigma(grids.levels(on)[1]), *times[1:])
    if isinstance(path, AbstractDenoiser):
        times = tuple(dict.fromkeys(path.snap(t) for t in times))
    if any(x <= y for x, y in zip(times, times[1:], strict=False)) or (nfe is not None and len(times) != nfe):
        given = f"a grid of {len(times)} different times"
        raise BadValue(given, f"{nfe} falling times the network was trained at", "fewer evaluations, or another grid")
    return on, times


def made(
    path: Path, rows: Sequence[Row], basis: str, recipe: str, provenance: Mapping[str, Any], start: float | None = None
) -> Plan:
    """Return the plan of rows, which says so where it misses the point-mass law."""
    try:
        return Plan(path, tuple(rows), basis, recipe, start, provenance=provenance)
    except PlanError as error:
        if laws.POINT_MASS not in error.given:
            raise
    return Plan(path, tuple(rows), basis, recipe, start, (laws.POINT_MASS,), provenance=provenance)

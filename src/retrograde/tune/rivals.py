"""The published solvers beside a fit: what it is measured against, and replaced by where one of them is better."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, final

from retrograde import recipes
from retrograde.plan import Plan
from retrograde.tune.contest import Entry, Reference, race
from retrograde.tune.effort import Effort
from retrograde.tune.journal import Journal
from retrograde.tune.teacher import Progress


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Rivals:
    """Published solvers raced for one call of `tune`.

    What is chosen is chosen on the validation items; the finalists there are measured on the held-out ones. With twice the
    budget nothing is chosen and the race is on held-out items: its winner is a little luckier than it should be.

    Attributes:
        validation: entries of the race with the plan's budget, by rising error.
        held_out: its finalists, on the held-out items.
        twice: entries of the race with twice the budget.
    """

    reference: Reference
    nfe: int
    validation: Sequence[Entry]
    held_out: Sequence[Entry]
    twice: Sequence[Entry]

    @classmethod
    def raced(
        cls, effort: Effort, nfe: int, validation: Reference, held_out: Reference, tell: Progress, journal: Journal
    ) -> Rivals:
        """Run the races."""
        kept: dict[str, Any] = {"names": effort.contest, "journal": journal}
        heats: dict[str, Any] = {"first_heat": effort.heat, "finalists": effort.finalists}

        def told(place: int) -> dict[str, Any]:
            return {"told": lambda part: tell("published solvers", (place + part) / 3)}

        first: dict[str, Any] = {"between": effort.between, "on_best": effort.grids, "name": "validation"}
        entries = race(validation, nfe, **kept, **heats, **told(0), **first)
        ranked = [(entry.recipe, entry.grid) for entry in entries]
        chosen: dict[str, Any] = {
            "only": ranked[: max(1, effort.finalists)],
            "first_heat": len(held_out.items),
            "name": "held out",
        }
        best = race(held_out, nfe, **kept, **told(1), **chosen)
        field: dict[str, Any] = {"between": effort.between}
        if effort.twice is not None:
            field, heats["finalists"] = {"only": ranked[: effort.twice], "between": ((8, 3),)}, 1
        twice = race(held_out, 2 * nfe, **kept, **heats, **told(2), **field, name="twice")
        return cls(validation, nfe, entries, best, twice)

    @property
    def evaluations(self) -> int:
        """Network evaluations that all races took, over all items."""
        return sum(entry.evaluations for entry in (*self.validation, *self.held_out, *self.twice))

    @property
    def chosen(self) -> Entry | None:
        """The best on the validation items; None where no recipe meets the budget."""
        return self.validation[0] if self.validation else None

    @property
    def returned(self) -> str:
        """What the report says where the chosen one is returned."""
        return f"recipe {self.validation[0].recipe} on grid {self.validation[0].grid}: better than the fit on validation"

    def plan(self) -> Plan:
        """Return the plan of the chosen one."""
        best = self.validation[0]
        return recipes.plan(best.recipe, self.reference.denoiser, nfe=self.nfe, grid=best.grid)

    @property
    def report(self) -> dict[str, Any]:
        """What the report of a fit says of them; "recipes" were measured on held-out items."""
        first = {"best_recipe": self.held_out[:1], "best_recipe_at_twice": self.twice[:1]}
        best = {key: dataclasses.asdict(entries[0]) if entries else None for key, entries in first.items()}
        measured = [dataclasses.asdict(entry) for entry in (*self.held_out, *self.twice)]
        return {**best, "recipes": measured, "recipes_on_validation": [dataclasses.asdict(e) for e in self.validation]}

"""Blocks predicted by least squares, block by block and row by row, in plans fitted around them: worth more than reuse?

A transformer's block that is left out adds to the features h that come to it (W h + V d + b) in place of its own work, d
what it added at the evaluation before, itself or predicted. W, V and b minimize the squared error to what the block would
add, over the tokens of the items that are fitted to, at the states of the student's own run: what `fit_reuse` does for rows,
inside them. Five sets of blocks are left out in each row but the first, alone, and then together in the order in which they
pay.

"factor": how many evaluations a fitted plan without any of this needs for the same error, over what the plan costs in full
evaluations (the maps' own multiply-accumulates included); between budgets the logarithm of the error is interpolated. The
case to report is the one with the largest factor in validation, with its factor on noise that was held out from that too.

    python benchmarks/reuse_blocks.py [--dit runs/dit8/dit8.pt] [--evaluations 4 6]

A minute for four evaluations, two more for six. Writes benchmarks/results/reuse_blocks.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from reuse import ROOT, labels, transformer8
from torch import Tensor

import retrograde as rg
from retrograde.plan_file import write_atomically
from retrograde.sites import Block, Call, Policy, Tap, Visit, cost, counted, find, within
from retrograde.tune.fit import Fitter
from retrograde.tune.levels import Levels, Surrogate, descend, starts
from retrograde.tune.teacher import teach

RESULTS = Path(__file__).parent / "results" / "reuse_blocks.json"
FIT, VALIDATION, HELD = 256, 64, 128
ITEMS, RIDGE = FIT + VALIDATION + HELD, 1e-5
LEFT_OUT = {"all": range(6), "first three": range(3), "last three": range(3, 6), "middle four": range(1, 5), "two": (2, 3)}


@dataclasses.dataclass
class Row:
    """What a row leaves out, and the maps of these blocks, learned when it is first asked."""

    blocks: tuple[int, ...]
    maps: dict[int, Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Predicted(Policy):
    """Blocks are predicted in the rows that say which."""

    chain: tuple[Block, ...]
    title: ClassVar[str] = "predicted"

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        return {block.name: self._tap(visit, k) for k, block in enumerate(self.chain)}

    def _tap(self, visit: Visit, k: int) -> Tap:
        row, key = visit.asked or Row(()), f"block {k}"

        def tap(call: Call) -> Any:
            h, before = self.chain[k].bypass(call), visit.newest(key)
            if k not in row.blocks or before is None:
                made = call.compute()
                visit.keep(key, made - h)
                return made
            seen = torch.cat([h, before, torch.ones_like(h[..., :1])], -1)
            if k not in row.maps:
                row.maps[k] = _least_squares(seen[:FIT].flatten(0, 1), (call.compute() - h)[:FIT].flatten(0, 1))
            visit.keep(key, seen @ row.maps[k])
            visit.skip(call.site)
            return h + visit.kept(key)

        return tap


def _least_squares(x: Tensor, y: Tensor) -> Tensor:
    gram = x.double().T @ x.double()
    pull = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + pull, x.double().T @ y.double()).float()


class Fits:
    """Fits of one transformer, with blocks left out or not."""

    def __init__(self, weights: Path) -> None:
        den = transformer8(weights)
        places, told = find(den.network), rg.denoisers.prepare_condition(den, labels(ITEMS), ITEMS)
        self.teacher = teach(den, ITEMS, 0, levels=24, first_item=1 << 40, condition=told)
        policy = within(den, Predicted(places.chain), places)
        self.fitter = Fitter(policy, self.teacher, told, element=0.3, taught=FIT, batch_size=ITEMS)
        few = {name: value[:64] for name, value in told.items()}
        self.small = Fitter(den, self.teacher.part(slice(0, 64)), few)
        plan = rg.plan("ddim", den.path, nfe=1)
        one, (block, other) = cost(den, plan, 1, repeats=0, condition=1).macs, places.chain[:2]
        with counted(places.network, [other.name]) as book:
            rg.sample(den, plan, condition=1)
        weight: Any = places.network.get_submodule(block.name).norm1.linear  # type: ignore[union-attr]
        width = weight.in_features
        self.block, self.map = book.per_item[other.name] / one, 16 * width * (2 * width) / one

    def levels(self, nfe: int) -> Levels:
        """Return the levels of a plan that leaves nothing out."""
        surrogate, size = Surrogate.of(self.small), len(self.teacher.times)
        begun = starts(self.small.teacher, nfe, 6, 0)
        return min((descend(surrogate, one, size) for one in begun), key=lambda pair: pair[1])[0]

    def run(self, levels: Levels, rows: Mapping[int, Sequence[int]]) -> dict[str, float]:
        """Return errors in validation and on held-out noise, and the cost in full evaluations."""
        knobs = [{"reuse": Row(tuple(rows[k]))} if k in rows else {} for k in range(len(levels))]
        arrived = dataclasses.replace(self.fitter, knobs=knobs).run(levels)[1]
        errors = (arrived.x - self.teacher.end).square().mean(1, dtype=torch.float64)
        spared = sum(len(blocks) for blocks in rows.values()) * (self.block - self.map)
        parts = {"validation": errors[FIT : FIT + VALIDATION], "held out": errors[FIT + VALIDATION :]}
        return {name: float(part.mean().sqrt()) for name, part in parts.items()} | {"cost": len(levels) - spared}


def worth(error: float, plain: Mapping[int, float]) -> float:
    """Evaluations that a plain plan needs for an error; 0 where it is worse than all of them."""
    budgets = [n for n in plain if all(plain[n] < plain[m] for m in plain if m < n)]  # more that do not help are no budget
    for one, other in zip(budgets, budgets[1:], strict=False):
        if plain[other] <= error <= plain[one]:
            return one + (other - one) * math.log(plain[one] / error) / math.log(plain[one] / plain[other])
    return 0.0


def main() -> None:
    """Fit plain plans, then plans with blocks left out, and keep what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dit", type=Path, default=ROOT / "runs" / "dit8" / "dit8.pt")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[4], help="of the plans in which blocks are left out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    fits = Fits(given.dit)
    levels = {nfe: fits.levels(nfe) for nfe in range(1, max(given.evaluations) + 3)}
    plain = {nfe: fits.run(levels[nfe], {}) for nfe in levels}
    print(json.dumps(plain), flush=True)
    cases: list[dict[str, Any]] = []

    def tried(nfe: int, rows: dict[int, str]) -> dict[str, Any]:
        made: dict[str, Any] = fits.run(levels[nfe], {k: LEFT_OUT[name] for k, name in rows.items()})
        made |= {"evaluations": nfe, "left out": {str(k + 1): name for k, name in rows.items()}}
        for name in ("validation", "held out"):
            known = {n: one[name] for n, one in plain.items()}
            made[f"factor, {name}"] = worth(made[name], known) / made["cost"]
        cases.append(made)
        return made

    for nfe in given.evaluations:
        alone = {(k, name): tried(nfe, {k: name}) for k in range(1, nfe) for name in LEFT_OUT}
        chosen: dict[int, str] = {}
        for k, name in sorted(alone, key=lambda pair: -alone[pair]["factor, validation"])[:12]:
            if k not in chosen and tried(nfe, {**chosen, k: name})["factor, validation"] > 0.95:
                chosen[k] = name
    best = max(cases, key=lambda case: case["factor, validation"])
    print(json.dumps(best), flush=True)
    found = {"plain": plain, "block": fits.block, "map": fits.map, "best": best, "cases": cases}
    write_atomically(RESULTS, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

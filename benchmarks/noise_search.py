"""What a budget of evaluations finds: digits of a class from a model that was not told the class, by every search.

Search i looks for a digit of class i mod 10 with the unconditional model and a verifier, log p(class | x) of a classifier.
A second classifier, which no search sees, says whether the class was met ("success"), and its features give the Fréchet
distance of all that was found to the test set, and recall: what a verifier is fooled by shows there. "variety" is the mean
distance of two images found for one class, as a share of that of two real ones. All searches have ten
evaluations for a run and the same seeds; "evaluations" is what the ledger says one search took, a gradient counted as one.

    python benchmarks/noise_search.py [SEARCHES] [MODEL] [NAMES]

writes benchmarks/results/noise_search.json and docs/images/noise_search.png; of the model "digits", whose network takes
twelve times as long, benchmarks/results/noise_search_digits.json alone. NAMES, between commas, are the searches to run; of
the small model the others are kept as they are stored. With the one word "draw" it draws what is stored.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from strong_guidance import classifier
from torch import Tensor, nn

import retrograde as rg
from retrograde.quality import frechet_distance, precision_recall
from retrograde.state import Ledger
from retrograde.train.classify import accuracy

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "noise_search.json"
PICTURE = ROOT / "docs" / "images" / "noise_search.png"
BUDGETS = (20, 40, 80)
ROW = 10
"""Evaluations of a plain run."""


def judges(model: str) -> tuple[nn.Module, nn.Module, Callable[[Tensor], Tensor], Tensor]:
    """Return the verifier's network, the judge's, the judge's features, and real images of the test set."""
    torch.manual_seed(0)
    if model == "digits":
        images, labels = rg.data.digits("train")
        judge = classifier(images, labels, steps=1000)
        return rg.zoo.classifier(), judge, judge[:-1], rg.data.digits("test")[0]
    images, labels = rg.data.digits8("train")
    half = len(images) // 2
    first = classifier(images[:half].float(), labels[:half])
    second = classifier(images[half:].float(), labels[half:])
    return first, second, second[:-1], rg.data.digits8("test")[0].reshape(-1, 1, 8, 8).float()


def steered(den: Any, plan: Any, verifier: Any, n: int, draws: int) -> Any:
    """Particles of a potential, the log-probability itself; the best of each group, as a search's `Found`."""
    searches = torch.arange(n).repeat_interleave(draws)
    verifier = torch.no_grad()(verifier)
    potential = rg.particles.Potential(lambda x, t: verifier(x, searches))
    *_, last = rg.steps(plan, den, n=n * draws, particles=rg.particles.Weighted(draws, potential, last=False))
    verdicts = verifier(last.x_t, searches).double().view(n, draws, 1)
    best = rg.search.best(verdicts)
    ledger = last.ledger
    ledger.evaluations = {name: draws * count for name, count in ledger.evaluations.items()}
    ledger.verdicts = draws * (ledger.verdicts + 1)
    chosen = last.x_t.view(n, draws, *last.x_t.shape[1:])[torch.arange(n), best]
    return rg.search.Found(chosen, verdicts[torch.arange(n), best], None, (), ledger)


def learned(den: Any, plan: Any, verifier: Any, n: int, budget: int) -> Any:
    """A policy of starts for each class (FIND), learned with what its searches have left beside a run each."""
    parts, ledger = [], Ledger()
    for k in range(min(10, n)):
        own = torch.arange(k, n, 10)
        rounds = max(2, budget // 16)
        batch = len(own) * (budget // ROW - 1) // rounds
        policy = rg.search.learn(
            den, plan, lambda x, i, k=k: verifier(x, torch.full((len(x),), k)), rounds=rounds, batch=batch, seed=k
        )
        made = rg.sample(den, plan, x=policy.starts(len(own), seed=1000 + k))
        parts.append((own, made))
        ledger.count({"policy": (policy.ledger.nfe + ROW * len(own)) / n}, 0.0)
        ledger.verdicts += policy.ledger.verdicts / n
    order = torch.cat([own for own, _ in parts]).argsort()
    samples = torch.cat([made for _, made in parts])[order]
    return rg.search.Found(samples, verifier(samples, torch.arange(n))[:, None].double(), None, (), ledger)


def searches(den: Any, verifier: Any, n: int) -> dict[str, Callable[[int], Any]]:
    """Return every search as a function of its budget."""
    search, path = rg.search, den.path
    ddim = rg.plan("ddim", path, nfe=ROW)
    noisy = rg.plan("interpolant_sde", path, nfe=ROW, diffusion=1.0, schedule="reverse")
    grid = {"nfe": ROW, "grid": "uniform"}
    squared = [rg.plan("interpolant_sde", p, diffusion=3.0, schedule="squared", **grid) for p in (path, rg.paths.VP())]

    def paths(budget: int) -> Any:
        # 2 rows for each path, then 4 rounds of 4 rows for each branch
        paths = 2 if budget >= 68 else 1
        branches = (budget - 2 * paths) // (16 * paths)
        return search.over_paths(den, ddim, verifier, n, paths=paths, branches=branches, up=2, down=4)

    def local(budget: int) -> Any:
        return search.zero_order(den, ddim, verifier, n, neighbours=1, rounds=budget // ROW - 1, distance=0.6)

    def climb(budget: int) -> Any:
        rounds = (budget // ROW - 1) // 2
        if rounds < 1:
            return None
        return search.ascend(den, ddim, verifier, n, rounds=rounds, rate=1.0, clip=1.0, gradient="unroll", batch_size=50)

    def force(plan: Any, roll: bool = True) -> Callable[[int], Any]:
        return lambda budget: search.rollover(den, plan, verifier, n, nfe=budget, starts=max(2, budget // 10), roll=roll)

    return {
        "best-of-N": lambda budget: search.random(den, ddim, verifier, n, draws=budget // ROW, batch_size=1000),
        "best-of-N, noisy plan": lambda budget: search.random(den, noisy, verifier, n, draws=budget // ROW, batch_size=1000),
        "zero-order": local,
        "over paths": paths,
        "rollover": force(noisy),
        "rollover, 3 t^2": force(squared[0]),
        "rollover, 3 t^2 on VP": force(squared[1]),
        "without rolling": force(noisy, roll=False),
        "steered particles": lambda budget: steered(den, noisy, verifier, n, budget // ROW),
        "ascent": climb,
        "learned starts": lambda budget: learned(den, ddim, torch.no_grad()(verifier), n, budget),
    }


def variety(images: Tensor, labels: Tensor) -> float:
    """Return the mean distance of two images of one class."""
    apart = torch.cdist(images.flatten(1).double(), images.flatten(1).double())
    pairs = (labels[:, None] == labels).triu(1)
    return float(apart[pairs].mean())


def main(n: int, model: str, names: str) -> None:
    """Search, judge, write and draw."""
    started = time.process_time()
    network, judge, features, real = judges(model)
    den = rg.load(model)
    targets = torch.arange(n) % 10
    tested = rg.data.digits("test") if model == "digits" else (real, rg.data.digits8("test")[1])
    print("accuracy of the judge", accuracy(judge, *tested), flush=True)

    def verifier(x: Tensor, numbers: Tensor) -> Tensor:
        return torch.log_softmax(network(x), 1)[torch.arange(len(x)), targets[numbers]]

    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if names and model == "digits8-flow" else {}
    found: dict[str, list[dict[str, float]]] = kept.get("found", {})
    for name, search in searches(den, verifier, n).items():
        if names and name not in names.split(","):
            continue
        found[name] = []
        for budget in BUDGETS:
            result = search(budget)
            if result is None:
                continue
            with torch.no_grad():
                said, seen, wanted = judge(result.samples).argmax(1), features(result.samples), features(real)
            row = {
                "evaluations": result.ledger.nfe,
                "verdicts": result.ledger.verdicts,
                "verifier": float(result.verdicts.mean()),
                "success": float((said == targets).double().mean()),
                "frechet": frechet_distance(seen, wanted).value,
                "recall": precision_recall(seen, wanted[:n])[1].value,
                "variety": variety(result.samples, targets) / variety(tested[0][:n], tested[1][:n]),
            }
            found[name].append({key: round(value, 4) for key, value in row.items()})
            print(name, found[name][-1], flush=True)
    written = (
        kept | {"found": found}
        if kept
        else {
            "command": f"python benchmarks/noise_search.py {n} {model}" + (f" {names!r}" if names else ""),
            "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}",
            "seconds": round(time.process_time() - started),
            "searches": n,
            "judge": round(accuracy(judge, *tested), 4),
            "found": found,
        }
    )
    file = RESULTS if model == "digits8-flow" else RESULTS.with_stem(f"{RESULTS.stem}_{model}")
    file.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    if file == RESULTS:
        draw(found)


def draw(found: dict[str, list[dict[str, float]]]) -> None:
    """Draw success and Fréchet distance against evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for i, (name, rows) in enumerate(found.items()):
        style = {"color": "black", "linewidth": 2.5} if name == "best-of-N" else {"color": f"C{i % 10}", "linewidth": 1.2}
        for axis, key in zip(axes, ("success", "frechet"), strict=True):
            axis.plot([r["evaluations"] for r in rows], [r[key] for r in rows], marker="o.sv^<>dxP*"[i], label=name, **style)
            axis.set(xscale="log", xlabel="evaluations for each search")
            axis.set_xticks([], minor=True)
            axis.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
    axes[0].set_ylabel("share of the asked class, by the second classifier")
    axes[1].set_ylabel("Fréchet distance of its features to the test set")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    if sys.argv[1:] == ["draw"]:
        draw(json.loads(RESULTS.read_text(encoding="utf-8"))["found"])
        sys.exit()
    given = [*sys.argv[1:], *("100", "digits8-flow", "")[len(sys.argv) - 1 :]]
    main(int(given[0]), given[1], given[2])

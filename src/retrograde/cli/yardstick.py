"""How a sampler is measured: its error to a fine reference from the same noise."""

from __future__ import annotations

import time

from safetensors.torch import load_file, save
from torch import Tensor

from retrograde import quality
from retrograde.cli.candidates import reference_plans
from retrograde.cli.question import Question
from retrograde.cli.store import Line, Store
from retrograde.plan import Plan
from retrograde.plan_file import write_atomically


def reference(question: Question, store: Store) -> tuple[Tensor, Line]:
    """Return the reference end points of the first n items, and what two reference solvers disagree by.

    The samples are kept beside the results; kept ones of another question are made again.
    """
    main, check = reference_plans(question)
    file = question.folder / f"reference-{question.fingerprint}.safetensors"
    known = store.get("reference", "all")
    if known is not None and file.is_file():
        return load_file(file)["samples"], known
    began = time.perf_counter()
    samples = question.sample(main, question.n)
    other = question.sample(check, question.n)
    apart = quality.paired_error(other, samples)
    write_atomically(file, save({"samples": samples.contiguous()}))
    scale = float(samples.double().std())
    facts = {
        "solvers": [main.recipe, check.recipe],
        "nfe": [main.nfe, check.nfe],
        "rms_apart": apart.rms.value,
        "median_apart": apart.median.value,
        "data_std": scale,
        "seconds": time.perf_counter() - began,
    }
    return samples, store.put("reference", "all", facts)


def error(question: Question, plan: Plan, truth: Tensor, pixels: Tensor | None = None) -> Line:
    """Return the error of a deterministic plan against the reference from the same noise: rms and median over items.

    Args:
        pixels: the decoded reference of a latent model, to which the decoded samples are compared too.
    """
    began = time.perf_counter()
    samples = question.sample(plan, question.n)
    seconds = time.perf_counter() - began
    found = quality.paired_error(samples, truth)
    seen = {}
    if pixels is not None:
        both = quality.paired_error(question.decoded(samples), pixels)
        seen = {"pixels": {"rms": both.rms.value, "median": both.median.value}}
    return {
        **seen,
        "rms": found.rms.value,
        "rms_interval": found.rms.interval,
        "median": found.median.value,
        "median_interval": found.median.interval,
        "n": question.n,
        "seconds": seconds,
    }

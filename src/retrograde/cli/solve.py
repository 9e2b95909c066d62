"""`retrograde solve`: what a measurement leaves possible, as samples with their mean and spread."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrograde.cli import asked, complete, console, measured, options, pictures
from retrograde.errors import BadValue

if TYPE_CHECKING:
    from torch import Tensor

    from retrograde.inverse import Solution
    from retrograde.operators import Measurement

LEVEL = 0.9
"""Level of the intervals that are compared with a known item."""

SHOWN = 8
"""Samples in the picture."""
OUTSIDE = 3.0
"""Values beyond are no picture's, however noisy."""


def solve(
    model: options.Model,
    operator: Annotated[
        str,
        typer.Option(
            "--operator",
            help="What was measured, such as blur:sigma=1.5, mask:share=0.3 or down:4.",
            metavar="NAME:SETTINGS",
            autocompletion=complete.operators,
        ),
    ],
    noise: Annotated[
        str,
        typer.Option("--noise", help="Standard deviation of its noise; or poisson:0.02, impulse:share=0.02,std=0.05."),
    ],
    measurement: Annotated[
        Path | None, typer.Option("--measurement", help="File of what was measured: .npy, .npz or .png.", metavar="FILE")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth", help="Instead: file of a known item, which is measured here, and compared with.", metavar="FILE"
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="Method of retrograde.inverse.", autocompletion=complete.methods)
    ] = "mmps",
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of the method, such as weight=0.5; repeatable.")
    ] = None,
    nfe: Annotated[int, typer.Option("--nfe", min=1, help="Network evaluations per sample.")] = 100,
    n: Annotated[int, typer.Option("-n", min=1, help="How many samples; two or more tell the spread.")] = 16,
    seed: options.Seed = 0,
    condition: options.Condition = None,
    guidance: options.Guidance = None,
    batch_size: options.BatchSize = 64,
    out: options.Out = Path("solved"),
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
) -> None:
    """Draw samples of what was measured, given the measurement and the model: their mean, their spread, a picture.

    retrograde solve digits --operator blur:sigma=1.5 --noise 0.05 --measurement y.npy -o solved
    """
    if (measurement is None) == (truth is None):
        given = "neither --measurement nor --truth" if measurement is None else "both --measurement and --truth"
        raise BadValue(given, "one of them", "--measurement y.npy")
    denoiser = asked.model(model, guidance, device=device, dtype=dtype)
    if denoiser.codec is not None:
        raise BadValue(f"{denoiser.name!r}, a model of latents", "a model of what is measured itself", "MODEL: digits")
    asked.check_labels(denoiser, condition)
    import retrograde as rg

    known = None if truth is None else measured.read(truth, denoiser.shape)
    posed = measured.posed(operator, noise, denoiser.shape, measurement, known, seed)
    settings = asked.settings(option or [])
    began = time.perf_counter()
    with console.progress("solving", 1.0) as advance:
        done = 0.0

        def progress(part: float) -> None:
            nonlocal done
            advance(part - done)
            done = part

        solution = rg.inverse.solve(
            denoiser,
            posed,
            method,
            n,
            nfe,
            seed,
            batch_size=batch_size,
            condition=measured.one(condition),
            device=device,
            progress=progress,
            **settings,
        )
    solution = dataclasses.replace(solution, samples=solution.samples.cpu())  # what it is measured by is there
    found = figures(solution, posed, known) | {"seconds": round(time.perf_counter() - began, 3)}
    made_by = {
        "command": console.command_line(),
        "model": model,
        "operator": operator,
        "noise": noise,
        "method": method,
        "settings": settings,
        "n": n,
        "nfe": nfe,
        "seed": seed,
        "condition": condition,
        "guidance": guidance,
        "device": device,
        "dtype": dtype,
    }
    files = write(out, solution, posed, known, made_by | found)
    if as_json:
        console.emit(made_by | found | {"files": [str(file) for file in files]})
    else:
        for line in (f"{', '.join(map(str, files))}: {n} samples by {method}", *lines(found)):
            console.say(line)


def figures(solution: Solution, posed: Measurement, truth: Tensor | None) -> dict[str, Any]:
    """Return what a run cost and found.

    "misfit" is the root mean square of y - A(x) over the samples, in standard deviations of Gaussian noise: near 1 where
    they explain the measurement. With a known item, "error" is the root mean square error of the mean, and "covered" the
    part of elements within the central interval of level `LEVEL`.
    """
    from retrograde.operators import GaussianNoise

    found: dict[str, Any] = {"evaluations": dict(solution.ledger.evaluations), "log_evidence": solution.log_evidence}
    residual = float(posed.residual(solution.samples).double().square().mean().sqrt())
    gaussian = isinstance(posed.noise, GaussianNoise) and posed.std > 0.0
    found["misfit"] = residual / posed.std if gaussian else None
    found["spread"] = float(solution.std.double().square().mean().sqrt()) if len(solution.samples) > 1 else None
    if truth is not None:
        low, high = solution.interval(LEVEL)
        found["error"] = float((solution.mean - truth).double().square().mean().sqrt())
        found["covered"] = float(((low <= truth) & (truth <= high)).double().mean())
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """Return the figures as a reader's lines."""
    spent = ", ".join(f"{count} {label}" for label, count in found["evaluations"].items())
    told = [f"  cost of a sample: {spent}; {found['seconds']:.1f} s in all"]
    if found["misfit"] is not None:
        told.append(
            f"  misfit: {found['misfit']:.2f} standard deviations of the noise, 1 where samples explain what was seen"
        )
    if found["spread"] is not None:
        told.append(f"  spread: {found['spread']:.3f}, root mean square over the elements")
    if found["log_evidence"] is not None:
        told.append(f"  log evidence: {found['log_evidence']:.2f} nats")
    if "error" in found:
        told.append(
            f"  error of the mean: {found['error']:.3f}; the {LEVEL:.0%} interval holds {found['covered']:.0%} of the truth"
        )
    return told


def write(out: Path, solution: Solution, posed: Measurement, truth: Tensor | None, made_by: dict[str, Any]) -> list[Path]:
    """Write samples, mean, standard deviation and the picture of a solution into a folder; return the files."""
    import numpy as np

    from retrograde.plan_file import write_atomically

    kept = {"samples": solution.samples, "mean": solution.mean, "measurement": posed.y}
    kept |= {} if len(solution.samples) < 2 else {"std": solution.std}
    kept |= {} if truth is None else {"truth": truth}
    record = json.dumps(console.plain(made_by))
    stream = io.BytesIO()
    arrays: dict[str, Any] = {key: value.cpu().numpy() for key, value in kept.items()}
    np.savez_compressed(stream, retrograde=np.array(record), **arrays)
    files = [out / "solution.npz"]
    write_atomically(files[0], stream.getvalue())
    if pictures.is_picture(tuple(solution.mean.shape)):
        files.append(out / "solution.png")
        write_atomically(files[1], pictures.png(pictures.labelled(strips(kept)), record))
    return files


def in_range(label: str, x: Tensor) -> tuple[str, Tensor]:
    """Return a strip as it is where it is a picture, else from its least value in black to its greatest in white.

    Projections and spectra have a range of their own.
    """
    if float((x.abs() > OUTSIDE).double().mean()) < 0.01:
        return label, x
    low, high = float(x.min()), float(x.max())
    return f"{label} (black: {low:.2f}, white: {high:.2f})", 2.0 * (x - low) / max(high - low, 1e-12) - 1.0


def strips(kept: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Return what the picture shows: a measurement that is one, the truth where it is known, mean, spread, samples."""
    shown = []
    for key, label in (("measurement", "measurement"), ("truth", "truth"), ("mean", "mean")):
        if key in kept and pictures.is_picture(tuple(kept[key].shape)):
            shown.append(in_range(label, kept[key][None]) if key == "measurement" else (label, kept[key][None]))
    if "std" in kept:
        most = float(kept["std"].max())
        scaled = kept["std"] / most if most > 0.0 and math.isfinite(most) else kept["std"]
        shown.append((f"standard deviation (white: {most:.2f})", 2.0 * scaled[None] - 1.0))
    return [*shown, ("samples", kept["samples"][:SHOWN])]

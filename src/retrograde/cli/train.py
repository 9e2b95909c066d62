"""`retrograde train`: train a small denoiser on images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from retrograde.cli import asked, console, options
from retrograde.errors import BadValue


def train(
    out: options.Out,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="train.json of an earlier training to start from; options overrule it."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="digits, digits8, or package.module:function (split to images, labels)."),
    ] = None,
    path: Annotated[str | None, typer.Option("--path", help="The forward path: edm, vp, flow, ...")] = None,
    predicts: Annotated[
        str | None, typer.Option("--predicts", help="What the network predicts: edm, data, noise, v, score, velocity.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps in all.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Items a step.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Stop after so many seconds.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of everything random.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")] = False,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other field of retrograde.train.TrainConfig, such as label_dropout=0.2."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Train a small denoiser on images; the model lands in DIR/model.

    retrograde train --data digits8 --steps 2000 -o run, then: retrograde sample run/model -o first.png
    """
    import json

    typed = {
        "data": data,
        "path": path,
        "predicts": predicts,
        "steps": steps,
        "batch": batch,
        "lr": lr,
        "seconds": seconds,
        "seed": seed,
    }
    fields: dict[str, Any] = {}
    if config is not None:
        try:
            fields = dict(json.loads(config.read_text(encoding="utf-8")))
        except (ValueError, FileNotFoundError) as error:
            raise BadValue(f"--config {config}: {error}", "the train.json of a training", "leave --config out") from None
    elif resume and (out / "train.json").is_file():
        fields = json.loads((out / "train.json").read_text(encoding="utf-8"))
    if (out / "checkpoint.pt").is_file() and not resume:
        raise BadValue(f"-o {out}, which holds a training", "an empty folder, or a training to go on with", "--resume")
    fields |= {name: value for name, value in typed.items() if value is not None}
    fields |= asked.settings(option or [])
    fields |= {"out": str(out), "resume": resume, "command": console.command_line(), "progress": not as_json}
    trained = _run(fields)
    result = {"folder": str(out / "model"), "steps": trained.step, "seconds": trained.seconds, "loss": trained.loss}
    if as_json:
        console.emit(result)
    else:
        console.say(f"{out / 'model'}: {trained.step:,} steps in {trained.seconds:.0f} s, loss {trained.loss:.4f}")
        console.say(f"look at it: retrograde sample {out / 'model'} -o samples.png")


def _run(fields: dict[str, Any]) -> Any:
    import pydantic

    from retrograde.train import TrainConfig, run

    try:
        config = TrainConfig(**fields)
    except pydantic.ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadValue(wrong, ", ".join(TrainConfig.model_fields), "correct the option or --set") from None
    return run(config)

"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retrograde.cli import complete

Model = Annotated[
    str,
    typer.Argument(
        help="An embedded model (see `retrograde models`), a model folder, a pipeline that diffusers saved, or "
        "package.module:function.",
        autocompletion=complete.models,
        metavar="MODEL",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed; the same seed gives the same items in any batch.")]
Condition = Annotated[
    str | None,
    typer.Option(
        "--condition",
        help="What to condition on: 3, or 0-9 or 1,5,7 (dealt to the items in turn), or name=3.",
        metavar="VALUE",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", help="Weight of classifier-free guidance; 1 is none.", metavar="WEIGHT"),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="Dynamic thresholding for data in [-1, 1]: the part of an item's elements kept below it, such as 0.995.",
        metavar="QUANTILE",
    ),
]
Guide = Annotated[
    list[str] | None,
    typer.Option(
        "--guide",
        help="Steer by a method (`retrograde guides`), such as apg:scale=7,momentum=-0.5, then interval:0.2,0.8; "
        "repeatable: each is put around those before.",
        autocompletion=complete.guides,
        metavar="NAME:SETTINGS",
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option("--prompt", help="What to make, for models that read text; several are dealt to the items in turn."),
]
Prompts = Annotated[
    Path | None, typer.Option("--prompts", help="Text file with a prompt a line, after those of --prompt.", metavar="FILE")
]
NegativePrompt = Annotated[
    str | None, typer.Option("--negative-prompt", help="What --guidance leads away from; no text by default.")
]
Height = Annotated[
    int | None, typer.Option("--height", min=1, help="Height in pixels, of what a pipeline makes.", show_default=False)
]
Width = Annotated[int | None, typer.Option("--width", min=1, help="Width in pixels.", show_default=False)]
Frames = Annotated[int | None, typer.Option("--frames", min=1, help="Frames of a video.", show_default=False)]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Items computed at once; the result is the same.")]
Convert = Annotated[
    bool, typer.Option("--convert", help="Run a plan made for another path, at equal signal-to-noise ratio.")
]
Device = Annotated[
    str, typer.Option("--device", help="Where the network computes: cpu, cuda, cuda:1, mps.", metavar="DEVICE")
]


class Type(StrEnum):
    """Types that a network may compute in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Dtype = Annotated[
    Type | None,
    typer.Option("--dtype", help="Type the network computes in, float32 by default; the state stays in float32."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Out = Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to write to.")]

"""`retrograde tune`: fit a plan to one model and one budget."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrograde.cli import asked, console, options, told
from retrograde.cli.show import show_report

if TYPE_CHECKING:
    from retrograde.denoisers import AbstractDenoiser
    from retrograde.plan import Plan


class Effort(StrEnum):
    """How long the search may take."""

    seconds = "seconds"
    minutes = "minutes"
    hours = "hours"


def tune(
    model: options.Model,
    nfe: Annotated[int, typer.Option("--nfe", min=1, help="Network evaluations of the plan, exactly.")] = 4,
    out: Annotated[Path, typer.Option("-o", "--out", help="Plan file to write.", metavar="FILE")] = Path("plan.json"),
    effort: Annotated[Effort, typer.Option("--effort", help="How long to search.")] = Effort.seconds,
    prompt: options.Prompt = None,
    prompts: options.Prompts = None,
    negative_prompt: options.NegativePrompt = None,
    condition: options.Condition = None,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    frames: options.Frames = None,
    scheduler: Annotated[
        bool | None,
        typer.Option(
            "--scheduler/--no-scheduler",
            help="Fit what a pipeline's scheduler can run: a plan that begins with an evaluation, a little less exact. "
            "The default for pipelines.",
            show_default=False,
        ),
    ] = None,
    seed: options.Seed = 0,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Also compare the plan with published solvers and write a page there.", metavar="DIR"),
    ] = None,
    trajectories: Annotated[
        Path | None,
        typer.Option("--trajectories", help="Keep the reference trajectories there, for other budgets.", metavar="DIR"),
    ] = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
) -> None:
    """Fit a plan to one model and one budget, and say how it does on noise the search never saw.

    A model that reads text wants a few dozen different prompts, in a file, a line each.

    retrograde tune digits --nfe 4 -o four.json, then: retrograde sample digits --plan four.json

    retrograde tune my-pipeline/ --nfe 6 --prompts prompts.txt --guidance 7.5 -o six.json
    """
    from retrograde.plan_file import check_writable

    written = told.texts(prompt, prompts)
    size: dict[str, Any] = {"height": height, "width": width, "frames": frames}
    denoiser = asked.model(model, guidance, negative_prompt, device=device, dtype=dtype, **size)
    conditions = told.Told(denoiser, condition, written)
    check_writable(out)
    journal = out.with_name(f"{out.name}.fit")
    given = {"in_scheduler": scheduler, "device": device, "journal": journal, "trajectories": trajectories}
    with console.left_alone(out, f"the same command goes on from what is done, in {journal}"):
        plan = fitted(denoiser, nfe, seed, effort.value, conditions, **given)
    plan.save(out)
    if as_json:
        console.emit({"file": str(out), "nfe": plan.nfe, "recipe": plan.recipe, "report": report_of(plan)})
    else:
        console.say(f"{out}: {plan.nfe} evaluations; {sentence(report_of(plan))}")
        show_report(report_of(plan), plan.nfe)
        if asked.of_pipeline(denoiser) and plan.rows[0].time is not None:
            console.say("in the pipeline, with " + steps_of(nfe, guidance, negative_prompt) + ":")
            console.say(DROP_IN.format(file=out))
    if report is not None:
        from retrograde.cli.comparison import answer
        from retrograde.cli.question import Question
        from retrograde.tune.contest import USUAL_RECIPES

        console.note(f"comparing it with published solvers, into {report}")
        question = Question(
            model=model,
            denoiser=denoiser,
            nfes=tuple(sorted({nfe, nfe + 1, nfe + 2, 2 * nfe})),
            plans=((str(out), plan),),
            recipes=USUAL_RECIPES,
            folder=report,
            seed=seed + 1,
            condition=condition,
            prompts=written,
            negative=negative_prompt,
            guidance=guidance,
            device=device,
            dtype=dtype,
            command=console.command_line(),
        )
        answer(question)
        console.note(f"{report / 'report.html'}")


DROP_IN = """\
  from retrograde.interop.diffusers import PlanScheduler
  pipe.scheduler = PlanScheduler.instead_of(pipe.scheduler, retrograde.Plan.load("{file}"))"""
"""What puts a plan into a pipeline."""


def steps_of(nfe: int, guidance: float | None, negative: str | None) -> str:
    """Say what a pipeline is called with for what a plan was fitted to."""
    said = [f"num_inference_steps={nfe}"]
    said += [] if guidance is None else [f"guidance_scale={guidance:g}"]
    said += [] if negative is None else [f"negative_prompt={negative!r}"]
    return ", ".join(said)


def fitted(
    denoiser: AbstractDenoiser,
    nfe: int,
    seed: int,
    effort: Any,
    conditions: told.Told,
    *,
    compare: bool = True,
    in_scheduler: bool | None = None,
    device: str = "cpu",
    journal: Path | None = None,
    trajectories: Path | None = None,
) -> Plan:
    """Return the plan that the tuner fits, with its progress on stderr.

    Args:
        conditions: what the model is told, for so many items.
        effort: a name of `retrograde.tune.EFFORTS`, or an effort.
        compare: race the published solvers too.
        in_scheduler: fit what a pipeline's scheduler can run; None for: if it is a pipeline.
        device: where states are kept.
        journal: folder for finished parts, so that an interrupted fit can go on.
        trajectories: folder in which reference trajectories stay for other budgets.
    """
    import retrograde as rg

    def given(n: int, seed: int) -> Any:
        return conditions(n)

    with console.progress(f"fitting {nfe} evaluations", 1.0) as advance:
        done = 0.0

        def progress(stage: str, part: float) -> None:
            nonlocal done
            advance(part - done, f"fitting {nfe} evaluations: {stage}")
            done = part

        return rg.tune(
            denoiser,
            nfe=nfe,
            seed=seed,
            effort=effort,
            condition=given,
            compare=compare,
            in_scheduler=asked.of_pipeline(denoiser) if in_scheduler is None else in_scheduler,
            device=device,
            progress=progress,
            journal=journal,
            trajectories=trajectories,
        )


def report_of(plan: Plan) -> dict[str, Any]:
    """Return the tuner's held-out figures as a plain dictionary."""
    return dict(plan.report or {})


def sentence(report: dict[str, Any]) -> str:
    """Say in a line how a fitted plan does beside published solvers."""
    text = f"held-out error {report['error']:.4g}" if "error" in report else "no held-out error is known"
    if best := report.get("best_recipe"):
        text += f", best published solver {best['error']:.4g} ({best['recipe']} on {best['grid']})"
    if twice := report.get("best_recipe_at_twice"):
        text += f", at {twice['nfe']} evaluations {twice['error']:.4g} ({twice['recipe']} on {twice['grid']})"
    if pixels := report.get("pixels"):
        text += f"; decoded {pixels['error']:.4g}"
    if learned := report.get("corrections"):
        text += f"; its corrections cost as much as {learned['evaluations']:.2f} evaluations"
    return text

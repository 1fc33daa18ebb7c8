"""The command line. Heavy imports stay inside the commands, so that help comes at once."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from evosearch import runs_cli
from evosearch.bench.cli import app as bench
from evosearch.checks import is_refusal
from evosearch.executors import cli as workers_cli
from evosearch.progress import hush, printable
from evosearch.suites.cli import export, import_scores

if TYPE_CHECKING:
    from evosearch.result import Result

_DEFAULT = "shapes-diffusion"
_WEIGHTED = re.compile(r"(?P<name>.+)=(?P<weight>[^=()]*)")  # a combination has "=" within its brackets

# Exit codes, after sysexits.h where it has one.
_USAGE, _DATA, _UNAVAILABLE, _DISK, _INTERRUPTED = 2, 65, 69, 74, 130


class _Commands(TyperGroup):
    """Commands whose errors are one sentence on standard error, and an exit code that scripts can use."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("interrupted", _INTERRUPTED)
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            _fail(f"{error.strerror or error}{where}", _DISK)
        except (ValueError, TypeError) as error:
            if not is_refusal(error):
                raise
            from evosearch.rewards.judge_breaker import JudgeError
            from evosearch.session import InvalidReward

            codes = ((InvalidReward, _DATA), (JudgeError, _UNAVAILABLE))
            _fail(str(error), next((code for kind, code in codes if isinstance(error, kind)), _USAGE))


def _fail(sentence: str, code: int) -> NoReturn:
    typer.echo(f"evosearch: {printable(sentence)}", err=True)
    raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Better images and videos from pre-trained diffusion and flow models, by search at inference time.",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"evosearch {version('evosearch')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """What holds for all commands."""
    del version


@app.command(no_args_is_help=True)
def generate(
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="What to generate; each is searched by itself.")
    ] = None,
    *,
    prompts: Annotated[str | None, typer.Option(metavar="FILE", help="More: txt, csv, json, hub dataset.")] = None,
    model: Annotated[str, typer.Option(help="Bundled pipeline, folder or hub id.")] = _DEFAULT,
    reward: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=WEIGHT]", help="To maximise; several are summed."),
    ] = None,
    algorithm: Annotated[str, typer.Option(help="See: list searches.")] = "evosearch",
    budget: Annotated[str | None, typer.Option(help="NFE (2000), samples (20x, the default), time (60s).")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.  [default: the model's]")] = None,
    eta: Annotated[float | None, typer.Option(help="0 = ODE, 1 = SDE.  [default: the algorithm's]")] = None,
    seed: Annotated[int, typer.Option(help="Of all noise and choices.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Particles in one pass.")] = 16,
    out: Annotated[Path | None, typer.Option(help="New folder.  [default: runs/0001, 0002, ...]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out, if it is this.")] = False,
    knob: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="The algorithm's own: rate=.3, schedule=[0,5].")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="The pipeline's own: guidance_scale=5.")
    ] = None,
    held_out: Annotated[list[str] | None, typer.Option(help="Reward that judges at the end, never steers.")] = None,
    score_cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep scores there, for later runs, too.")
    ] = None,
    stop_at: Annotated[float | None, typer.Option(help="End as soon as this reward is reached.")] = None,
    warm_start: Annotated[Path | None, typer.Option(help="Begin with the best noises of this run.")] = None,
    dtype: Annotated[str | None, typer.Option(metavar="TYPE", help="Precision.  [default: the model's]")] = None,
    offload: Annotated[str | None, typer.Option(metavar="model|sequential", help="Save GPU memory.")] = None,
    quantize: Annotated[str | None, typer.Option(metavar="8bit|4bit", help="Smaller weights (bitsandbytes).")] = None,
    vae_tiling: Annotated[bool, typer.Option("--vae-tiling", help="Decode large pictures in tiles.")] = False,
    workers: workers_cli.Number = None,
    ray: workers_cli.Ray = None,
    deadline: workers_cli.Deadline = None,
    mixed: workers_cli.Mixed = False,
    insecure_ray: workers_cli.Insecure = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and start nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the paths of the best pictures alone.")] = False,
) -> None:
    """Search for the best picture or video of each PROMPT, into a run folder: report.html, media/ and more."""
    texts = _prompts(prompt or [], prompts)
    shared: dict[str, Any] = {
        "reward": _reward(reward, model),
        "algorithm": algorithm,
        "budget": budget,
        "steps": steps,
        "eta": eta,
        "seed": seed,
        "batch_size": batch_size,
        "pipeline_kwargs": _values(set_, "--set"),
        **_knobs(knob),
    }
    memory = {"dtype": dtype, "offload": offload, "quantize": quantize, "vae_tiling": vae_tiling}
    shared |= {"held_out": held_out or (), "stop_at": stop_at, "warm_start": warm_start}
    folder = out or _next_folder()
    if (again := len(texts) - len({*texts})) and not quiet:
        verb = "is" if again == 1 else "are"
        typer.echo(f"note: {again:,} of {len(texts):,} prompts came before and {verb} searched again", err=True)
    folders = [folder] if len(texts) == 1 else [folder / f"{k:04d}" for k in range(len(texts))]
    if dry_run:
        return _dry_run(model, texts, folders, memory, shared)

    import evosearch as es

    hush()
    new = [each for each in folders if not each.exists()]
    try:
        results = es.search(
            model,
            texts[0] if len(texts) == 1 else texts,
            run_dir=folder,
            score_cache=score_cache,
            progress=not quiet,
            load_kwargs=memory,
            resume=resume,
            workers=workers_cli.workers_of(workers, ray, deadline, mixed, insecure_ray),
            **shared,
        )
    except BaseException as error:
        if saved := [each for each in new if (each / "report.html").exists()]:
            typer.echo(f"what was found so far is in {', '.join(map(str, saved))}", err=True)
        if not isinstance(error, ValueError | TypeError) and any((each / "run.db").exists() for each in folders):
            typer.echo(f"go on where it stopped by: evosearch resume {folder}", err=True)
        raise
    for text, each, result in zip(texts, folders, [results] if len(texts) == 1 else results, strict=True):
        best = each / json.loads((each / "manifest.json").read_text())["kept"][0]["file"]
        typer.echo(best) if quiet else _show(text if len(texts) > 1 else "", result, best, each)


def _show(text: str, result: Result, best: Path, folder: Path) -> None:
    from evosearch.curve import number

    cost = result.cost
    if text:
        typer.echo(f"\n{printable(text)}")
    typer.echo(f"best reward   {number(result.best.reward)}, plain sample {number(result.plain.reward)}")
    for name, value in result.best.parts.items():
        typer.echo(f"of which      {printable(name)} {number(value)}")
    if result.front:
        typer.echo(f"front         {len(result.front):,} samples that no other beats in all of these")
    for name, value in result.best.held_out.items():
        typer.echo(f"held out      {printable(name)} {number(value)}")
    typer.echo(f"cost          {cost.nfe:,} NFE, {cost.seconds:.1f} s")
    if plan := result.settings.get("plan"):
        typer.echo(f"plan          {plan}")
    for told in (*result.alarms, *result.faults):
        typer.echo(f"warning       {printable(str(told))}", err=True)
    if result.invalid:
        typer.echo(f"invalid       {result.invalid:,} of {cost.scored:,} rewards")
    if cost.hits:
        typer.echo(f"score cache   {cost.hits:,} of {cost.scored:,} samples were scored before")
    typer.echo(f"best sample   {best}")
    typer.echo(f"report        {folder / 'report.html'}")


def _dry_run(model: str, texts: list[str], folders: list[Path], memory: dict[str, Any], shared: dict[str, Any]) -> None:
    import evosearch as es
    from evosearch.models import class_of
    from evosearch.refusals import check_class

    hush()
    check_class(class_of(model, **memory))
    pipe = es.load(model, **memory)
    each = [es.estimate(pipe, text, run_dir=folder, **shared) for text, folder in zip(texts, folders, strict=True)]
    typer.echo(f"prompts  {len(each):>10,}")
    typer.echo(f"NFE      {sum(e.nfe for e in each):>10,}")
    typer.echo(f"seconds  {sum(e.seconds for e in each):>10,.0f}")
    typer.echo(f"memory   {max(e.memory for e in each) / 2**20:>10,.0f} MiB beside the model")
    typer.echo(f"disk     {sum(e.disk for e in each) / 2**20:>10,.0f} MiB")


def _prompts(given: list[str], source: str | None) -> list[str]:
    from evosearch.prompts import read

    texts = [*given, *(read(source) if source is not None else [])]
    if not texts:
        raise ValueError("give at least one prompt, or a file of them by --prompts")
    return texts


def _reward(given: list[str] | None, model: str) -> Any:
    from evosearch.models import BUNDLED, check_name

    if not given:
        check_name(model)
        if model not in BUNDLED:
            raise ValueError(f"--reward must be named for {model}, for instance --reward jpeg; see: list rewards")
        return "shapes"
    weights: dict[str, Any] = {}
    for text in given:
        weighted = _WEIGHTED.fullmatch(text)
        if len(given) == 1 and not weighted:
            return text
        name, weight = (weighted["name"], _value(weighted["weight"])) if weighted else (text, 1)
        if not isinstance(weight, int | float):
            raise ValueError(f"--reward {name} must have a number as its weight, got {weight!r}")
        weights[name] = weight
    return weights


def _knobs(given: list[str] | None) -> dict[str, Any]:
    from evosearch import search

    values = _values(given, "--knob")
    for name in values:
        if name in inspect.signature(search).parameters:
            raise ValueError(
                f"--knob sets what is the algorithm's own; {name} is an option, --{name.replace('_', '-')}"
            )
    return values


def _values(given: list[str] | None, option: str) -> dict[str, Any]:
    """``name=value`` as a mapping; values as JSON or Python writes them, or else text."""
    values: dict[str, Any] = {}
    for pair in given or []:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"{option} must be name=value, got {pair!r}")
        values[name] = _value(value)
    return values


def _value(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


def _next_folder() -> Path:
    runs = Path("runs")
    taken = [int(folder.name) for folder in runs.glob("[0-9]*") if folder.name.isdecimal()]
    return runs / f"{max(taken, default=0) + 1:04d}"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder; a former demo in it is replaced.")] = Path("evosearch-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="One prompt a pipeline, smaller budgets.")] = False,
    budget: Annotated[int | None, typer.Option(help="NFE of one search.  [default: 800, quick 300]")] = None,
    seed: Annotated[int, typer.Option(help="All noise and all choices follow from it.")] = 0,
) -> None:
    """Hard prompts, pictures and videos, diffusion and flow: best-of-N against EvoSearch at equal NFE.

    Writes pages to look at: index.html, and the report of each search.
    """
    from rich.console import Console

    from evosearch import demo as the_demo

    hush()
    rows: list[the_demo.Row] = []
    try:
        chosen = the_demo.CASES[: the_demo.QUICK] if quick else the_demo.CASES
        default = the_demo.QUICK_NFE if quick else the_demo.NFE
        nfe = default if budget is None else budget
        for row in the_demo.run(out, budget=nfe, cases=chosen, seed=seed):
            rows.append(row)
    finally:
        if rows:
            Console().print(the_demo.table(rows))
            typer.echo(f"pictures and reports: {out / 'index.html'}")


app.add_typer(bench, name="bench")
app.command(no_args_is_help=True)(export)
app.command("import-scores", no_args_is_help=True)(import_scores)
runs_cli.add_to(app)


@app.command("list")
def list_(
    what: Annotated[Literal["searches", "rewards", "models"] | None, typer.Argument(help="All by default.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The searches as the page docs/searches.md.")] = False,
) -> None:
    """List the searches, the rewards or the models, with their files and what suits them."""
    if markdown:
        from evosearch.catalogue import page

        if what not in (None, "searches"):
            raise ValueError(f"--markdown writes the page of the searches, there is none of the {what}; leave it out")

        typer.echo(page(), nl=False)
        return
    kinds = {"searches": _searches, "rewards": _rewards, "models": _models}
    for kind in [what] if what else kinds:
        if what is None:
            typer.echo(f"{kind}:")
        for name, *lines in kinds[kind]():
            for k, line in enumerate(lines):
                typer.echo(f"{printable(name) if k == 0 else '':19} {printable(line)}")


def _searches() -> list[list[str]]:
    from evosearch.catalogue import entries

    package = Path(__file__).parent
    return [
        [
            entry.name,
            entry.purpose,
            "; ".join(filter(None, [", ".join(f"arXiv:{paper}" for paper in entry.papers), f"{entry.space} space"]))
            + (f"; needs {', '.join(entry.needs)}" if entry.needs else ""),
            f"NFE: {entry.nfe}",
            f"rewards: {entry.rewards}",
            str(package / entry.file),
        ]
        for entry in entries()
    ]


def _rewards() -> list[list[str]]:
    from evosearch.catalogue_rewards import lines

    return lines()


def _models() -> list[list[str]]:
    """Those in the box, each with its folder; then the families that `evosearch.load` knows how to call."""
    from evosearch import models

    folder = Path(models.__file__).parent
    bundled = [[name, _suited(models.defaults(name)), str(folder / name)] for name in models.BUNDLED]
    others = [family for family in models.FAMILIES if family.name not in models.BUNDLED]
    return [*bundled, *([family.name, _suited(family.suited)] for family in others)]


def _suited(call: dict[str, Any]) -> str:
    named = (f"{name} {value}" for name, value in call.items() if not isinstance(value, str))
    negative = " and a negative prompt" if str(call.get("negative_prompt", "")).strip() else ""
    return ", ".join(named) + negative

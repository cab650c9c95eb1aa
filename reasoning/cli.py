"""The command line: solve, run, table, ls, validate, check-prm.

An error is one line on stderr and exit code 1 (2 for wrong usage, 130 for Ctrl-C); --debug,
anywhere on the line, shows the traceback. Text that comes from models or files is never read as
markup, nor obeyed as control characters.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from reasoning.errors import ConfigError, ReasoningError, Stopped, first_error
from reasoning.terminal import printable

if TYPE_CHECKING:
    from reasoning.engines.base import Capabilities
    from reasoning.solver import Solver

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Spend more compute at inference time, and know what it bought.",
)
# Rich takes 80 columns where there is no terminal, which is too narrow for a table in a file.
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)

INTERRUPTED = 130  # the exit code of what Ctrl-C ended
# By a solution's status: why it may have no answer, and what to do.
NO_ANSWER = {
    "ok": "no chain ended with an answer; --show prints what was written",
    "budget": "no chain ended with an answer within the budget; raise --budget",
    "deadline": "no chain ended with an answer in time; raise --seconds",
    "interrupted": "with --run FOLDER what is paid for is kept, and the same command continues it",
}


def say(text: str, keep: str = "") -> None:
    """Print a text that may hold a model's or a file's words, all on one line but for `keep`."""
    console.print(printable(text, keep), markup=False, highlight=False, soft_wrap=True)


@app.command()
def solve(
    question: Annotated[str, typer.Argument(help="for example 'Use 3, 7, 25, 50 to make 79'")],
    strategy: Annotated[
        str | None,
        typer.Option(
            help="`reasoning ls strategy` lists them; default: weighted with the shipped "
            "verifier, majority with another model"
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="chains, for strategies that take n")] = None,
    model: Annotated[
        str | None, typer.Option(help="policy model, engine/model; default: the shipped one")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="of an openai/ model")] = None,
    tokens: Annotated[
        int | None, typer.Option("--budget", "--tokens", help="new tokens, all chains together")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="a deadline")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="cap for one chain; default: 640 with the shipped model")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="0 is greedy; default: 0.6 with the shipped model, 1 with another"),
    ] = None,
    seed: int = 0,
    run: Annotated[
        Path | None,
        typer.Option(help="a folder that keeps what is paid for; the same command continues it"),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="print the solution text")] = False,
) -> None:
    """Solve one problem and print the answer and what was spent."""
    from reasoning import Budget, Sampling, Solver
    from reasoning.evals.grading import grade
    from reasoning.solver import SHIPPED_STRATEGY, recognise, run_sync

    if base_url is not None and model is None:
        raise ConfigError("--base-url needs the model that is served there: --model openai/NAME")
    problem = recognise(question)
    models: Any = model
    if model is not None and base_url is not None:
        models = {"policy": {"model": model, "base_url": base_url}}
    spec: Any = strategy
    if n is not None:
        default = SHIPPED_STRATEGY if model is None else "majority"
        spec = {"name": strategy or default, "n": n}
    solver = Solver(
        models,
        strategy=spec,
        budget=Budget(tokens=tokens, seconds=seconds),
        sampling=None if temperature is None else Sampling(temperature=temperature),
        max_tokens=max_tokens,
        seed=seed,
        run=run,
    )
    with _watched(solver):
        solution = solver.solve(problem or question)
    if show:
        say(solution.text, keep="\n\t")
    say(f"answer  {solution.answer or 'none'}")
    if problem is not None and solution.answer is not None:
        # Looked at after the fact: no strategy sees it.
        console.print(f"check   {run_sync(grade(problem, solution.answer)).outcome.value}")
    console.print(f"status  {solution.status}")
    used = ", ".join(f"{value:g} {name}" for name, value in solution.usage.sparse().items())
    spent = f"spent   {used or 'nothing'} in {solution.seconds:.2f} s"
    console.print(spent, highlight=False, soft_wrap=True)
    if solution.status == "interrupted":
        again = NO_ANSWER["interrupted"] if run is None else "the same command continues it"
        raise Stopped("interrupted", again)
    if solution.answer is None:
        raise ReasoningError(solution.error or NO_ANSWER.get(solution.status, "no answer"))


def _watched(solver: Solver) -> Progress:
    """Tokens and time spent, on stderr for as long as it runs, where that is a terminal."""

    class Spent(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{solver.spent.tokens:,} tokens")

    errors = Console(stderr=True)
    bar = Progress(
        SpinnerColumn(),
        Spent(),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
    bar.add_task("")
    return bar


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="a YAML file")],
    out: Annotated[Path | None, typer.Option(help="run folder; default runs/<recipe name>")] = None,
) -> None:
    """Run a recipe; run it again to continue after an interruption."""
    from reasoning.evals import experiment
    from reasoning.recipe import Recipe

    loaded = Recipe.load(recipe)
    folder = out or Path("runs") / loaded.name
    elsewhere = [] if out is None else ["--out", str(out)]
    command = shlex.join(["reasoning", "run", str(recipe), *elsewhere])
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
    with bar:
        shown = bar.add_task(escape(loaded.name), total=None, note="loading")
        right = tokens = 0

        def progress(record: dict[str, Any], left: int) -> None:
            nonlocal right, tokens
            right += record["grade"] == "correct"
            tokens += record["usage"].get("tokens", 0)
            done = int(bar.tasks[0].completed) + 1
            bar.update(
                shown,
                completed=done,
                total=done + left,
                note=f"{right / done:.0%} right, {tokens:,} tokens",
            )

        summary = experiment.run_sync(loaded, folder, progress, command)
    console.print(str(summary), highlight=False)
    spent = summary.usage
    console.print(
        f"spent {spent.tokens:,} tokens ({spent.reused:,} reused), {spent.prefill:,} prefilled, "
        f"{spent.cached:,} cached, {spent.verifier_passes:,} verifier passes, "
        f"{summary.abandoned:,.0f} abandoned",
        highlight=False,
        soft_wrap=True,
    )
    for key in summary.asked_again[:20]:
        say(f"asked again: {'/'.join(map(str, key))}")
    if len(summary.asked_again) > 20:
        console.print(f"asked again: {len(summary.asked_again) - 20:,} more", highlight=False)
    if summary.interrupted:
        raise Stopped("interrupted", f"`{command}` continues it")


@app.command()
def table(
    folders: Annotated[list[Path], typer.Argument(help="run folders")],
    baseline: Annotated[str | None, typer.Option(help="label of the row compared with")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="write accuracy over a cost: .png, .svg")
    ] = None,
    over: Annotated[
        str, typer.Option(help="the plot's cost, as in --costs, such as verifier_passes")
    ] = "tokens",
    into: Annotated[Path | None, typer.Option(help="a Markdown file with table markers")] = None,
    name: Annotated[str, typer.Option(help="the markers' name, with --into")] = "results",
    costs: Annotated[
        str,
        typer.Option(help="columns: fields of Usage, seconds, committed, draft.tokens, ..."),
    ] = "tokens,verifier_passes,seconds",
    former: Annotated[
        bool, typer.Option("--former", help="also what the recipe no longer asks for")
    ] = False,
) -> None:
    """Tabulate runs; with --into, write the rows into a document between its markers."""
    from reasoning.evals import markdown, records
    from reasoning.evals import table as tables
    from reasoning.evals.plot import plot as draw

    columns = tuple(column.strip() for column in costs.split(",") if column.strip())
    runs = {folder: list(records.read([folder])) for folder in folders}
    every = sum(map(len, runs.values()))
    if not former:
        runs = {folder: list(records.still_asked(folder, runs[folder])) for folder in folders}
    found = (record for run in runs.values() for record in run)
    made = tables.rows(found, baseline=baseline, costs=tuple(dict.fromkeys((*columns, over))))
    console.print(tables.rich_table(made, costs=columns))
    others = every - sum(map(len, runs.values()))
    if others:
        text = f"{others:,} records of what the recipe no longer asks for; --former shows them"
        console.print(text, highlight=False)
    if plot is not None:
        draw(made, plot, cost=over)
        console.print(f"plot written to {plot}", markup=False)
    if into is not None:
        commands = {run[0]["run"]: records.command(folder) for folder, run in runs.items() if run}
        settings = {"--baseline": baseline, "--costs": costs, "--into": into, "--name": name}
        given = [part for option in settings.items() if option[1] is not None for part in option]
        given += ["--former"] if former else []
        written = shlex.join(map(str, ["reasoning", "table", *folders, *given]))
        text = markdown.render(made, commands, costs=columns, written=written)
        changed = markdown.replace(into, name, text)
        console.print(f"{into} {'changed' if changed else 'is up to date'}", markup=False)


@app.command()
def validate(recipe: Annotated[Path, typer.Argument(help="a YAML file")]) -> None:
    """Check a recipe without loading a model, and list what it would run."""
    from reasoning.recipe import Recipe

    loaded = Recipe.load(recipe)
    for configuration in loaded.configurations():
        say(f"{configuration.label}  budget: {configuration.budget}")
    console.print("the recipe is right")


@app.command("ls")
def list_kind(
    kind: Annotated[str, typer.Argument(help="strategy, chain_policy, verifier, engine, ...")],
) -> None:
    """List what is registered of a kind: the first lines of documentation; what engines can do."""
    from reasoning.registry import KINDS

    if kind not in KINDS:
        raise ConfigError(f"unknown kind {kind!r}: known are {', '.join(KINDS)}")
    table = Table(box=None, show_header=False)
    for name in KINDS[kind]:
        try:
            entry = KINDS[kind].get(name)
            told = [(entry.__doc__ or "").strip().split("\n")[0]]
            told += [_abilities(entry)] if kind == "engine" else []
        except ImportError as missing:
            told = [f"needs a package that is not installed: {missing.name}"]
        table.add_row(*map(escape, (name, *told)))
    console.print(table)


def _abilities(engine: Any) -> str:
    """An engine's capabilities; where they are its model's, those of shipped models."""
    if hasattr(engine, "capabilities"):
        return _named(engine.capabilities)
    try:
        writes, rewards = (
            _named(engine(model).capabilities) for model in ("countdown-policy", "countdown-prm")
        )
    except ReasoningError:
        writes = rewards = ""
    if not writes:
        return "what its server can; known when that is met"
    return writes if writes == rewards else f"{writes}; with a reward head: {rewards}"


def _named(capabilities: Capabilities) -> str:
    return ", ".join(name for name, there in asdict(capabilities).items() if there)


@app.command("check-prm")
def check_prm(
    model: Annotated[str, typer.Argument(help="engine/model; a bare name is local/name")],
    format_: Annotated[
        str | None, typer.Option("--format", help="default: told from config and tokenizer")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="of an openai/ model")] = None,
) -> None:
    """Check that a reward model is read the way it was trained: markers, counts, range, traps."""
    from reasoning.registry import engines
    from reasoning.solver import engine, run_sync
    from reasoning.verifiers.check_prm import Check, check

    named = model.partition("/")[0] in engines
    spec: dict[str, Any] = {"model": model if named else f"local/{model}"}
    if base_url is not None:
        spec["base_url"] = base_url

    async def report() -> list[Check]:
        async with engine(spec) as started:
            return await check(started, format_)

    table = Table(box=None, show_header=False)
    checks = run_sync(report())
    for line in checks:
        table.add_row(line.state, *(Text(printable(text)) for text in (line.name, line.found)))
    console.print(table)
    failed = [line.name for line in checks if line.state == "failed"]
    if failed:
        raise ReasoningError(f"{model} failed: {', '.join(failed)}")


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="full traceback of errors")] = False,
) -> None:
    pass


def main() -> None:
    """Entry point."""
    end_with(lambda arguments: app(arguments or ["--help"], standalone_mode=False))


def end_with(command: Callable[[list[str]], Any]) -> NoReturn:
    """Run a command on what stands on the line, and exit. One line for an error; a bug's line says
    that it is one."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        code = command(arguments)
        if code == INTERRUPTED:  # all that typer leaves of a KeyboardInterrupt
            raise KeyboardInterrupt
        sys.exit(code)
    except (KeyboardInterrupt, typer.Abort, Stopped) as stopped:
        print(f"interrupted; {stopped if str(stopped) else 'run it again'}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as raised:
        if debug:
            raise
        error = first_error(raised)
        code, text = 1, str(error)
        if hasattr(error, "format_message"):  # wrong usage; typer does not export the class
            code, text = 2, f"{error.format_message()} (--help says more)"
        elif not isinstance(error, ReasoningError | OSError):
            text = f"a bug, {type(error).__name__}: {text}; --debug shows where"
        print(f"error: {printable(' '.join(text.split()))}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()

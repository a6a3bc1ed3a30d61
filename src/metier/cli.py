"""The command line: parsing and printing only; every verb is a function of `metier.project`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from metier.printing import emit, emit_dry_run

app = typer.Typer(
    name="metier",
    help="From raw domain rows to a tuned, tested language model, and the evidence whether it was worth it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Dir = Annotated[Path, typer.Option("-C", metavar="DIR", help="The project folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; repeatable.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print every setting, row counts and the estimate; train nothing.")
]
HERE = Path()
INTERRUPTED = 130


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Folder to make.")],
    source: Annotated[str, typer.Option("--from", metavar="EXAMPLE", help="Example to start from.")] = "support",
    as_json: AsJson = False,
) -> None:
    """Make a project from an example.

    Example: metier init support --from support
    """
    from metier.project import init_project

    made = init_project(Path(name), source)
    emit(
        {"project": str(made), "from": source},
        f"{made}: made from {source}. Next: metier run -C {made}",
        as_json=as_json,
    )


class CheckCommand(TyperCommand):
    """`metier check`, whose help ends in the checks a convention may name."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # Any: typer keeps the types of its click to itself
        """Write the names; they are looked up here alone, so that no other help waits for the import."""
        from metier.conventions import check_names

        super().format_epilog(ctx, formatter)
        with formatter.section("Checks for `check = ...` of a [[convention]]"):
            formatter.write_text(", ".join(check_names()))


@app.command(cls=CheckCommand)
def check(directory: Dir = HERE, settings: Set = None, as_json: AsJson = False) -> None:
    """Read the rows and say whether they are ready; exit 3 when they are not.

    Example: metier check -C support
    """
    from metier.project import Project

    found = Project.load(directory, settings or ()).check(_watcher())
    emit(found.as_json(), found.as_text(), as_json=as_json)
    found.require()


@app.command()
def run(
    directory: Dir = HERE,
    settings: Set = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 3 unless the verdict is WORTH_IT.")] = False,
) -> None:
    """Go the whole road to the verdict, the report and a release candidate; resume where it stopped.

    Example: metier run -C support
    """
    from metier.project import Project

    project = Project.load(directory, settings or ())
    if dry_run:
        emit_dry_run(project.plan(_watcher()), as_json=as_json)
        return
    report = project.run(_watcher())
    page = project.report_path
    emit(report.as_json(), f"{report.verdict.sentence}\nReport: {page}", as_json=as_json)
    if gate:
        project.gate(report)


@app.command()
def show(
    row: Annotated[str, typer.Argument(help="Row id (or its beginning), or the number of a train row.")] = "0",
    directory: Dir = HERE,
    settings: Set = None,
    as_json: AsJson = False,
    history: Annotated[
        bool, typer.Option("--history", help="Tell what happened to the row, without its text.")
    ] = False,
) -> None:
    """Show a row as the model sees it, trained tokens marked, or its whole history.

    Example: metier show 0 -C support
    """
    from metier.project import Project

    project = Project.load(directory, settings or ())
    if history:
        told = project.history(row)
        emit(told.as_json(), told.as_text(), as_json=as_json)
        return
    shown = project.show(row)
    emit(shown.as_json(), shown.as_text(colour=sys.stdout.isatty()), as_json=as_json)


@app.command()
def curate(
    directory: Dir = HERE,
    settings: Set = None,
    as_json: AsJson = False,
    restore: Annotated[
        list[str] | None,
        typer.Option(
            "--restore", metavar="ROW", help="Put a row that was set aside back: file:record, an id or its beginning."
        ),
    ] = None,
) -> None:
    """List the rows that cleaning set aside, with the reason, and put rows back.

    Example: metier curate -C support --restore 5f0c
    """
    from metier.project import Project

    found = Project.load(directory, settings or ()).curate(restore=restore or (), watcher=_watcher())
    emit(found.as_json(), found.as_text(), as_json=as_json)


@app.command()
def label(
    directory: Dir = HERE,
    settings: Set = None,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("--export", metavar="FILE", help="Write tasks for Label Studio.")] = None,
    votes: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Read an export of Label Studio.")
    ] = None,
    guideline: Annotated[str, typer.Option("--guideline", help="Version of the guideline the votes followed.")] = "",
) -> None:
    """Send rows out to be labelled, read the votes, and report on labels and annotators.

    Example: metier label -C support --import votes.json
    """
    from metier.core.errors import ConfigError
    from metier.project import Project

    if out is not None and votes is not None:
        raise ConfigError("--export and --import are both given; expected one. Import first, then export what is left.")
    if guideline and votes is None:
        raise ConfigError(
            f"--guideline {guideline!r} without --import; it is the version votes followed. Add --import."
        )
    project = Project.load(directory, settings or ())
    if out is not None:
        num, xml = project.export_tasks(out), out.with_suffix(".xml")
        interface = str(xml) if xml.exists() else None  # an older file of this name is refused
        text = f"{num} tasks written to {out}" + (f", their interface to {interface}" if interface else "")
        emit({"tasks": num, "file": str(out), "interface": interface}, text, as_json=as_json)
    if votes is not None:
        read = project.import_votes(votes, guideline_version=guideline)
        emit(read.as_json(), read.as_text(), as_json=as_json)
    if out is None and votes is None:
        told = project.annotators()
        emit(told.as_json(), told.as_text(), as_json=as_json)


@app.command()
def erase(
    subject: Annotated[str, typer.Argument(help="The person, as the subject column names it.")],
    directory: Dir = HERE,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; erase nothing.")] = False,
) -> None:
    """Erase a person: rows, copies, votes, caches, and the models that saw them named; ends in a signed certificate.

    Example: metier erase "Ana Silva" -C support --dry-run
    """
    from metier.project import Project

    done = Project.load(directory).erase(subject, dry_run=dry_run)
    emit(done.as_json(), done.as_text(), as_json=as_json)


@app.command()
def plan(
    directory: Dir = HERE,
    settings: Set = None,
    as_json: AsJson = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Do everything the tuning does once; exit 3 when it will not fit.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Print what common bases take on common devices; needs no project.")
    ] = False,
) -> None:
    """Predict minutes, memory and money of the run, and say what the budget makes it give up.

    Example: metier plan -C support --rehearse
    """
    from metier.core.errors import ConfigError
    from metier.project import Project, cost_table

    if table:
        if rehearse or settings:
            raise ConfigError("--table is of no project: --rehearse and --set have no effect with it; drop them.")
        rows, text = cost_table()
        emit({"rows": rows}, text, as_json=as_json)
        return
    planned = Project.load(directory, settings or ()).plan(_watcher(), rehearse=rehearse)
    emit(planned.as_json(), planned.as_text(), as_json=as_json)


@app.command()
def tune(
    directory: Dir = HERE,
    settings: Set = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    search: Annotated[
        int, typer.Option("--search", metavar="N", help="Try N learning rates on dev first, 2 to 8; the best is kept.")
    ] = 0,
) -> None:
    """Tune the adapter and show its dev curve; nothing is judged. Resumes where it stopped.

    Example: metier tune -C support --search 3
    """
    from metier.core.errors import ConfigError
    from metier.project import Project

    project = Project.load(directory, settings or ())
    if dry_run:
        if search:
            raise ConfigError(f"--search {search} has no effect with --dry-run, which tunes nothing; drop one of them.")
        emit_dry_run(project.plan(_watcher()), as_json=as_json)
        return
    tuned = project.tune(_watcher(), search=search)
    emit(tuned.as_json(), tuned.as_text(), as_json=as_json)


@app.command()
def assess(directory: Dir = HERE, settings: Set = None, as_json: AsJson = False) -> None:
    """Before spending: what the untuned arms reach on dev, what the hold-out could show, and a tuning on a quarter.

    Example: metier assess -C support
    """
    from metier.project import Project

    found = Project.load(directory, settings or ()).assess(_watcher())
    emit(found.as_json(), found.as_text(), as_json=as_json)
    found.require()


@app.command()
def chat(
    message: Annotated[str, typer.Argument(help="One message; without it, lines are read from the terminal.")] = "",
    directory: Dir = HERE,
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """Ask the base and the tuned model the same, side by side.

    Example: metier chat "Where is my order LK-10442? Ana" -C support
    """
    from metier.project import Project

    talk = Project.load(directory, settings or ()).chat()
    for line in [message] if message else sys.stdin:
        if line.strip():
            answer = talk(line.strip())
            text = "".join(f"--- {name}\n{reply}\n" for name, reply in answer.items())
            emit(answer, text, as_json=as_json)


@app.command()
def status(directory: Dir = HERE, as_json: AsJson = False) -> None:
    """Say which stages are finished and what the newest verdict is.

    Example: metier status -C support
    """
    from metier.project import Project

    found = Project.load(directory).status()
    emit(found.as_json(), found.as_text(), as_json=as_json)


@app.command()
def report(directory: Dir = HERE, as_json: AsJson = False) -> None:
    """Print the newest verdict and where its page lies.

    Example: metier report -C support
    """
    from metier.project import Project

    project = Project.load(directory)
    found = project.report()
    emit(found.as_json(), f"{found.verdict.sentence}\nReport: {project.report_path}", as_json=as_json)


@app.command()
def verify(directory: Dir = HERE, as_json: AsJson = False) -> None:
    """Check ledger, seal, split, report, scores, verdict and model again from the files; exit 3 on a problem.

    Example: metier verify -C support
    """
    from metier.project import Project

    found = Project.load(directory).verify()
    emit(found.as_json(), found.as_text(), as_json=as_json)
    found.require()


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine offers and what is missing.

    Example: metier doctor
    """
    from metier.project import doctor as look

    found = look()
    emit(found.as_json(), found.as_text(), as_json=as_json)


@app.callback(invoke_without_command=True)
def main_options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """From raw domain rows to a tuned, tested language model, and the evidence whether it was worth it."""
    if version:
        from metier import __version__

        sys.stdout.write(f"metier {__version__}\n")
        raise typer.Exit


def _watcher() -> Callable[[Any], None]:
    """Draws progress on stderr: one line that is rewritten on a terminal, else a line at most every 10 s."""
    from metier.terminal import watcher_for

    return watcher_for(sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0 done, 1 failed, 2 usage or config, 3 a gate said no, 130 interrupted."""
    from metier.core.errors import MetierError

    command = typer.main.get_command(app)
    try:
        code = int(command.main(args=argv, prog_name="metier", standalone_mode=False) or 0)
    except MetierError as err:
        if os.environ.get("METIER_TRACEBACK") == "1":
            raise
        sys.stderr.write(f"error: {err}\n")
        return err.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as err:
        shown = getattr(err, "show", None)  # getattr: click's usage errors show themselves
        if shown is None:
            raise
        shown()
        return int(getattr(err, "exit_code", 2))  # getattr: click's exit code
    if code == INTERRUPTED:  # typer turns an interrupt into this code and says nothing
        sys.stderr.write("interrupted: what was finished is kept; the same command resumes.\n")
    return code


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()

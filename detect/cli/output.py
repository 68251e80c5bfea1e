"""What every verb prints in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from detect.formats.tally import Tally

# No markup: names and paths may hold square brackets.
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)

DRAWN_ONLY = "it learnt from drawn cells only, and says nothing of patients"


def error(message: str) -> None:
    """A problem that ends the command."""
    err.print("error:", style="bold red", end=" ")
    err.print(message, soft_wrap=True)


def print_tally(tally: Tally, most: int = 5) -> None:
    """What a reader met, to standard error."""
    for line in tally.lines(most):
        err.print(line, soft_wrap=True, style="dim")


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table, numbers to the right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    out.print(table)


@contextmanager
def fields_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar of fields; yields what to call with the fields done since the last call, and how many there are."""
    from rich.progress import Progress

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("fields", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, total=total, advance=done)

        yield show


@contextmanager
def epochs_bar() -> Iterator[Callable[[int, int, float], None]]:
    """A bar that is shown epochs, how many there are, and the mean loss."""
    from rich.progress import Progress

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("epochs")

        def show(epoch: int, epochs: int, loss: float) -> None:
            bar.update(task, total=epochs, completed=epoch, description=f"epoch {epoch}/{epochs}, loss {loss:.3f}")

        yield show

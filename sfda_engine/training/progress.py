"""What a person sees while it runs: a rich bar in a terminal, a line a log step elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def phase_progress(title: str, *, enabled: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that is not steps: yields what is to be told (done, total); a line where not a terminal."""
    console = Console(stderr=True)
    if enabled and not console.is_terminal:
        console.print(f"{title} ...", highlight=False)
    with Progress(console=console, disable=not (enabled and console.is_terminal)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class RunProgress:
    """One bar a phase with losses, images/s and time left; plain lines where the output is not a terminal."""

    def __init__(self, *, enabled: bool) -> None:
        self.console = Console(stderr=True)
        self.enabled = enabled
        self.live = enabled and self.console.is_terminal
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.bar.add_task("", total=None, status="")

    def __enter__(self) -> RunProgress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def phase(self, name: str, *, total: int, completed: int = 0) -> None:
        """Start the bar of a new phase."""
        self.bar.reset(self.task, description=name, total=total, completed=completed, status="")

    def advance(self) -> None:
        self.bar.advance(self.task)

    def status(self, phase: str, step: int, total: int, line: dict[str, float]) -> None:
        """Show the means of a log step; the guard's signals are for the report."""
        terms = {tuple(name.split("/")): value for name, value in line.items() if "/" in name}
        shown = [f"{network[0]}.{term} {value:.3f}" for (network, term), value in terms.items() if network != "guard"]
        status = "  ".join([*shown[:6], f"{line['images_per_second']:.1f} images/s"])
        self.bar.update(self.task, status=status)
        if self.enabled and not self.live:
            self.console.print(f"{phase} {step}/{total}  {status}", highlight=False, soft_wrap=True)

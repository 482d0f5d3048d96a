"""Seeds shared out among processes, each with a stage of its own: runs have nothing in common."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from tidings.errors import TidingsError
from tidings.testing.sim.api import Tally, run
from tidings.testing.sim.trial import Plan, Stage

OFTEN = 10
"""How many runs a process plays before it says what came of them."""


def share_out(
    make: Callable[[], Plan], seeds: Sequence[int], *, workers: int, progress: Callable[[int], None]
) -> Tally:
    """Play the seeds in so many processes; `make` is called in each, and `progress` told of runs that are done.

    Raises SimulationFailed as `run` does; the run that failed is played and shrunk here. Raises TidingsError where a
    process died.
    """
    context = multiprocessing.get_context("spawn")  # a copy of this one would share its threads and connections
    ears: dict[Any, BaseProcess] = {}
    tally = Tally()
    try:
        for number in range(min(workers, len(seeds))):
            ear, mouth = context.Pipe(duplex=False)
            ears[ear] = context.Process(target=_play, args=(make, seeds[number::workers], mouth), daemon=True)
            ears[ear].start()
            mouth.close()
        _listen(ears.copy(), make, tally, progress)
    finally:
        for process in ears.values():
            process.terminate()
            process.join()
    return tally


def _listen(
    ears: dict[Any, BaseProcess], make: Callable[[], Plan], tally: Tally, progress: Callable[[int], None]
) -> None:
    while ears:
        ready: list[Any] = wait(ears.keys())
        for ear in ready:
            try:
                more: Tally | int | None = ear.recv()
            except EOFError:
                process = ears.pop(ear)
                process.join()
                raise TidingsError(f"A process that played died with exit code {process.exitcode}.") from None
            if more is None:
                del ears[ear]
            elif isinstance(more, int):
                run(make(), [more])
                raise TidingsError(f"Seed {more} failed in one process and not in another: the apps keep state.")
            else:
                tally.join(more)
                progress(more.runs)


def _play(make: Callable[[], Plan], seeds: Sequence[int], mouth: Any) -> None:
    """In a process: tell of every few runs, and of the first one that fails by its seed; None at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us ends us
    with contextlib.suppress(BrokenPipeError), contextlib.closing(Stage(make())) as stage:  # nobody listens any more
        tally = Tally()
        for seed in seeds:
            outcome = stage.play(seed)
            if outcome.error is not None:
                mouth.send(seed)
                return
            tally.add(outcome)
            if tally.runs == OFTEN:
                mouth.send(tally)
                tally = Tally()
        mouth.send(tally)
        mouth.send(None)

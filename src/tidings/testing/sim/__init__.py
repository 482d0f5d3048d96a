"""A simulator: apps, the real engine and the real file in virtual time, with faults, by the thousand.

`api.py` is what a test uses; `world.py` what happens in one run, `node.py` a process in it, `files.py` its file,
`loop.py` the event loop with virtual time, `tape.py` the decisions, `verdict.py` what must hold, `shrink.py` and
`report.py` what a failure comes to, `crew.py` many seeds at a time.
"""

from tidings.testing.sim.api import SimulationFailed, Tally, invariant, simulate
from tidings.testing.sim.faults import Faults
from tidings.testing.sim.loop import Stuck
from tidings.testing.sim.simulation import Simulation
from tidings.testing.sim.verdict import Violated
from tidings.testing.sim.world import SimulatedFailure

__all__ = [
    "Faults",
    "SimulatedFailure",
    "Simulation",
    "SimulationFailed",
    "Stuck",
    "Tally",
    "Violated",
    "invariant",
    "simulate",
]

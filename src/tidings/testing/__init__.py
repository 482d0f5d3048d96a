"""For tests: apps with a clock that the test moves. `tidings.testing.contract` holds brokers to their promises."""

from tidings.testing.clock import TestClock
from tidings.testing.kit import Kit, Letter

__all__ = ["Kit", "Letter", "TestClock"]

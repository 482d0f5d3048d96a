"""For tests: specifications, and apps with a clock that the test moves. `tidings.testing.contract` checks brokers."""

from tidings.testing.clock import TestClock
from tidings.testing.difference import AnyOrder, Some
from tidings.testing.given import Later, Row, Sql, given
from tidings.testing.kit import Kit, Letter
from tidings.testing.outcome import Dead, Failed

__all__ = ["AnyOrder", "Dead", "Failed", "Kit", "Later", "Letter", "Row", "Some", "Sql", "TestClock", "given"]

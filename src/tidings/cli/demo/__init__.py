"""`tidings demo`: the shop of the examples works off real orders, in processes that get killed."""

from tidings.cli.demo.command import demo

__all__ = ["demo"]

"""The shop: services that know each other only by events. `apps` are all of them, for `tidings run`."""

from .services import apps

__all__ = ["apps"]

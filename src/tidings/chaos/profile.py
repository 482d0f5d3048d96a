"""Profiles: a plan in TOML. What it does not say is as in `Plan`; what it says wrong is refused with a sentence."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from tidings.chaos.plan import AT_RANDOM, KILL, ON_BROKER, PLACES, REPUBLISH, Plan
from tidings.chaos.site import Site
from tidings.errors import ConfigError

SHIPPED = resources.files("tidings.chaos") / "profiles"
NOT_IN_A_FILE = {"profile"}
KEYS = [name for name in Plan.__struct_fields__ if name not in NOT_IN_A_FILE]


def shipped() -> dict[str, str]:
    """The profiles that come with the package: name and text."""
    files = sorted((file for file in SHIPPED.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}


def load(profile: str, **given: Any) -> Plan:
    """The plan of a shipped profile, by its name, or of a file; what is `given` and not None wins. Raises ConfigError.

    `kills`, where given, is how many kills are spread over all kinds; the profile's other faults stay.
    """
    said = _parsed(*_text(profile))
    kills = given.pop("kills", None)
    said |= {name: value for name, value in given.items() if value is not None}
    if kills is not None:
        said["faults"] = {**said.get("faults", Plan().faults), KILL: kills}
    return msgspec.convert({**said, "profile": Path(profile).stem}, Plan)


def check(plan: Plan, site: Site) -> None:
    """Raise ConfigError where the plan names a fault that cannot happen here, or republishes more than there is."""
    known = [KILL, *AT_RANDOM, REPUBLISH, *PLACES, *site.places]
    for kind in plan.faults:
        if kind in ON_BROKER and kind not in site.faults:
            raise ConfigError(
                f"profile {plan.profile}: {kind} befalls a server, and this run has none of its own; start one: "
                "--server nats"
            )
        _known(kind, known, f"profile {plan.profile}: unknown fault")
    if plan.faults.get(REPUBLISH, 0) > plan.events:
        raise ConfigError(
            f"profile {plan.profile}: {plan.faults[REPUBLISH]} events are to be published twice, but there are only "
            f"{plan.events}. Ask for more events, or fewer of these."
        )


def _text(profile: str) -> tuple[str, str]:
    """Where a profile is, in words, and its text."""
    known = shipped()
    if profile in known:
        return f"profile {profile}", known[profile]
    path = Path(profile)
    if not path.is_file():
        raise ConfigError(f"There is no profile {profile!r}: neither a file nor one of {', '.join(known)}.")
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The profile {path} cannot be read: {error}") from error


def _parsed(where: str, text: str) -> dict[str, Any]:
    try:
        said = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {error}") from error
    for name in said:
        _known(name, KEYS, f"{where}: unknown key")
    try:
        msgspec.convert(said, Plan)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error
    return said


def _known(name: str, known: Iterable[str], what: str) -> None:
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise ConfigError(
            f"{what} {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}.")
        )

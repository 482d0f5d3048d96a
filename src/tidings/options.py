"""The URL of a server: where it is, who signs in, the options behind it, and TLS out of files. No secret is shown."""

from __future__ import annotations

import re
import ssl
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tidings.errors import ConfigError

Reader = Callable[[str], Any]
"""Makes the value of an option out of its text. Raises ValueError, which says what would fit."""
Readers = Mapping[str, Reader]

SIGNS = frozenset(string.ascii_letters + string.digits)
USER = re.compile(r"(?<=://)(?:[^\s/@:]*:\S*|[^\s/@]*)@")
QUERY = re.compile(r"(?<=[?&])([\w.]*(?:password|passwd|secret|token|api_?key|key\.pem)=)[^&\s]*", re.IGNORECASE)


def masked(text: str) -> str:
    """The text without the passwords that URLs in it carry."""
    if "://" not in text:
        return text
    return QUERY.sub(r"\1***", USER.sub("***@", text))


# -- readers


def file(value: str) -> str:
    """The path of a file that is there."""
    if not Path(value).is_file():
        raise ValueError("there is no such file")
    return value


def whole(least: int, most: int) -> Reader:
    """A reader of whole numbers from `least` to `most`."""

    def read(value: str) -> int:
        if not value.isdecimal() or not least <= int(value) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(value)

    return read


def seconds(value: str) -> float:
    """More than none, and not for ever."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise ValueError("a number of seconds, more than 0")
    return number


def yes(value: str) -> bool:
    """Yes or no."""
    if value not in ("yes", "no"):
        raise ValueError("yes or no")
    return value == "yes"


def word(more: str) -> Reader:
    """A reader of names that have letters, digits and the signs of `more` only."""

    def read(value: str) -> str:
        if not value or not SIGNS.union(more).issuperset(value):
            raise ValueError(f"letters, digits and {' '.join(more)} only")
        return value

    return read


# -- the URL


class Host(NamedTuple):
    """A server of a URL."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class Url(msgspec.Struct, frozen=True, kw_only=True):
    """What the URL of a server says.

    `shown` is the URL as it may be seen, `path` what stands between the hosts and `?`, `options` what the readers made,
    `others` those for the server's client.
    """

    shown: str
    scheme: str
    hosts: tuple[Host, ...]
    user: str | None = None
    password: str | None = None
    path: str = ""
    options: dict[str, Any]
    others: dict[str, str]

    def __repr__(self) -> str:
        return f"Url({self.shown})"


def read(url: str, readers: Readers, *, port: int, form: str, others: bool = False) -> Url:
    """What this URL says. `form` is how one is written, for who wrote none. Raises ConfigError.

    Options that have no reader are unknown, unless there may be `others`.
    """
    split = urlsplit(url)
    secret, _, hosts = split.netloc.rpartition("@")
    user, colon, password = secret.partition(":")
    servers = tuple(_host(each, port, f"{masked(url)}: {form}") for each in hosts.split(","))
    ours, more = divided(url, readers) if others else (known(url, readers), {})
    return Url(
        shown=masked(url),
        scheme=split.scheme,
        hosts=servers,
        user=unquote(user) if secret else None,
        password=unquote(password) if colon else None,
        path=unquote(split.path.removeprefix("/")),
        options=ours,
        others=more,
    )


def _host(text: str, usual: int, wrong: str) -> Host:
    try:
        split = urlsplit(f"//{text}")
        name, port = split.hostname, split.port
    except ValueError as error:  # the text is not shown: it may be a part of a password with signs that end a host
        raise ConfigError(f"{wrong}; in a password / ? # @ : are written %2F %3F %23 %40 %3A") from error
    if not name:
        raise ConfigError(wrong)
    return Host(name, port or usual)


def divided(url: str, readers: Readers) -> tuple[dict[str, Any], dict[str, str]]:
    """The options that have a reader, and the others as they stand. Raises ConfigError for one that does not fit."""
    ours: dict[str, Any] = {}
    others: dict[str, str] = {}
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name not in readers:
            others[name] = value
            continue
        try:
            ours[name] = readers[name](value)
        except ValueError as error:
            raise ConfigError(f"{masked(url)}: {name}={value} does not fit: {error}") from error
    return ours, others


def known(url: str, readers: Readers) -> dict[str, Any]:
    """The options. Raises ConfigError also for one that has no reader."""
    ours, others = divided(url, readers)
    for name in others:
        raise ConfigError(f"{masked(url)}: unknown option {name!r}; there are: {', '.join(sorted(readers)) or 'none'}")
    return ours


# -- TLS

FILES: Readers = dict.fromkeys(("ca", "cert", "key"), file)
"""Options of every server that speaks TLS: PEM files."""


class Tls(msgspec.Struct, frozen=True):
    """TLS with a server whose certificate and name are always checked.

    `ca` is who is believed instead of the system's authorities, `cert` and `key` are who we are.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """For one connection: files that were renewed count from the next one on. Raises ConfigError."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key, password=self._locked)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(each for each in (self.ca, self.cert, self.key) if each is not None)
            raise ConfigError(f"the files for TLS ({files}) cannot be used: {error}") from error
        return context

    @staticmethod
    def hint(error: BaseException) -> str:
        """What to look at where a connection ended while it was made.

        With TLS 1.3 a server refuses our certificate when we think the handshake is over (RFC 8446, 4.4.2.4): what it
        says may be lost to a write that fails first.
        """
        ended = isinstance(error, ConnectionError | EOFError) and not isinstance(error, ConnectionRefusedError)
        return "; a server that does not accept our certificate may end it so: see ?cert= and ?key=" if ended else ""

    def _locked(self) -> str:
        raise ConfigError(f"{self.key or self.cert} is locked by a passphrase: unlock it with `openssl pkey`")


def secured(url: Url, *, on: bool) -> Tls | None:
    """How this URL wants TLS; None where it is off. Raises ConfigError for files that nothing would use."""
    given = {name: url.options[name] for name in FILES if name in url.options}
    if given and not on:
        raise ConfigError(f"{url.shown}: {next(iter(given))} is for TLS: write {url.scheme}s://")
    if "key" in given and "cert" not in given:
        raise ConfigError(f"{url.shown}: key is of no use without cert, the certificate that it belongs to")
    return Tls(**given) if on else None

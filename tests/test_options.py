"""What the URL of a server may say, and what is said of one that does not fit. No secret is repeated."""

import subprocess
from pathlib import Path

import pytest

from tidings.errors import ConfigError
from tidings.options import FILES, Host, Readers, Tls, divided, known, masked, read, seconds, secured, whole, word, yes

READERS: Readers = {**FILES, "parts": whole(1, 8), "lease": seconds, "durable": yes, "prefix": word("-_"), "token": str}
FORM = "an address is thing://HOST"


def test_a_url_says_who_where_and_how() -> None:
    told = read("thing://me:s%3Acret@one,[::1]:5/a%2Fb?parts=3&lease=1.5&durable=no", READERS, port=9, form=FORM)
    assert (told.user, told.password, told.path) == ("me", "s:cret", "a/b")
    assert told.hosts == (Host("one", 9), Host("::1", 5))
    assert [str(host) for host in told.hosts] == ["one:9", "[::1]:5"]
    assert told.options == {"parts": 3, "lease": 1.5, "durable": False}
    assert "s:cret" not in repr(told)
    assert "s%3Acret" not in repr(told)


def test_who_names_nobody_has_no_user() -> None:
    told = read("thing://one", READERS, port=9, form=FORM)
    assert (told.user, told.password, told.path, told.options) == (None, None, "", {})


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("parts=0", "parts=0 does not fit: a whole number from 1 to 8"),
        ("parts=many", "parts=many does not fit: a whole number from 1 to 8"),
        ("lease=0", "lease=0 does not fit: a number of seconds, more than 0"),
        ("lease=nan", "lease=nan does not fit: a number of seconds, more than 0"),
        ("lease=long", "lease=long does not fit: a number of seconds, more than 0"),
        ("durable=maybe", "durable=maybe does not fit: yes or no"),
        ("prefix=a.b", "prefix=a.b does not fit: letters, digits and - _ only"),
        ("prefix=", "prefix= does not fit"),
        ("ca=/none", "ca=/none does not fit: there is no such file"),
        ("colour=red", "unknown option 'colour'; there are: ca, cert, durable, key, lease, parts, prefix, token"),
    ],
)
def test_an_option_that_does_not_fit_is_named_with_what_would(query: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        known(f"thing://me:s3cret@h?token=s3cret&{query}", READERS)
    assert str(error.value).startswith(f"thing://***@h?token=***&{query}: {says}")


def test_options_of_a_client_stay_as_they_are() -> None:
    assert divided("thing://h?parts=2&own.word=x%20y&empty=", READERS) == (
        {"parts": 2},
        {"own.word": "x y", "empty": ""},
    )
    told = read("thing://h?own.word=x", READERS, port=9, form=FORM, others=True)
    assert told.others == {"own.word": "x"}
    with pytest.raises(ConfigError, match="there are: none"):
        known("thing:path?parts=2", {})


@pytest.mark.parametrize("url", ["thing://", "thing://,", "thing://h,", "thing://h:port", "thing://me:s3cret?@h"])
def test_a_url_without_a_server_is_told_how_one_is_written(url: str) -> None:
    with pytest.raises(ConfigError, match=FORM) as error:
        read(url, READERS, port=9, form=FORM, others=True)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("name", ["password", "sasl.password", "ssl.key.password", "token", "client_secret"])
def test_secrets_are_masked_wherever_a_url_has_them(name: str) -> None:
    assert masked(f"thing://h?{name}=s3cret&x=1") == f"thing://h?{name}=***&x=1"
    assert masked("at thing://me:s3/cr@et@h/x") == "at thing://***@h/x"
    assert masked("thing://t0ken@h") == "thing://***@h"
    assert masked("sqlite:x.db?lease=1") == "sqlite:x.db?lease=1"


def test_files_of_tls_without_tls_are_refused() -> None:
    with pytest.raises(ConfigError, match="ca is for TLS: write things://"):
        secured(read(f"thing://h?ca={__file__}", READERS, port=9, form=FORM), on=False)
    with pytest.raises(ConfigError, match="key is of no use without cert"):
        secured(read(f"thing://h?key={__file__}", READERS, port=9, form=FORM), on=True)
    assert secured(read("thing://h", READERS, port=9, form=FORM), on=False) is None
    assert secured(read(f"thing://h?ca={__file__}", READERS, port=9, form=FORM), on=True) == Tls(ca=__file__)


def test_files_of_tls_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    bad, locked = tmp_path / "bad.pem", tmp_path / "locked.pem"
    bad.write_text("nothing")
    with pytest.raises(ConfigError, match=r"bad\.pem\) cannot be used"):
        Tls(ca=str(bad)).context()
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=x"]
    made = ["-passout", "pass:s3cret", "-keyout", str(locked), "-out", str(tmp_path / "own.pem")]
    subprocess.run(["openssl", *new, *made], check=True, capture_output=True)
    with pytest.raises(ConfigError, match=r"locked\.pem is locked by a passphrase"):
        Tls(cert=str(tmp_path / "own.pem"), key=str(locked)).context()


@pytest.mark.parametrize("ended", [BrokenPipeError(32, "Broken pipe"), ConnectionResetError(), EOFError()])
def test_a_connection_that_ends_while_it_is_made_may_lack_a_certificate(ended: Exception) -> None:
    assert Tls.hint(ended).endswith("see ?cert= and ?key=")


@pytest.mark.parametrize("other", [ConnectionRefusedError(), TimeoutError(), OSError(101, "Network is unreachable")])
def test_a_server_that_is_not_there_has_nothing_to_do_with_certificates(other: Exception) -> None:
    assert not Tls.hint(other)

"""Certificates of an authority of our own: for servers that speak TLS, and for clients that sign in by one."""

import subprocess
from pathlib import Path

import pytest

NEW = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and server and client of it, each as .pem, .key and both in one as .both.

    The stranger is of an authority that nobody believes; its name is the client's.
    """
    folder = tmp_path_factory.mktemp("certificates")

    def made(name: str, subject: str, *more: str) -> None:
        words = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={subject}", *more]
        subprocess.run(["openssl", *NEW, *words], cwd=folder, check=True, capture_output=True)
        both = folder.joinpath(f"{name}.key").read_text() + folder.joinpath(f"{name}.pem").read_text()
        folder.joinpath(f"{name}.both").write_text(both)

    made("ca", "authority")
    for name in ("server", "client"):
        made(name, name, "-addext", "subjectAltName=IP:127.0.0.1", "-CA", "ca.pem", "-CAkey", "ca.key")
    made("stranger", "client")
    return folder

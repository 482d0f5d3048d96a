"""What is public is documented, and what is documented is public."""

import inspect
import re
from pathlib import Path

import pytest

import tidings

REFERENCE = Path(__file__).parents[1] / "docs" / "reference.md"
PUBLIC = sorted(getattr(tidings, "__all__", []))


def test_there_are_public_names() -> None:
    assert PUBLIC, "src/tidings/__init__.py says in __all__ what is public"
    assert not [name for name in PUBLIC if not hasattr(tidings, name)], "in __all__, but not there"


def test_the_reference_documents_what_is_public() -> None:
    assert REFERENCE.exists(), "docs/reference.md is missing: it has a heading '### `Name`' for each public name"
    headings = re.findall(r"^### `(\w+)`", REFERENCE.read_text(), flags=re.MULTILINE)
    assert sorted(headings) == sorted(set(headings)), "documented twice"
    undocumented, unknown = set(PUBLIC) - set(headings), set(headings) - set(PUBLIC)
    assert not undocumented, f"without a heading '### `Name`' in docs/reference.md: {sorted(undocumented)}"
    assert not unknown, f"in docs/reference.md, but not in tidings.__all__: {sorted(unknown)}"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_a_docstring(name: str) -> None:
    public = getattr(tidings, name)
    own = vars(public).get("__doc__") if inspect.isclass(public) else inspect.getdoc(public)
    assert own, f"tidings.{name} has no docstring of its own"

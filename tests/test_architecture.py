"""Imports run strictly downhill, without cycles. A new module gets its place here."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import accumulate
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
LAYERS = [
    {"errors", "message", "broker", "link", "store", "clock", "failpoint", "binding", "roster"}
    | {"options", "redial", "monitor", "survey", "fetching", "steward"},  # words and ports
    {"codec", "schema"},  # wire
    {
        "handler",
        "retry",
        "middleware",
        "meter",
        "dead",
        "desk",
        "inquest",
        "isolation",
        "cell",
        "lane",
        "inline",
        "chunk",
        "threaded",
        "turns",
        "worker",
        "outbox",
        "inbox",
        "parking",
        "held",
        "linked",
        "member",
        "storeless",
        "mail",
    },  # engine
    {"saga", "view", "aggregate", "stream", "schedule"},  # patterns: each sees the engine and not the others
    {"app", "connect", "config", "runtime", "alone"},  # application
    {"tidings"},  # the public names
]
EDGES = {"chaos", "cli", "dev", "observe", "security", "gateway", "console", "testing", "flood", "moving", "__main__"}
UPTO = list(accumulate(LAYERS, set.union))
MAY_IMPORT = (
    {name: seen for layer, seen in zip(LAYERS, UPTO, strict=True) for name in layer}
    | {pattern: UPTO[2] | {pattern} for pattern in LAYERS[3]}
    | {"connect": UPTO[4] | {"brokers", "stores", "embedded", "pg"}}
    | {"brokers": UPTO[0], "stores": UPTO[0], "embedded": UPTO[0] | {"embedded"}}
    | {"kafka": UPTO[0] | {"kafka"}, "brokers.kafka": UPTO[0] | {"kafka"}}
    | {"amqp": UPTO[0] | {"amqp"}, "brokers.rabbitmq": UPTO[0] | {"amqp"}}
    | {"redis": UPTO[0] | {"redis"}, "brokers.redis": UPTO[0] | {"redis"}}
    | {"jetstream": UPTO[0] | {"jetstream"}, "brokers.nats": UPTO[0] | {"jetstream"}}
    | dict.fromkeys(["brokers.sqlite", "stores.sqlite"], UPTO[0] | {"embedded"})
    | dict.fromkeys(["pg", "brokers.postgres", "stores.postgres"], UPTO[0] | {"pg", "embedded"})
    | dict.fromkeys(EDGES, UPTO[5] | EDGES)
    | {"cli": UPTO[5] | EDGES | {"embedded"}}
    | {"moving": UPTO[5] | {"embedded", "brokers", "moving", "pg"}}
    | dict.fromkeys(["chaos", "testing"], UPTO[5] | EDGES | {"embedded", "brokers", "stores"})
)
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_bytes())
    for path in SOURCE.rglob("*.py")
}


def unit(module: str) -> str:
    """The file or folder right under tidings, which is what has a layer: tidings.brokers.sqlite is in brokers."""
    return module.split(".")[1] if "." in module else module


def imported(module: str) -> Iterator[str]:
    """The modules of tidings that this one imports, at its top, in a function or for type checkers only."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "tidings")
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "tidings":
            names = ((f"{node.module}.{alias.name}", str(node.module)) for alias in node.names)
            yield from (submodule if submodule in MODULES else parent for submodule, parent in names)


def test_imports_run_downhill() -> None:
    assert MODULES.keys() - {"tidings"}, "src/tidings is empty"
    assert not {name for name in MODULES if unit(name) not in MAY_IMPORT}, "these have no layer: give them one here"
    for module in MODULES:
        allowed = MAY_IMPORT.get(module.removeprefix("tidings."), MAY_IMPORT[unit(module)])
        uphill = {other for other in imported(module) if unit(other) not in allowed}
        assert not uphill, f"{module} may not import {uphill}"


def test_imports_have_no_cycle() -> None:
    TopologicalSorter({module: set(imported(module)) - {module} for module in MODULES}).prepare()

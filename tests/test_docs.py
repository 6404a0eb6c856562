"""Documentation and architecture, kept true."""

import ast
import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from accounts.errors import GatewayError
from proxy import answers, metrics  # noqa: F401  # what they define is looked for below
from proxy.endpoints import ENDPOINTS

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
REQUEST = (ROOT / "docs" / "request.md").read_text()
CODE = [path for app in ("accounts", "llmgateway", "proxy") for path in sorted((ROOT / app).rglob("*.py"))]


def environment() -> set[str]:
    """The names that the settings read."""
    read = re.findall(r'env\.\w+\(\s*"(\w+)"', (ROOT / "llmgateway" / "settings.py").read_text())
    return {*read, "WEB_CONCURRENCY"}  # the one of uvicorn's own that people set


def error_codes() -> set[str]:
    def below(cls: type[GatewayError]) -> set[str]:
        return {cls.code}.union(*(below(each) for each in cls.__subclasses__() if each.__module__ != "proxy.upstream"))

    return below(GatewayError)


def own_metrics() -> set[str]:
    names = {metric.name: metric.type for metric in REGISTRY.collect() if metric.name.startswith("api_")}
    return {f"{name}_total" if kind == "counter" else name for name, kind in names.items()}


def imports(path: Path) -> set[str]:
    """The modules that a file imports at any place, relative ones by their full name."""
    package = path.relative_to(ROOT).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            found.add(".".join([*base, *filter(None, [node.module])]))
    return found


def test_every_setting_is_in_the_readme_and_no_other():
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    assert documented == environment()


def test_every_error_code_is_in_the_readme_and_no_other():
    documented = set(re.findall(r"^\| \d{3} \| `(\w+)` \|", README, re.MULTILINE))
    assert documented == error_codes()


def test_every_metric_is_in_the_operations_guide():
    documented = set(re.findall(r"^\| `(api_\w+)", OPERATIONS, re.MULTILINE))
    assert documented == own_metrics()


LEDGER = (ROOT / "docs" / "ledger.md").read_text()
LIMITS = (ROOT / "docs" / "limits.md").read_text()
CACHE = (ROOT / "docs" / "cache.md").read_text()
ADMIN = (ROOT / "docs" / "admin.md").read_text()
POOL = (ROOT / "docs" / "pool.md").read_text()
CLIENTS = (ROOT / "docs" / "clients.md").read_text()
TEXTS = {
    "README": README,
    "request": REQUEST,
    "operations": OPERATIONS,
    "ledger": LEDGER,
    "limits": LIMITS,
    "cache": CACHE,
    "pool": POOL,
    "admin": ADMIN,
    "clients": CLIENTS,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_files_that_are_named_exist(text):
    named = re.findall(r"`((?:accounts|proxy|llmgateway|docs|examples|tests)/[\w/.]*)`", text)
    linked = re.findall(r"\]\((?!https:)([^)#]+)\)", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [link for link in linked if not ((ROOT / link).exists() or (ROOT / "docs" / link).exists())]
    assert not missing


def test_the_walk_through_a_request_names_the_gates_in_their_order():
    dispatch = (ROOT / "proxy" / "gates.py").read_text().split("async def dispatch")[1].split("except")[0]
    gates = re.findall(r"await self\.(\w+)\(", dispatch)
    assert gates == ["authenticate", "parse", "permit", "look", "throttle"]
    assert re.findall(r"^   - \*(\w+)\*", REQUEST, re.MULTILINE) == gates


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path):
    app = path.relative_to(ROOT).parts[0]
    banned = {"accounts": {"proxy", "llmgateway", "httpx", "aiohttp", "redis"}, "proxy": {"llmgateway"}}.get(app, set())
    assert not {name.split(".")[0] for name in imports(path)} & banned


PURE = [
    "windows", "calls", "events", "folding", "errors", "endings", "schemas", "fields", "contents", "parts", "tools",
    "endpoints", "listings", "envelopes", "refusals", "usage", "reservations", "rates", "bounds", "canonical",
    "identities", "replays",
    "cache/__init__", "cache/policy", "cache/flights", "cache/memory", "cache/wire",
    "stores/__init__", "stores/shares", "stores/wire",
    "examples", "circuit", "members", "service", "destinations", "slots/__init__", "slots/memory",
    *(f"readers/{each}" for each in ("__init__", "choices", "messages", "responses")),
]  # fmt: skip


@pytest.mark.parametrize("name", PURE)
def test_policy_is_pure(name):
    top = {each.split(".")[0] for each in imports(ROOT / "proxy" / f"{name}.py")}
    assert not top & {"django", "rest_framework", "httpx", "aiohttp", "redis"}


@pytest.mark.parametrize(
    ("vendor", "modules"),
    [
        ("httpx", ["upstream.py"]),
        ("aiohttp", ["upstream.py"]),
        ("httpx_aiohttp", ["upstream.py"]),
        ("redis", ["connection.py"]),
        ("hiredis", ["connection.py"]),
        ("axes", ["login_admin.py", "logins.py"]),
        ("cryptography", ["encryption.py"]),
    ],
)
def test_one_module_knows_each_vendor(vendor, modules):
    knowing = [path.name for path in CODE if vendor in {name.split(".")[0] for name in imports(path)}]
    assert knowing == modules


def test_the_walk_through_a_request_passes_every_file_on_its_way():
    """All modules of the relay lane but those that wire, configure or describe."""
    aside = {
        "apps",
        "checks",
        "counters",
        "gateway",
        "health",
        "metrics",
        "models",
        "admin",
        "upstream_admin",
        "usage_admin",
        "export",
        "dashboard",
        "activity",
        "reports",
        "outcomes",
        "rollup",
        "gauges",
        "openapi",
        "examples",
        "encryption",
        "__init__",
    }
    own, cache = (ROOT / "proxy").glob("*.py"), (ROOT / "proxy" / "cache").glob("*.py")
    way = [path.relative_to(ROOT) for path in sorted([*own, *cache]) if path.stem not in {*aside, "wire"}]
    missing = [str(path) for path in way if f"`{path}`" not in REQUEST]
    assert not missing


def test_every_endpoint_is_in_the_readme():
    assert not [each.url for each in ENDPOINTS if f"`/v1/{each.url}`" not in README.replace("`POST ", "`")]


def test_every_decision_has_its_status():
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert re.search(r"^Status: accepted, \d{4}-\d\d-\d\d", path.read_text(), re.MULTILINE), path.name

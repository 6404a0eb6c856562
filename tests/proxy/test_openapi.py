"""The API's documentation: complete, and true to what the gateway does."""

import httpx
import jsonschema
import pytest
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema

from proxy.endpoints import ENDPOINTS
from proxy.examples import EXAMPLES
from tests.servers import PATIENCE

pytestmark = pytest.mark.once

BODIES = [(name, body) for name, example in EXAMPLES.items() for body in example.bodies.values()]
VALUES = [0, 1, -1, 1.5, 8.0, True, "", "none", "auto", [], ["a"], [1], [{}], [["a"]], {}, {"type": "x"}, None, "float"]
KINDS = {f"{e.name}.{name}": kind for e in ENDPOINTS for name, kind in e.schema.fields.items()}


@pytest.fixture(scope="module")
def document():
    made = SchemaGenerator().get_schema(request=None, public=True)
    validate_schema(made)
    return made


def test_every_endpoint_is_told_of_with_all_its_fields(document):
    for endpoint in ENDPOINTS:
        told = document["paths"][f"/v1/{endpoint.url}"]["post"]
        body = told["requestBody"]["content"]["application/json"]
        assert set(body["schema"]["properties"]) == set(endpoint.schema.fields)
        assert body["examples"]
        assert {"401", "429", "503"} <= told["responses"].keys()


def test_pages_and_health_are_no_part_of_it(document):
    assert {path.split("/")[1] for path in document["paths"]} == {"v1", "auth"}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_taken_is_allowed_by_the_document(name):
    kind = KINDS[name]
    taken = [value for value in VALUES if kind.check(value)]
    assert taken
    for value in taken:
        jsonschema.validate(value, kind.shape)


NUMBERS = {name: kind for name, kind in KINDS.items() if kind.shape.get("type") in ("integer", "number")}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_range_that_is_told(name):
    kind = NUMBERS[name]
    least, most = kind.shape["minimum"], kind.shape["maximum"]
    assert kind.check(least)
    assert kind.check(most)
    assert not kind.check(least - 1)
    assert not kind.check(most + 1)
    assert not kind.check(True)
    assert f"from {least} to {most}" in kind.expected


def test_errors_are_told_where_they_can_be_met(document):
    making, chatting = document["paths"]["/auth/keys"]["post"], document["paths"]["/v1/chat/completions"]["post"]
    assert "too_many_keys" in making["responses"]["400"]["description"]
    assert "too_many_keys" not in chatting["responses"]["400"]["description"]
    assert "context_length_exceeded" in chatting["responses"]["400"]["description"]


@pytest.fixture
def serving(llama, embedder, ranker, served_by):
    """Puts the llama-server behind the gateway that an example needs."""
    by_need = {"": llama, "--pooling mean": embedder, "--pooling rank": ranker}
    return lambda example: served_by(by_need[example.needs])


@pytest.mark.parametrize(("name", "body"), BODIES, ids=[name for name, _ in BODIES])
def test_every_example_is_answered_as_it_is_told(document, name, body, serving, post, bob):
    serving(EXAMPLES[name])
    endpoint = next(each for each in ENDPOINTS if each.name == name)
    answer = post(endpoint.url, bob, **body)
    assert answer.status_code == 200, answer.text
    told = document["paths"][f"/v1/{endpoint.url}"]["post"]["responses"]["200"]
    kind = answer.headers["content-type"].split(";")[0]
    assert kind == ("text/event-stream" if body.get("stream") else "application/json")
    if kind == "application/json":
        jsonschema.validate(answer.json(), told["content"][kind]["schema"])
    assert {"x-request-id", "RateLimit", "x-cache"} <= set(told["headers"])
    assert "x-request-id" in answer.headers


def test_anybody_may_read_it(live):
    assert "openapi" in httpx.get(f"{live.url}/schema", timeout=PATIENCE).text
    page = httpx.get(f"{live.url}/docs", timeout=PATIENCE)
    assert page.status_code == 200
    assert "swagger-ui" in page.text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]

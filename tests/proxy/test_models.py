"""The list of models: what it tells, in both shapes, and that reading it costs nothing."""

import json
import time
from datetime import UTC, datetime

import anthropic
import httpx
import openai
import pytest
from django.conf import settings

from accounts.errors import StoreUnavailable
from accounts.models import User
from proxy.gateway import gateway
from proxy.models import ModelAlias, RefusalCount, UsageRecord
from tests.cast import bearer, member, new_tier, person
from tests.conftest import MODEL
from tests.servers import PATIENCE, wait_until

NAMES_OF_CONTEXT = ("context_length", "max_model_len", "context_window")
VERSION = {"anthropic-version": "2023-06-01"}
LETTERS = [*"abcde"]


@pytest.fixture
def openai_client(live, bob):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=bob.key()[1], max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(live, bob):
    with anthropic.Anthropic(base_url=live.url, api_key=bob.key()[1], max_retries=0) as client:
        yield client


@pytest.fixture
def five_models(live, monkeypatch):
    """An upstream of five models, none of which has a context that is known."""
    monkeypatch.setattr(gateway().pool, "members", (member("http://a", *LETTERS),))


@pytest.fixture
def alias(live, http, bob):
    """Another name for the model, known to the gateway."""
    row = ModelAlias.objects.create(name="acme/claude", model=MODEL)
    wait_until(lambda: row.name in ids(http.get("/v1/models", headers=bob.headers)), "the alias is known")
    yield row.name
    row.delete()
    wait_until(lambda: row.name not in ids(http.get("/v1/models", headers=bob.headers)), "the alias is forgotten")


def ids(response: httpx.Response) -> list[str]:
    return [model["id"] for model in response.json()["data"]]


def rates(response: httpx.Response) -> dict[str, str]:
    """The headers that tell of quotas, without the seconds that pass."""
    return {
        name: value
        for name, value in response.headers.items()
        if name.startswith("x-ratelimit") and "reset" not in name
    }


# -- what it tells -------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_it_tells_the_context_by_the_names_clients_know(http, bob, alias):
    told = http.get("/v1/models", headers=bob.headers).json()["data"]
    assert [model["id"] for model in told] == [MODEL, alias]
    for model in told:
        assert {model[name] for name in NAMES_OF_CONTEXT} == {2048}
        assert model["meta"] == {"n_ctx": 2048}
        assert model == http.get(f"/v1/models/{model['id']}", headers=bob.headers).json()


@pytest.mark.once
def test_the_context_is_that_which_limits_calls(http, bob, chat, monkeypatch):
    ask = lambda: http.get(f"/v1/models/{MODEL}", headers=bob.headers).json()["context_length"]  # noqa: E731
    monkeypatch.setattr(gateway().pool, "context", lambda model: 1234 if model == MODEL else None)
    assert ask() == 1234


@pytest.mark.once
def test_a_context_that_nobody_tells_is_left_out(http, bob, five_models):
    told = http.get("/v1/models", headers=bob.headers).json()["data"][0]
    assert told.keys() == {"id", "object", "created", "owned_by"}
    assert http.get("/v1/models/a", headers={**bob.headers, **VERSION}).json().keys() == {
        "type", "id", "display_name", "created_at", "lifecycle",
    }  # fmt: skip


@pytest.mark.once
def test_when_a_model_was_made_is_always_the_same(openai_client, anthropic_client, monkeypatch):
    first = openai_client.models.retrieve(MODEL).created
    later = time.time() + 100
    monkeypatch.setattr("time.time", lambda: later)
    assert openai_client.models.list().data[0].created == first
    assert anthropic_client.models.retrieve(MODEL).created_at == datetime.fromtimestamp(first, UTC)


@pytest.mark.once
def test_openais_sdk_reads_it(openai_client):
    assert [model.id for model in openai_client.models.list()] == [MODEL]
    assert openai_client.models.retrieve(MODEL).context_length == 2048
    with pytest.raises(openai.NotFoundError) as missing:
        openai_client.models.retrieve("gpt-99")
    assert missing.value.code == "model_not_found"


# -- in Anthropic's shape ------------------------------------------------------------------------------------------


@pytest.mark.once
def test_anthropics_sdk_reads_it(anthropic_client, alias):
    listed = list(anthropic_client.models.list(limit=1))
    assert [(model.type, model.id, model.display_name) for model in listed] == [
        ("model", name, name) for name in (MODEL, alias)
    ]
    told = anthropic_client.models.retrieve(alias)
    assert (told.max_input_tokens, told.max_tokens, told.lifecycle) == (2048, 2048, "active")
    with pytest.raises(anthropic.NotFoundError) as missing:
        anthropic_client.models.retrieve("claude-99")
    assert missing.value.body["error"]["type"] == "not_found_error"


@pytest.mark.once
def test_anthropics_sdk_reads_it_with_a_bearer_too(live, bob):
    with anthropic.Anthropic(base_url=live.url, auth_token=bob.token, max_retries=0) as client:
        assert client.models.list().data[0].display_name == MODEL


@pytest.mark.once
def test_the_longest_answer_is_the_tiers(http, live):
    erin = person("erin", new_tier(max_output_tokens=300))
    told = http.get(f"/v1/models/{MODEL}", headers={**erin.headers, **VERSION}).json()
    assert (told["max_input_tokens"], told["max_tokens"]) == (2048, 300)


@pytest.mark.once
@pytest.mark.parametrize(
    ("query", "expected", "has_more"),
    [
        ("", "abcde", False),
        ("limit=1000", "abcde", False),
        ("limit=5", "abcde", False),
        ("limit=2", "ab", True),
        ("limit=2&after_id=b", "cd", True),
        ("limit=2&after_id=d", "e", False),
        ("after_id=e", "", False),
        ("limit=2&before_id=d", "bc", True),
        ("limit=2&before_id=c", "ab", False),
        ("before_id=a", "", False),
        ("limit=99999", "abcde", False),
    ],
)
def test_a_page_of_the_list(http, bob, five_models, query, expected, has_more):
    page = http.get(f"/v1/models?{query}", headers={**bob.headers, **VERSION}).json()
    assert "".join(model["id"] for model in page["data"]) == expected
    assert page["has_more"] is has_more
    assert (page["first_id"], page["last_id"]) == ((expected[0], expected[-1]) if expected else (None, None))


@pytest.mark.once
@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("limit=", "limit"),
        ("limit=9999999999999999999", "limit"),
        ("limit=%C2%B2", "limit"),
        ("after_id=x", "after_id"),
        ("before_id=x", "before_id"),
        ("after_id=a&before_id=c", "before_id"),
    ],
)
def test_a_page_that_is_none_is_a_400_in_anthropics_envelope(http, bob, five_models, query, param):
    refused = http.get(f"/v1/models?{query}", headers={**bob.headers, **VERSION})
    error = refused.json()["error"]
    assert (refused.status_code, refused.json()["type"]) == (400, "error")
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert ids(http.get(f"/v1/models?{query}", headers=bob.headers)) == LETTERS


# -- whose token counts --------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(
    ("key", "authorization", "status"),
    [
        ("good", None, 200),
        ("good", "Bearer sk-stale", 200),
        ("good", "Basic YTpi", 200),
        ("sk-ant-stale", "good", 200),
        ("suspended", "good", 200),
        ("", "good", 200),
        ("sk-ant-stale", "Bearer sk-stale", 401),
        ("sk-ant-stale", None, 401),
        ("suspended", "Bearer sk-stale", 403),
        ("sk-ant-stale", "suspended", 403),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/models"), ("GET", f"/v1/models/{MODEL}"), ("POST", "/v1/messages")]
)
def test_one_good_token_of_two_is_enough(http, bob, method, path, key, authorization, status):
    carol = person("carol")
    tokens = {"good": bob.token, "suspended": carol.token}
    User.objects.filter(pk=carol.user.pk).update(is_active=False)
    headers = {} if key is None else {"x-api-key": tokens.get(key, key)}
    if authorization:
        headers["Authorization"] = f"Bearer {tokens[authorization]}" if authorization in tokens else authorization
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1} if method == "POST" else None
    response = http.request(method, path, headers=headers, json=body)
    assert response.status_code == status, response.text
    if status != 200:
        assert response.json()["type"] == "error"


@pytest.mark.once
def test_a_key_that_has_expired_is_said_so_beside_nonsense(http, bob, monkeypatch):
    monkeypatch.setattr("accounts.tokens.AccessToken.lifetime", -settings.SIMPLE_JWT["ACCESS_TOKEN_LIFETIME"])
    expired = bob.token
    for headers in ({"x-api-key": expired, **bearer("no")}, {"x-api-key": "no", **bearer(expired)}):
        assert http.get("/v1/models", headers=headers).json()["error"]["code"] == "token_expired"


# -- what reading costs --------------------------------------------------------------------------------------------


def polls(live, someone, times):
    """Ask so many times, as SDKs do. Gives the headers of the answers that tell of quotas."""
    token, told = someone.token, []
    with (
        openai.OpenAI(base_url=f"{live.url}/v1", api_key=token) as one,
        anthropic.Anthropic(base_url=live.url, api_key=token) as other,
    ):
        for _ in range(times // 4):
            told.append(rates(one.models.with_raw_response.list().http_response))
            told.append(rates(one.models.with_raw_response.retrieve(MODEL).http_response))
            told.append(rates(other.models.with_raw_response.list().http_response))
            told.append(rates(other.models.with_raw_response.retrieve(MODEL).http_response))
            assert httpx.get(f"{live.url}/auth/me", headers=bearer(token), timeout=PATIENCE).status_code == 200
    return told


@pytest.mark.parametrize("window", ["minute", "month"])
def test_twenty_polls_cost_no_quota_and_no_row(live, post, window):
    tier = new_tier()
    for metric, limit in {"requests": 3, "tokens": 1000}.items():
        tier.quotas.create(metric=metric, window=window, limit=limit)
    grace = person("grace", tier)
    before = rates(post("tokenize", grace, content="Hi"))
    assert before["x-ratelimit-remaining-requests"] == "2"
    assert polls(live, grace, 20) == [before] * 20
    assert rates(post("tokenize", grace, content="Hi"))["x-ratelimit-remaining-requests"] == "1"
    rows = UsageRecord.objects.filter(user=grace.user)
    wait_until(lambda: rows.count() == 2, "the two calls are in the ledger")
    assert set(rows.values_list("endpoint", flat=True)) == {"tokenize"}


def test_who_has_used_up_a_quota_still_sees_the_models(http, post):
    grace = person("grace", new_tier(requests_a_minute=1, max_concurrent_requests=1))
    assert [post("tokenize", grace, content="Hi").status_code for _ in range(2)] == [200, 429]
    listed = http.get("/v1/models", headers=grace.headers)
    assert (listed.status_code, ids(listed)) == (200, [MODEL])
    assert listed.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.once
def test_a_full_ledger_and_a_store_that_is_gone_keep_nobody_from_reading(http, bob, monkeypatch):
    async def gone(*_):
        raise StoreUnavailable

    monkeypatch.setattr(gateway().ledger, "capacity", 0)
    monkeypatch.setattr(gateway().store, "admit", gone)
    monkeypatch.setattr(gateway().store, "read", gone)
    listed = http.get("/v1/models", headers=bob.headers)
    assert (listed.status_code, ids(listed), rates(listed)) == (200, [MODEL], {})
    assert listed.headers["x-cache"] == "bypass"


@pytest.fixture
def three_reads(live, settings):
    settings.READS_PER_MINUTE = 3


@pytest.mark.once
def test_the_limit_on_reading_shows_in_its_own_429_only(http, post, three_reads):
    grace, other = person("grace", new_tier(requests_a_minute=9)), person("other")
    reads = [http.get(path, headers=grace.headers) for path in ("/v1/models", f"/v1/models/{MODEL}", "/auth/me")]
    assert [read.status_code for read in reads] == [200] * 3
    assert {read.headers.get("x-ratelimit-limit-requests") for read in reads} == {"9", None}
    for path in ("/v1/models", "/auth/me"):
        refused = http.get(path, headers=grace.headers)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (429, "rate_limit_exceeded")
        assert "limit on reading" in error["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert rates(http.get("/v1/models", headers=grace.headers))["x-ratelimit-remaining-requests"] == "9"
    assert post("tokenize", grace, content="Hi").status_code == 200
    assert http.get("/v1/models", headers=other.headers).status_code == 200
    rejected = f'api_rejections_total{{reason="reads",tier="{grace.user.tier.name}"}} 2.0'
    assert rejected in http.get("/metrics").text
    assert not RefusalCount.objects.filter(user=grace.user).exists()


@pytest.mark.once
def test_the_limit_on_reading_is_told_in_anthropics_envelope(http, bob, three_reads):
    answers = [http.get("/v1/models", headers={"x-api-key": bob.token}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].json()["error"]["type"] == "rate_limit_error"


@pytest.mark.once
@pytest.mark.parametrize("path", ["/v1/models", "/auth/me"])
def test_without_a_limit_nothing_is_counted(http, bob, settings, monkeypatch, path):
    async def forbidden(*_):
        raise AssertionError("It was counted.")

    settings.READS_PER_MINUTE = 0
    monkeypatch.setattr(gateway().store, "admit", forbidden)
    assert http.get(path, headers=bob.headers).status_code == 200


@pytest.mark.once
def test_a_head_says_what_a_get_would(http, bob):
    whole, head = (http.request(method, "/v1/models", headers=bob.headers) for method in ("GET", "HEAD"))
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    assert json.loads(whole.content)["object"] == "list"


@pytest.mark.once
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_nothing_else_can_be_done_with_models(http, bob, method):
    refused = http.request(method, "/v1/models", headers={**bob.headers, **VERSION})
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert refused.json()["type"] == "error"

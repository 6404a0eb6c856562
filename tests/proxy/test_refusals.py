"""What the gateway refuses by itself: bad bodies, bad tokens, wrong URLs. Always the OpenAI envelope."""

import base64
import json
import socket
import time

import httpx
import jwt
import pytest
from django.conf import settings
from django.utils import timezone

from accounts.models import ApiKey, User
from accounts.tokens import AccessToken, Key
from tests.cast import bearer, new_tier, person
from tests.servers import PATIENCE, wait_until

HI = [{"role": "user", "content": "Hi"}]


def said(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert response.headers["x-request-id"].startswith("req_")
    return response.status_code, error["code"]


@pytest.mark.parametrize("body", [b"", b'{"messages": [', b"[1, 2]", b'"text"', b"\xff", b'{"a": NaN}', b"null"])
def test_a_body_that_is_no_json_object(bob, http, body):
    assert said(http.post("/v1/chat/completions", headers=bob.headers, content=body)) == (400, "invalid_json")


@pytest.mark.parametrize("body", [{}, {"messages": None}, {"model": "smollm2-135m"}])
def test_a_body_without_messages(bob, http, body):
    response = http.post("/v1/chat/completions", headers=bob.headers, json=body)
    assert said(response) == (400, "missing_required_parameter")
    assert response.json()["error"]["param"] == "messages"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", "hi"),
        ("messages", []),
        ("messages", ["hi"]),
        ("model", 5),
        ("stream", "yes"),
        ("stream", 1),
        ("temperature", "hot"),
        ("temperature", True),
        ("max_tokens", "5"),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_completion_tokens", 1.5),
        ("n", 0),
        ("stop", [1]),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "bogus"),
        ("response_format", "json"),
        ("stream_options", []),
        ("reasoning_format", "a\nb"),
    ],
)
def test_a_field_of_the_wrong_type(bob, chat, field, value):
    response = chat(bob, **{field: value})
    assert said(response) == (400, "invalid_value")
    assert response.json()["error"]["param"].startswith(field)


@pytest.mark.parametrize(
    "message",
    [
        {"content": "no role"},
        {"role": 5, "content": "x"},
        {"role": "user", "content": 5},
        {"role": "user", "content": [5]},
        {"role": "user", "content": [{"image_url": {"url": "data:,"}}]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/secret"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": "file:///etc/passwd"}]},
    ],
)
def test_a_message_that_would_be_a_500_of_the_llama_server_or_worse(bob, chat, message):
    assert said(chat(bob, messages=[message])) == (400, "invalid_value")


def test_a_mistake_that_only_the_llama_server_knows_is_still_the_callers(bob, chat):
    assert said(chat(bob, grammar="root ::= (")) == (400, "invalid_request_error")


def test_an_unknown_model(bob, chat):
    assert said(chat(bob, model="gpt-99")) == (404, "model_not_found")


def test_a_body_nested_deeper_than_json_is_written(bob, http):
    deep = b'{"messages":[{"role":"user","content":"Hi"}],"json_schema":' + b'{"a":' * 400 + b"1" + b"}" * 401
    assert said(http.post("/v1/chat/completions", headers=bob.headers, content=deep)) == (400, "invalid_value")


def test_no_token(http):
    response = http.post("/v1/chat/completions", json={"messages": HI})
    assert said(response) == (401, "invalid_api_key")
    assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer a b", "Basic YTpi", "token", "Bearer nonsense"])
def test_a_header_that_is_no_bearer_token(http, header):
    response = http.post("/v1/chat/completions", headers={"Authorization": header}, json={"messages": HI})
    assert said(response) == (401, "invalid_api_key")


def test_an_expired_token(bob, chat):
    token = AccessToken(str(bob.token))
    token["exp"] = int(time.time()) - 1
    assert said(chat(str(token))) == (401, "token_expired")


def test_a_token_that_expires_while_its_signature_is_remembered(bob, chat, monkeypatch):
    token = AccessToken(str(bob.token))
    token["exp"] = time.time() + 2 * PATIENCE
    assert chat(str(token)).status_code == 200
    later = token["exp"] + 1
    monkeypatch.setattr("accounts.tokens.time.time", lambda: later)
    assert said(chat(str(token))) == (401, "token_expired")


def test_a_tampered_token(bob, chat):
    head, claims, signature = bob.token.split(".")
    forged = json.loads(base64.urlsafe_b64decode(claims + "=="))
    forged["user_id"] = "1"
    claims = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")
    assert said(chat(f"{head}.{claims}.{signature}")) == (401, "invalid_api_key")


@pytest.mark.parametrize("algorithm", ["none", "HS512"])
def test_a_token_of_another_algorithm(bob, chat, algorithm):
    claims = AccessToken(str(bob.token)).payload
    key = Key.hs256(settings.JWT_SIGNING_KEY)
    secret = None if algorithm == "none" else key.secret
    token = jwt.encode(claims, secret, algorithm=algorithm, headers={"kid": key.kid})
    assert said(chat(token)) == (401, "invalid_api_key")


def test_a_token_of_another_key(bob, chat):
    claims = AccessToken(str(bob.token)).payload
    kid = Key.hs256(settings.JWT_SIGNING_KEY).kid
    token = jwt.encode(claims, "another-key-that-is-long-enough-for-hs256", headers={"kid": kid})
    assert said(chat(token)) == (401, "invalid_api_key")


def test_a_refresh_token_as_an_access_token(bob, chat):
    assert said(chat(str(bob.refresh))) == (401, "invalid_api_key")


def test_a_revoked_key(bob, chat):
    row, key = bob.key()
    assert chat(key).status_code == 200
    ApiKey.objects.filter(pk=row.pk).update(revoked_at=timezone.now())
    wait_until(lambda: chat(key).status_code == 401, "the key is refused")
    assert said(chat(key)) == (401, "invalid_api_key")


def test_a_key_whose_row_never_was(bob, chat):
    row, key = bob.key()
    ApiKey.objects.filter(pk=row.pk).delete()
    assert said(chat(key)) == (401, "invalid_api_key")


def test_a_revoked_token(bob, chat, http):
    token = bob.token
    assert chat(token).status_code == 200
    assert http.post("/auth/token/revoke", json={"token": token}).status_code == 200
    wait_until(lambda: chat(token).status_code == 401, "the token is refused")


@pytest.mark.parametrize("kind", ["token", "key"])
def test_a_suspended_user(live, chat, kind):
    carol = person("carol")
    credential = carol.token if kind == "token" else carol.key()[1]
    assert chat(credential).status_code == 200
    User.objects.filter(pk=carol.user.pk).update(is_active=False)  # as raw as SQL: nothing but the row changes
    wait_until(lambda: chat(credential).status_code == 403, "the user is refused")
    assert said(chat(credential)) == (403, "account_suspended")


def test_a_token_from_before_a_new_password_while_keys_go_on(live, chat):
    carol = person("carol")
    token, (_, key) = carol.token, carol.key()
    carol.user.set_password("another-password")
    carol.user.save()
    assert said(chat(token)) == (401, "invalid_api_key")
    assert chat(carol.token).status_code == 200
    assert chat(key).status_code == 200


def test_a_tier_changed_in_the_database_holds_at_once(live, chat):
    frank = person("frank", new_tier(max_output_tokens=2))
    credential = frank.key()[1]
    assert chat(credential).json()["usage"]["completion_tokens"] == 2
    User.objects.filter(pk=frank.user.pk).update(tier=new_tier(max_output_tokens=5))
    longer = lambda: chat(credential).json()["usage"]["completion_tokens"] == 5  # noqa: E731
    wait_until(longer, "the new tier holds")


def test_a_tier_that_the_request_names_changes_nothing(alice, chat):
    response = chat(alice, tier="enterprise")
    assert response.headers["x-ratelimit-limit-requests"] == "10"


def test_a_token_that_belongs_to_no_sign_in(bob, chat, http):
    token = str(AccessToken.for_user(bob.user))
    assert said(chat(token)) == (401, "invalid_api_key")
    assert said(http.get("/auth/me", headers=bearer(token))) == (401, "invalid_api_key")


def test_a_refusal_that_costs_nothing_tells_what_is_left(alice, chat):
    for fields in ({"model": "gpt-99"}, {"messages": []}):
        assert chat(alice, **fields).headers["x-ratelimit-remaining-requests"] == "10"


def test_tokens_of_a_user_who_was_suspended_and_is_back_stay_dead(live, chat):
    carol = person("carol")
    token = carol.token
    User.objects.filter(pk=carol.user.pk).update(is_active=False)
    User.objects.filter(pk=carol.user.pk).reactivate()
    assert said(chat(token)) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["/v1/slots", "/v1/", "/v1/chat/completions/", "/v1/../slots", "/health/x", "/nope"])
def test_an_unknown_url(http, path):
    assert said(http.get(path)) == (404, "unknown_url")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_a_wrong_method(http, method):
    response = http.request(method, "/v1/chat/completions")
    assert said(response) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_a_wrong_method_on_the_default_lane(http):
    assert said(http.get("/auth/token")) == (405, "method_not_allowed")


def refused_upload(port: int, token: str, head: str, part: bytes = b"") -> tuple[bytes, int]:
    """Send a body in parts until the server answers, or nothing of it. Gives the answer, and how much was sent."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as wire:
        start = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{head}\r\n\r\n"
        wire.sendall(start.encode())
        wire.settimeout(0.05 if part else PATIENCE)
        while sent < 100 * settings.MAX_BODY_BYTES:
            try:
                return wire.recv(65536), sent
            except TimeoutError:
                wire.settimeout(PATIENCE)
                wire.sendall(part)
                sent += len(part)
                wire.settimeout(0.001)
    raise AssertionError("The server took it all.")


@pytest.fixture
def small_bodies(live, settings):
    settings.MAX_BODY_BYTES = 100_000
    return settings.MAX_BODY_BYTES


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(live, bob, small_bodies):
    answer, _ = refused_upload(live.port, bob.token, f"Content-Length: {small_bodies + 1}")
    assert b"413" in answer.split(b"\r\n")[0]
    assert b"request_too_large" in answer


def test_a_stranger_is_refused_before_anything_is_read(live):
    answer, _ = refused_upload(live.port, "nonsense", "Content-Length: 1000000")
    assert b"401" in answer.split(b"\r\n")[0]


def test_a_body_that_never_comes_is_408(live, bob, monkeypatch):
    monkeypatch.setattr("llmgateway.relay_lane.BODY_TIMEOUT", 0.1)
    answer, _ = refused_upload(live.port, bob.token, "Content-Length: 1000000")
    assert b"408" in answer.split(b"\r\n")[0]
    assert b"request_timeout" in answer


def test_text_has_a_limit_of_its_own_and_images_are_no_text(bob, chat, settings):
    settings.MAX_TEXT_BYTES = 5000
    assert said(chat(bob, messages=[{"role": "user", "content": "x" * 5000}])) == (413, "request_too_large")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
    refused = chat(bob, messages=[{"role": "user", "content": [image]}])
    assert said(refused) == (400, "invalid_request_error")  # by the llama-server, whose model has no eyes
    assert "image input is not supported" in refused.json()["error"]["message"]


@pytest.mark.parametrize("text", ["data:" + "hello " * 1000, "data:image/png;base64," + "A" * 5000])
def test_text_that_looks_like_an_image_is_text(bob, chat, post, settings, text):
    settings.MAX_TEXT_BYTES = 5000
    assert said(chat(bob, messages=[{"role": "user", "content": text}])) == (413, "request_too_large")
    assert said(post("tokenize", bob, content=text)) == (413, "request_too_large")


def test_a_body_that_turns_out_too_large_is_refused_before_it_is_all_read(live, bob, small_bodies):
    part = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    answer, sent = refused_upload(live.port, bob.token, "Transfer-Encoding: chunked", part)
    assert b"413" in answer.split(b"\r\n")[0]
    assert sent < 5 * small_bodies


def test_a_body_of_just_the_limit_is_taken(bob, http, small_bodies):
    body = json.dumps({"messages": HI, "max_tokens": 1}).encode()
    response = http.post("/v1/chat/completions", headers=bob.headers, content=body.ljust(small_bodies))
    assert response.status_code == 200


def test_a_body_too_large_for_the_default_lane(http):
    response = http.post("/auth/token", content=b"x" * (settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1))
    assert said(response) == (413, "request_too_large")


def test_what_nobody_foresaw_is_a_500_that_tells_nothing(bob, chat, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr("proxy.pool.Pool.resolve", broken)
    response = chat(bob)
    assert said(response) == (500, "internal_error")
    assert "secret" not in response.text


def test_bearer_in_any_case_is_a_bearer(bob, http):
    headers = {"Authorization": bearer(bob.token)["Authorization"].replace("Bearer", "bearer")}
    assert http.get("/v1/models", headers=headers).status_code == 200

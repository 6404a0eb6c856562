"""Every endpoint, on real llama-servers: what it answers, and what it refuses."""

import httpx
import pytest

from proxy.endpoints import ENDPOINTS
from proxy.models import ModelAlias
from tests import fake_llama
from tests.cast import new_tier, person
from tests.conftest import MODEL
from tests.servers import PATIENCE, wait_until

pytestmark = pytest.mark.once

llama_refuses = fake_llama.sends(fake_llama.whole("400 Bad Request", {}))
HI = [{"role": "user", "content": "Say hello."}]
SHORT = {"temperature": 0, "max_tokens": 4}
BODIES = {  # the least that each endpoint wants
    "chat/completions": {"messages": HI, **SHORT},
    "completions": {"prompt": "Hello", **SHORT},
    "responses": {"input": "Say hello.", "temperature": 0, "max_output_tokens": 4},
    "messages": {"messages": HI, **SHORT},
    "messages/count_tokens": {"messages": HI},
    "embeddings": {"input": "Hello"},
    "rerank": {"query": "colour", "documents": ["red", "one hundred"]},
    "tokenize": {"content": "Hello world"},
    "detokenize": {"tokens": [19556, 905]},
}
STREAMED = ["chat/completions", "completions", "responses", "messages"]


def own(llama: str, path: str, **body) -> httpx.Response:
    """What the llama-server itself answers."""
    return httpx.post(f"{llama}/{path}", json=body, timeout=PATIENCE)


def test_every_endpoint_is_tried_here():
    assert set(BODIES) == {endpoint.url for endpoint in ENDPOINTS}
    assert set(STREAMED) == {endpoint.url for endpoint in ENDPOINTS if endpoint.reader}


@pytest.mark.parametrize("path", BODIES)
def test_it_answers(bob, post, served_by, llama, embedder, ranker, path):
    served_by({"embeddings": embedder, "rerank": ranker}.get(path, llama))
    response = post(path, bob, **BODIES[path])
    assert response.status_code == 200, response.text
    assert "x-dropped-params" not in response.headers
    assert response.headers["x-ratelimit-limit-requests"] == "1000"


@pytest.mark.parametrize("path", BODIES)
def test_it_refuses_an_empty_body(bob, post, path):
    response = post(path, bob)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "missing_required_parameter")
    assert error["param"] in BODIES[path]


@pytest.mark.parametrize("path", BODIES)
def test_what_an_openai_client_sends_beside_does_not_fail(bob, post, served_by, llama, embedder, ranker, path):
    served_by({"embeddings": embedder, "rerank": ranker}.get(path, llama))
    response = post(path, bob, store=True, metadata={"a": "b"}, service_tier="auto", user="x", **BODIES[path])
    assert response.status_code == 200, response.text
    assert response.headers["x-dropped-params"] == "store, metadata, service_tier, user"


@pytest.mark.parametrize("path", BODIES)
def test_it_asks_for_a_token(http, path):
    response = http.post(f"/v1/{path}", json=BODIES[path])
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["embeddings", "rerank"])
def test_what_a_llama_server_cannot_do_is_said(bob, post, path):
    response = post(path, bob, **BODIES[path])
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request_error")
    assert "This model's llama-server cannot do that" in response.json()["error"]["message"]


# -- completions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "Hello"},
        {"prompt": ["Hello", "The sky is"]},
        {"prompt": [19556, 905]},
        {"prompt": [[19556], [19556, 905]], "n": 2},
        {"prompt": "Hello", "logprobs": 2},
        {"prompt": "Hello", "n": 2},
    ],
)
def test_completions_are_the_llama_servers_own(bob, post, llama, body):
    ours = post("completions", bob, **SHORT, **body).json()
    theirs = own(llama, "v1/completions", **SHORT, **body).json()
    assert ours["choices"] == theirs["choices"]
    assert ours["usage"]["completion_tokens"] == 4 * len(theirs["choices"])


def test_every_prompt_is_billed(bob, post):
    both = post("completions", bob, prompt=["Hello", "The sky is"], **SHORT).json()["usage"]
    assert both == {"prompt_tokens": 4, "completion_tokens": 8, "total_tokens": 12}


@pytest.mark.parametrize("body", [{"n": 9}, {"prompt": ["x"] * 9}, {"prompt": ["x"] * 3, "n": 3}])
def test_more_answers_than_slots_are_not_asked_for(bob, post, body):
    response = post("completions", bob, **{"prompt": "x", **body})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")


@pytest.mark.parametrize("prompt", [[], [[]], {}, 5, [["a"]], ["a", 1], [-1]])
def test_a_prompt_of_another_kind(bob, post, prompt):
    assert post("completions", bob, prompt=prompt).json()["error"]["param"] == "prompt"


# -- responses -------------------------------------------------------------------------------------------------------


def test_a_response_is_whole(bob, post):
    response = post("responses", bob, input="Say hello.", max_output_tokens=4, temperature=0, instructions="Hm.").json()
    assert (response["object"], response["status"], response["model"]) == ("response", "incomplete", MODEL)
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["content"][0]["type"] == "output_text"
    assert (response["max_output_tokens"], response["instructions"]) == (4, "Hm.")
    assert response["usage"]["output_tokens"] == 4


def test_a_conversation_in_items_goes_on(bob, post):
    items = [
        {"role": "user", "content": "Say hello."},
        {"role": "assistant", "content": "Hello!"},
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "3"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And again."}]},
    ]
    assert post("responses", bob, input=items, max_output_tokens=4).status_code == 200


def test_a_response_keeps_to_a_schema(bob, post):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    form = {"format": {"type": "json_schema", "name": "person", "schema": schema}}
    answer = post("responses", bob, input="Ava is 25.", text=form, max_output_tokens=40, temperature=0).json()
    assert '"age"' in answer["output"][0]["content"][0]["text"]


@pytest.mark.parametrize(
    "body",
    [
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"conversation": "conv_1"},
        {"prompt": {"id": "p"}},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"type": ["message"], "role": "user", "content": "x"}]},
        {"input": [{"type": {"a": 1}, "role": "user", "content": "x"}]},
    ],
)
def test_what_needs_a_memory_is_refused(bob, post, body):
    response = post("responses", bob, **{"input": "Hi", **body})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert response.json()["error"]["param"].startswith(next(iter(body)))


@pytest.mark.parametrize(
    "body",
    [
        {"text": {"format": True}},
        {"text": {"format": {"type": "json_schema", "schema": 5}}},
        {"reasoning": {"effort": 5}},
        {"tool_choice": "bogus"},
    ],
)
def test_an_option_of_a_response_that_is_not_as_it_should_be(bob, post, body):
    error = post("responses", bob, input="Hi", **body).json()["error"]
    assert error["code"] == "invalid_value"
    assert error["param"].startswith(next(iter(body)))


PICTURE = [{"type": "input_image", "image_url": "http://10.0.0.1/x"}]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call_output", "call_id": "c", "output": "x", "role": "user", "content": PICTURE},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "", "role": "user", "content": PICTURE},
    ],
)
def test_an_item_holds_no_more_than_its_type_has(bob, post, fake, item):
    nowhere = fake(llama_refuses)
    post("responses", bob, input=[item])
    assert set(nowhere.seen[0]["input"][0]) <= {"type", "call_id", "name", "arguments", "output"}


def test_a_message_holds_no_more_than_a_message_has(bob, post, fake):
    nowhere = fake(llama_refuses)
    post("chat/completions", bob, messages=[{"role": "user", "content": "x", "image_url": "http://10.0.0.1/x"}])
    post("messages", bob, messages=[{"role": "user", "content": "x", "image_url": "http://10.0.0.1/x"}])
    assert [body["messages"] for body in nowhere.seen] == [[{"role": "user", "content": "x"}]] * 2


@pytest.mark.parametrize(
    "item",
    [
        {"role": "wizard", "content": "x"},
        {"role": "user"},
        {"type": "function_call", "role": "assistant"},
        {"role": "user", "content": [{"type": "input_image", "image_url": "http://10.0.0.1/x"}]},
        {"type": "function_call", "name": "f"},
        {"type": "function_call_output", "call_id": "c"},
    ],
)
def test_an_item_that_is_not_as_it_should_be(bob, post, item):
    response = post("responses", bob, input=[item])
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_value")


# -- messages --------------------------------------------------------------------------------------------------------


def test_a_message_is_the_llama_servers_own(bob, post, llama):
    ours = post("messages", bob, **BODIES["messages"]).json()
    theirs = own(llama, "v1/messages", **BODIES["messages"]).json()
    assert ours["content"] == theirs["content"]
    assert ours["stop_reason"] == theirs["stop_reason"] == "max_tokens"
    assert ours["id"].startswith("msg_")
    assert ours["usage"] == {"input_tokens": 33, "output_tokens": 4}


EMOJI = [{"role": "user", "content": "Repeat: \U0001f31f"}]  # the answer's first token is a part of a character


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_begins_with_half_a_character_is_as_complete_as_others(bob, post, llama, stream):
    body = {"messages": EMOJI, "temperature": 0, "max_tokens": 8}
    assert not own(llama, "v1/messages", **body, stream=True).text.startswith("event: message_start")
    theirs = own(llama, "v1/messages", **body).json()["usage"]
    ours = post("messages", bob, **body, stream=stream)
    if stream:
        assert ours.text.startswith("event: message_start")
    counted = theirs["input_tokens"] + theirs["cache_read_input_tokens"]
    assert f'"input_tokens":{counted},' in ours.text
    chat = post("chat/completions", bob, **body, stream=True).text
    assert chat.count('"role":"assistant"') == 1


def test_the_tokens_of_a_message_are_counted(bob, post):
    used = post("messages", bob, system="Be kind.", **BODIES["messages"]).json()["usage"]["input_tokens"]
    assert post("messages/count_tokens", bob, system="Be kind.", messages=HI).json() == {"input_tokens": used}


@pytest.mark.parametrize("header", ["x-api-key", "Authorization"])
def test_anthropics_header_is_taken(bob, http, header):
    token = bob.token if header == "x-api-key" else f"Bearer {bob.token}"
    assert http.post("/v1/messages", headers={header: token}, json=BODIES["messages"]).status_code == 200
    assert http.post("/v1/chat/completions", headers={"x-api-key": bob.token}, json={}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "body", "status", "kind"),
    [
        ({}, {}, 400, "invalid_request_error"),
        ({}, {"messages": HI, "model": "gpt-99"}, 404, "not_found_error"),
        ({"Authorization": "Bearer no"}, {}, 401, "authentication_error"),
        ({"Authorization": "", "x-api-key": "no"}, {}, 401, "authentication_error"),
    ],
)
def test_errors_are_in_anthropics_envelope(bob, http, headers, body, status, kind):
    response = http.post("/v1/messages", headers={**bob.headers, **headers}, json=body)
    said = response.json()
    assert (response.status_code, said["type"], said["error"]["type"]) == (status, "error", kind)
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "wizard", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://10.0.0.1/x"}}]},
        {"role": "user", "content": [{"type": "tool_result", "content": [{"data": "x"}]}]},
        {"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": "x"}]},
    ],
)
def test_a_message_that_is_not_as_it_should_be(bob, post, message):
    assert post("messages", bob, messages=[message]).json()["error"]["code"] == "invalid_value"


def test_tools_that_may_not_be_used_are_not_offered(bob, post, fake):
    tool = {"name": "add", "input_schema": {"type": "object"}}
    nowhere = fake(llama_refuses)
    post("messages", bob, messages=HI, tools=[tool], tool_choice={"type": "none"})
    assert "tools" not in nowhere.seen[0]


# -- embeddings, rerank, tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Hello", ["Hello", "world"], [19556, 905], [[19556], [905]]])
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_are_the_llama_servers_own(bob, post, served_by, embedder, text, encoding):
    served_by(embedder)
    ours = post("embeddings", bob, input=text, encoding_format=encoding).json()
    theirs = own(embedder, "v1/embeddings", input=text, encoding_format=encoding, model=MODEL).json()
    assert ours == theirs
    assert ours["model"] == MODEL


@pytest.mark.parametrize("text", ["", [], [""], None, 5, [["a"]], ["x"] * 2049])
def test_embeddings_of_nothing_are_the_callers_mistake(bob, post, served_by, embedder, text):
    served_by(embedder)
    assert post("embeddings", bob, input=text).status_code == 400


def test_an_input_that_is_too_long_to_embed_is_the_callers_mistake(bob, post, served_by, embedder):
    served_by(embedder)
    assert post("embeddings", bob, input="word " * 1000).status_code == 400


@pytest.mark.parametrize("documents", [["red", "one hundred"], [{"text": "red"}, {"text": "one hundred"}]])
def test_documents_are_ranked_as_the_llama_server_does(bob, post, served_by, ranker, documents):
    served_by(ranker)
    ours = post("rerank", bob, query="colour", documents=documents, top_n=1).json()
    theirs = own(ranker, "v1/rerank", query="colour", documents=["red", "one hundred"], top_n=1, model=MODEL).json()
    assert ours == theirs
    assert len(ours["results"]) == 1


def test_text_becomes_tokens_and_tokens_text(bob, post):
    tokens = post("tokenize", bob, content="Hello wörld 😀").json()["tokens"]
    assert post("detokenize", bob, tokens=tokens).json() == {"content": "Hello wörld 😀"}


@pytest.mark.parametrize("tokens", [[99_999_999], [-1], "x", [1.5], [2**40]])
def test_a_token_that_is_none(bob, post, tokens):
    response = post("detokenize", bob, tokens=tokens)
    assert response.status_code == 400
    assert "vector" not in response.text


# -- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def alias(live, http, bob):
    """Another name for the model, known to the gateway."""
    row = ModelAlias.objects.create(name="acme/gpt-4o", model=MODEL)
    listed = lambda: [model["id"] for model in http.get("/v1/models", headers=bob.headers).json()["data"]]  # noqa: E731
    wait_until(lambda: row.name in listed(), "the alias is known")
    yield row.name
    row.delete()
    wait_until(lambda: row.name not in listed(), "the alias is forgotten")


def test_a_model_answers_to_an_alias(alias, bob, post, http):
    response = post("chat/completions", bob, **BODIES["chat/completions"], model=alias)
    assert response.json()["model"] == MODEL
    assert http.get(f"/v1/models/{alias}", headers=bob.headers).json()["id"] == alias


def test_a_model_is_told_of_by_its_name(bob, http):
    told = http.get(f"/v1/models/{MODEL}", headers=bob.headers).json()
    assert (told["id"], told["object"]) == (MODEL, "model")
    missing = http.get("/v1/models/gpt-99", headers=bob.headers)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_a_model_that_a_tier_may_not_use_is_none_for_it(live, alias, http):
    erin = person("erin", new_tier(allowed_models=["another"]))
    assert http.get("/v1/models", headers=erin.headers).json()["data"] == []
    assert http.get(f"/v1/models/{alias}", headers=erin.headers).status_code == 404


# -- what is not there -----------------------------------------------------------------------------------------------

INSIDE = [
    "slots", "slots/0?action=erase", "props", "lora-adapters", "completion", "completions", "infill",
    "apply-template", "tokenize", "v1/slots", "v1/props", "v1/stream?conv_id=x", "v1/streams/lookup", "v1/infill",
    "v1/chat/completions/control", "v1/chat/completions/input_tokens", "v1/reranking", "v1/lora-adapters",
    "v1/audio/transcriptions", "models/load", "models/unload", "tools", "cors-proxy", "v1/health", "v1//models/..",
    "v1/%2e%2e/slots", "v1/chat/completions/", "v1/chat%2Fcompletions/../../slots", "V1/models",
]  # fmt: skip


@pytest.mark.parametrize("path", INSIDE)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_else_a_llama_server_can_do_is_out_of_reach(bob, live, fake, method, path):
    nowhere = fake(llama_refuses)
    response = httpx.request(
        method, f"{live.url}/{path}", headers=bob.headers, json=BODIES["chat/completions"], timeout=PATIENCE
    )
    assert response.status_code in (403, 404, 405), response.text
    assert not nowhere.seen
    assert "llama" not in response.headers.get("server", "")

"""The bound of a prompt's tokens, against what a real llama-server counts."""

import json

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import bounds
from proxy.calls import Call
from proxy.errors import InvalidRequest
from proxy.parts import text_size
from proxy.schemas import CHAT, COMPLETION, EMBEDDING, MESSAGE, RERANK, RESPONSE, TOKENIZE
from tests.cast import new_tier, person
from tests.conftest import MODEL
from tests.effort import effort
from tests.servers import PATIENCE

pytestmark = pytest.mark.once

texts = st.one_of(st.text(max_size=300), st.text("aé漢🙂👩‍👩‍👧<|im_end|>\n\t ", max_size=300))
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
FUNCTION = {"name": "weather", "description": "Tells what it is like outside.", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}


def counted(llama, path, **body):
    response = httpx.post(f"{llama}{path}", json=body, timeout=PATIENCE)
    assert response.status_code == 200, response.text
    return response.json()


@settings(max_examples=effort(150), deadline=None)
@given(turns=turns, system=texts)
def test_no_chat_has_more_tokens(llama, turns, system):
    messages = [{"role": "system", "content": system}] if system else []
    for asked, answered in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    tokens = counted(llama, "/v1/chat/completions/input_tokens", messages=messages)["input_tokens"]
    assert tokens <= bounds.of_chat({"messages": messages})


@settings(max_examples=effort(150), deadline=None)
@given(text=texts)
def test_no_text_has_more_tokens(llama, text):
    tokens = counted(llama, "/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
    assert len(tokens) <= bounds.of_texts(text)


@settings(max_examples=effort(150), deadline=None)
@given(text=st.one_of(texts, st.text("\0\1\n\"\\\\<>&'é漢🙂", max_size=200)), indent=st.sampled_from([None, 4]))
def test_no_tools_have_more_tokens_as_json(llama, text, indent):
    """The test model's own template shows no tools, so they are written here as others do."""
    tools = [{**TOOL, "function": {**FUNCTION, "description": text, text or "x": [1, {"enum": [text, 2]}]}}]
    for written in (json.dumps(tools, indent=indent), html_safe(json.dumps(tools, indent=indent))):
        assert len(counted(llama, "/tokenize", content=written)["tokens"]) <= bounds.of_json(tools)


def html_safe(written):
    for sign, code in {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"}.items():
        written = written.replace(sign, code)
    return written


def test_text_in_a_tool_is_no_picture():
    tool = {**TOOL, "function": {**FUNCTION, "x": {"type": "image_url", "image_url": "word " * 10_000}}}
    assert bounds.of_chat({"messages": [], "tools": [tool]}) > 50_000


def test_no_ranking_has_more_tokens(ranker):
    body = {"query": "the capital of France", "documents": ["Paris is", "漢字 🙂", "x" * 200]}
    assert counted(ranker, "/v1/rerank", model=MODEL, **body)["usage"]["total_tokens"] <= bounds.of_ranking(body)


def test_no_embedding_has_more_tokens(embedder):
    body = {"input": ["one", "漢字 🙂", "a"]}
    assert counted(embedder, "/v1/embeddings", model=MODEL, **body)["usage"]["prompt_tokens"] <= bounds.of_input(body)


def parse(schema, **body):
    return Call.parse(orjson.dumps(body), schema)


@pytest.mark.parametrize(
    ("schema", "body", "bound"),
    [
        (COMPLETION, {"prompt": "four"}, 8),
        (COMPLETION, {"prompt": [1, 2, 3]}, 7),
        (COMPLETION, {"prompt": ["four", [1, 2, 3]]}, 15),
        (EMBEDDING, {"input": ["four", "漢"]}, 15),
        (RERANK, {"query": "four", "documents": ["four", "four"]}, 32),
        (TOKENIZE, {"content": "x" * 1000}, 0),
    ],
)
def test_what_is_counted(schema, body, bound):
    assert parse(schema, **body).ask(None).prompt == bound


def test_a_picture_counts_as_one_however_large_its_data(llama):
    def picture(size):
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size}}
        return bounds.of_chat({"messages": [{"role": "user", "content": [image]}]})

    assert picture(10) == picture(1_000_000)
    assert picture(10) > bounds.PER_MEDIUM


def test_what_is_no_part_of_the_prompt_is_not_counted():
    hi = [{"role": "user", "content": "Hi"}]
    biased = parse(CHAT, messages=hi, logit_bias={str(n): 1 for n in range(500)}, grammar="root ::= " + "x" * 500)
    assert biased.ask(None).prompt == parse(CHAT, messages=hi).ask(None).prompt


PROMPTS = [
    (schema, name)
    for schema in (CHAT, RESPONSE, MESSAGE)
    for name, kind in schema.fields.items()
    if kind.check("x") and name not in ("model", "grammar", "stop")  # these are no part of a prompt
]


@pytest.mark.parametrize(("schema", "name"), PROMPTS, ids=lambda value: value if isinstance(value, str) else "")
def test_each_string_that_a_model_may_read_is_counted(schema, name):
    body = {"input" if schema is RESPONSE else "messages": [{"role": "user", "content": "Hi"}]}
    plain = parse(schema, **body).ask(None).prompt
    assert parse(schema, **{**body, name: "x" * 64}).ask(None).prompt >= (64 if name in body else plain + 64)


def test_the_effort_of_a_response_is_counted():
    efforts = [parse(RESPONSE, input="Hi", reasoning={"effort": "x" * size}).ask(None).prompt for size in (1, 64)]
    assert efforts[1] - efforts[0] == 63


# -- text that looks like a picture ------------------------------------------------------------------------------------

WORDS = st.text("ab\u00fc\u6f22", max_size=12)
MEDIA_KINDS = st.sampled_from(["image_url", "input_image", "image", "input_audio", "text", "input_text", "tool_result"])
DATA = st.just("data:image/png;base64," + "A" * 5000)
PAYLOADS = st.one_of(
    st.fixed_dictionaries({"url": DATA | WORDS}, optional={"text": WORDS}),
    st.fixed_dictionaries(
        {"data": DATA | WORDS, "type": st.sampled_from(["base64", "text"])}, optional={"text": WORDS}
    ),
    DATA,
    WORDS,
    st.lists(st.fixed_dictionaries({"type": MEDIA_KINDS, "text": WORDS}), max_size=2),
)
NAMES = st.sampled_from(["image_url", "source", "input_audio", "text", "content", "name", "title", "data", "input"])
PARTS = st.builds(lambda kind, fields: {**fields, "type": kind}, MEDIA_KINDS, st.dictionaries(NAMES, PAYLOADS))
MESSAGES = st.builds(
    lambda content, kind, beside: {**beside, "role": "user", "content": content, "type": kind},
    WORDS | st.lists(PARTS, max_size=3),
    MEDIA_KINDS | st.just("message"),
    st.dictionaries(NAMES.filter(lambda name: name not in ("content", "name")), PAYLOADS, max_size=2),
)
SCHEMAS = [(CHAT, "messages"), (MESSAGE, "messages"), (RESPONSE, "input")]
PLACES = ("image_url", "source", "input_audio")  # where a part has its data


def text_left(value, name="", kind=""):
    """Bytes of all strings in a sent body, but for the data of pictures and sounds."""
    if isinstance(value, str):
        is_data = kind in ("image_url", "input_image", "input_audio", "image") and name in ("url", "data", "image_url")
        return 0 if is_data else len(value.encode())
    if isinstance(value, dict):
        of_part = kind if name in PLACES else value.get("type", "")
        return sum(text_left(each, inner, of_part) for inner, each in value.items())
    return sum(text_left(each) for each in value) if isinstance(value, list) else 0


@settings(max_examples=effort(1000), deadline=None)
@given(endpoint=st.sampled_from(SCHEMAS), messages=st.lists(MESSAGES, min_size=1, max_size=3))
def test_all_text_that_is_sent_is_counted(endpoint, messages):
    schema, field = endpoint
    try:
        call = parse(schema, **{field: [*messages, {"role": "user", "content": "Hi"}]})
    except InvalidRequest:
        return
    left = text_left(orjson.loads(call.body("m"))[field])
    assert call.ask(None).prompt >= left
    assert text_size(call.sent) >= left


@pytest.mark.parametrize(
    ("endpoint", "disguise"),
    [
        (SCHEMAS[0], {"type": "image_url"}),
        (SCHEMAS[1], {"type": "image"}),
        (SCHEMAS[2], {"type": "message", "image_url": "data:x"}),
    ],
)
def test_a_message_with_the_type_of_a_picture_is_text(endpoint, disguise):
    schema, field = endpoint
    call = parse(schema, **{field: [{"role": "user", "content": "x" * 50_000, **disguise}]})
    assert call.ask(None).prompt > 50_000
    assert text_size(call.sent) > 50_000


@pytest.mark.parametrize("url", ["chat/completions", "messages"])
def test_a_disguised_text_is_refused_as_any_other(bob, post, url):
    message = {"role": "user", "content": "x" * 3_000_000, "type": "image" if url == "messages" else "image_url"}
    response = post(url, bob, messages=[message], max_tokens=1)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_text_in_the_shape_of_data_is_refused_where_it_is_none(bob, post):
    """Before a body is parsed, whatever looks like data is taken for a picture's."""
    tool = {"type": "function", "function": {"name": "f", "x": {"type": "image", "data": "x" * 3_000_000}}}
    response = post("chat/completions", bob, messages=[{"role": "user", "content": "Hi"}], tools=[tool], max_tokens=1)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_notes_are_text_as_any_other(bob, post, settings):
    settings.MAX_TEXT_BYTES = 20_000
    files = [{"type": "file"}] * 1000
    response = post("chat/completions", bob, messages=[{"role": "user", "content": files}], max_tokens=1)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_a_disguised_text_does_not_fit_a_quota(live, post):
    tier = new_tier()
    tier.quotas.create(metric="tokens", window="minute", limit=100_000)
    message = {"role": "user", "content": "x " * 100_000, "type": "image_url"}
    response = post("chat/completions", person("mallory", tier), messages=[message], max_tokens=1)
    assert response.status_code == 400
    assert response.json()["error"]["code"] in ("request_exceeds_quota", "context_length_exceeded")

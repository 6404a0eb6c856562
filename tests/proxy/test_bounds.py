"""The bound of a prompt's tokens, against what a real llama-server counts."""

import json

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import bounds
from proxy.calls import Call
from proxy.schemas import CHAT, COMPLETION, EMBEDDING, RERANK, TOKENIZE
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

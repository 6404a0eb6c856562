"""Responses of a model that reasons: a stream that OpenAI's clients can put together, and thoughts that come back."""

import pytest
from openai import OpenAI

from proxy.calls import Call
from proxy.endpoints import ENDPOINTS
from proxy.events import EventSplitter, read
from proxy.readers import Asked
from tests import fake_llama as llama
from tests.servers import llama_server

pytestmark = pytest.mark.once

ASKED = {"model": "smollm2-135m", "input": "Say hello.", "max_output_tokens": 6, "temperature": 0}
THINKING = """
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A real llama-server whose model begins each answer with its thoughts."""
    template = tmp_path_factory.mktemp("template") / "thinking.jinja"
    template.write_text(THINKING)
    with llama_server(0, "--template", str(template)) as url:
        yield url


@pytest.fixture
def client(live, bob):
    with OpenAI(base_url=f"{live.url}/v1", api_key=bob.token, max_retries=0, timeout=120) as client:
        yield client


def check_grammar(events):
    """Every item and part is announced before anything of it comes, and ends after."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    items, parts = {}, {}
    for event in events:
        kind, place = event["type"].removeprefix("response."), event.get("output_index")
        part = (place, event.get("content_index"))
        match kind:
            case "output_item.added":
                assert place == len(items)
                items[place] = event["item"]["id"]
            case "content_part.added":
                assert part not in parts
                parts[part] = event["part"]["type"]
            case "output_item.done":
                assert items.pop(place) == event["item"]["id"]
                assert not [each for each in parts if each[0] == place]
                items[place] = None
            case "content_part.done":
                assert parts.pop(part) == event["part"]["type"]
            case _ if "content_index" in event:
                assert parts[part] == kind.split(".")[0]
                assert items[place] == event["item_id"]
    assert not parts
    assert set(items.values()) <= {None}


def test_a_model_that_reasons_streams_its_thoughts_in_a_part(client, served_by, thinker):
    served_by(thinker)
    with client.responses.stream(**ASKED) as stream:
        events = [event.to_dict(warnings=False) for event in stream]
    check_grammar(events)
    thoughts = "".join(event["delta"] for event in events if event["type"] == "response.reasoning_text.delta")
    (ended,) = [event["text"] for event in events if event["type"] == "response.reasoning_text.done"]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == thoughts == ended != ""


def test_thoughts_of_earlier_turns_are_read_by_the_model(client, served_by, thinker):
    served_by(thinker)
    thought = {"type": "reasoning", "id": "r", "summary": []}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo"},
        {"role": "user", "content": "Hi"},
    ]

    def tokens(**more):
        asked = {**ASKED, "max_output_tokens": 1, "input": [turns[0], {**thought, **more}, *turns[1:]]}
        return client.responses.create(**asked).usage.input_tokens

    assert tokens(content=[{"type": "reasoning_text", "text": "They greet me."}]) > tokens()


ITEM = {"id": "rs_1", "summary": [], "type": "reasoning", "encrypted_content": ""}
SAID = {"id": "msg_1", "type": "message", "role": "assistant"}
CALLED = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f"}
THOUGHT, TEXT = {"type": "reasoning_text", "text": "Hm"}, {"type": "output_text", "text": "Yo"}
ENDED = {"id": "resp_1", "object": "response", "status": "completed", "model": "m"}
USAGE = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7, "input_tokens_details": {"cached_tokens": 0}}
DONE = [{**ITEM, "content": [THOUGHT]}, {**SAID, "content": [TEXT]}, {**CALLED, "arguments": "{}"}]
STREAM = [  # as llama-server b11549 sends it: what was added ends only after the last token
    ("response.created", {"response": {"id": "resp_1", "object": "response", "status": "in_progress"}}),
    ("response.output_item.added", {"item": {**ITEM, "content": [], "status": "in_progress"}}),
    ("response.reasoning_text.delta", {"delta": "H", "item_id": "rs_1"}),
    ("response.reasoning_text.delta", {"delta": "m", "item_id": "rs_1"}),
    ("response.output_item.added", {"item": {**SAID, "content": [], "status": "in_progress"}}),
    ("response.content_part.added", {"item_id": "msg_1", "part": {**TEXT, "text": ""}}),
    ("response.output_text.delta", {"delta": "Yo", "item_id": "msg_1"}),
    ("response.output_item.added", {"item": {**CALLED, "arguments": "", "status": "in_progress"}}),
    ("response.function_call_arguments.delta", {"delta": "{}", "item_id": "fc_1"}),
    ("response.output_item.done", {"item": DONE[0]}),
    ("response.output_text.done", {"item_id": "msg_1", "text": "Yo"}),
    ("response.content_part.done", {"item_id": "msg_1", "part": TEXT}),
    ("response.output_item.done", {"item": DONE[1]}),
    ("response.output_item.done", {"item": DONE[2]}),
    ("response.completed", {"response": {**ENDED, "output": DONE, "usage": USAGE}}),
]


def test_thoughts_text_and_a_call_come_in_openais_grammar(client, fake):
    fake(llama.sends(llama.STREAM_HEAD, *(llama.named(kind, **told) for kind, told in STREAM), b"0\r\n\r\n"))
    with client.responses.stream(**ASKED) as stream:
        events = [event.to_dict(warnings=False) for event in stream]
    check_grammar(events)
    (ended,) = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert (ended["item_id"], ended["arguments"], ended["name"]) == ("fc_1", "{}", "f")


def test_an_answer_from_the_cache_comes_in_the_same_grammar():
    endpoint = next(each for each in ENDPOINTS if each.name == "responses")
    asked = Asked(Call.parse(b'{"input":"Hi","stream":true}', endpoint.schema), "m", 9)
    kept = endpoint.replay.kept({**ENDED, "output": DONE, "usage": USAGE})
    told = EventSplitter().feed(endpoint.replay.stream(kept, asked))
    check_grammar([read(event) for event in told])
    reader = endpoint.reader(asked)  # and one that has all of its events gets no more
    assert len(EventSplitter().feed(b"".join(map(reader.pass_on, told)))) == len(told)

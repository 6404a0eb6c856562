"""Kinds of parts, items and tools that a llama-server does not know: a history that holds one is answered."""

import base64
import time

import orjson
import pytest

from proxy.calls import Call
from proxy.endpoints import ENDPOINTS
from proxy.errors import InvalidRequest, InvalidValue, UnsupportedParameter

pytestmark = pytest.mark.once

SCHEMAS = {each.url: each.schema for each in ENDPOINTS}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
DATA = f"data:image/png;base64,{PIXEL}"
REMOTE = "http://10.0.0.1/cat.png"
HI = {"role": "user", "content": "hi"}
YO = {"role": "assistant", "content": "yo"}
USE = {"type": "tool_use", "id": "t1", "name": "now", "input": {}}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}


def call(url, **body):
    return Call.parse(orjson.dumps(body), SCHEMAS[url])


def texts_of(content):
    """The texts of a spelled content."""
    return [content] if isinstance(content, str) else [part.get("text") for part in content]


def of_user(kind, url="messages", field="messages", **part):
    """The texts that become of a part in an earlier message of a user, and the path that the caller is told."""
    asked = call(url, **{field: [{"role": "user", "content": [{"type": kind, **part}]}, YO, HI]})
    return texts_of(asked.sent[field][0]["content"]), asked.dropped


def of_result(*parts):
    """The content that becomes of the result of a tool, and the paths that the caller is told."""
    result = {"type": "tool_result", "tool_use_id": "t1", "content": list(parts)}
    asked = call(
        "messages", messages=[HI, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [result]}]
    )
    return asked.sent["messages"][2]["content"][0]["content"], asked.dropped


# -- what becomes of each kind ---------------------------------------------------------------------------------------

HELD = [
    ("document", {"source": {"type": "text", "data": "hello"}, "title": "a.txt"}, "a.txt\nhello"),
    ("document", {"source": {"type": "content", "content": [{"type": "text", "text": "hello"}]}}, "hello"),
    ("document", {"source": PDF, "title": "a.pdf"}, "[A document that cannot be shown here: a.pdf]"),
    ("document", {"source": PDF}, "[A document that cannot be shown here: application/pdf]"),
    ("document", {"source": {"type": "url", "url": REMOTE}}, f"[A document that cannot be shown here: {REMOTE}]"),
    (
        "search_result",
        {"source": "http://x", "title": "t", "content": [{"type": "text", "text": "u"}]},
        "t\nhttp://x\nu",
    ),
    ("tool_reference", {"tool_name": "now"}, "tool now"),
    ("refusal", {"refusal": "no"}, "no"),
    ("compaction", {"content": "It was about cats."}, "It was about cats."),
    ("connector_text", {"connector_text": "hello", "signature": "x"}, "hello"),
    ("kind_of_2031", {"text": "hello"}, "hello"),
    ("resource", {"resource": {"uri": "file:///a", "text": "hello"}}, "file:///a\nhello"),
    ("video_url", {"video_url": {"url": "http://x"}}, "http://x"),
    (
        "web_search_tool_result",
        {"content": [{"type": "web_search_result", "title": "t", "url": "http://x", "encrypted_content": "Eq"}]},
        "t\nhttp://x",
    ),
    (
        "web_fetch_tool_result",
        {
            "content": {
                "type": "web_fetch_result",
                "url": "http://x",
                "content": {"type": "document", "source": {"type": "text", "data": "hello"}},
            }
        },
        "http://x\nhello",
    ),
    (
        "bash_code_execution_tool_result",
        {"content": {"type": "bash_code_execution_result", "stdout": "a", "stderr": "b", "return_code": 0}},
        "a\nb",
    ),
    (
        "tool_search_tool_result",
        {"content": {"type": "x", "tool_references": [{"type": "tool_reference", "tool_name": "now"}]}},
        "tool now",
    ),
]


@pytest.mark.parametrize(("kind", "part", "text"), HELD)
def test_a_part_becomes_the_text_that_it_holds(kind, part, text):
    assert of_user(kind, **part) == ([text], (f"messages[].content[].{kind}",))
    assert of_result({"type": kind, **part}) == (
        [{"type": "text", "text": text}],
        (f"messages[].content[].content[].{kind}",),
    )


@pytest.mark.parametrize("kind", ["redacted_thinking", "server_tool_use", "container_upload", "kind_of_2031"])
def test_a_part_without_text_is_dropped_and_told(kind):
    content = [{"type": "text", "text": "hi"}, {"type": kind, "id": "x", "data": "Eq", "name": "f", "input": {"a": 1}}]
    asked = call("messages", messages=[{"role": "user", "content": content}])
    assert asked.sent["messages"] == [{"role": "user", "content": content[:1]}]
    assert asked.dropped == (f"messages[].content[].{kind}",)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ({"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}, None),
        ({"filename": "a.md", "file_data": "data:text/markdown;base64,aGVsbG8="}, "a.md\nhello"),
        ({"filename": "a.md", "file_data": "data:text/markdown;base64,/w=="}, None),
        ({"file_id": "file_1", "filename": "a.pdf"}, None),
    ],
)
def test_a_file_is_its_text_or_its_name(file, text):
    expected = [text or f"[A document that cannot be shown here: {file['filename']}]"]
    assert of_user("input_file", "responses", "input", **file)[0] == expected
    assert of_user("file", "chat/completions", file=file)[0] == expected


def test_a_message_that_loses_all_its_parts_keeps_its_turn():
    lost = [{"type": "container_upload", "file_id": "f"}, {"type": "video", "url": "data:video/mp4;base64,AA"}]
    thought = [{"type": "redacted_thinking", "data": "Eq"}]
    messages = [{"role": "user", "content": lost}, {"role": "assistant", "content": thought}, HI]
    sent = call("messages", messages=messages).sent["messages"]
    assert [each["role"] for each in sent] == ["user", "assistant", "user"]
    assert sent[0]["content"] == "[Content that cannot be shown here: container_upload, video]"
    assert sent[1]["content"] == ""


def test_a_conversation_of_which_nothing_is_left_is_refused():
    lost = {"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}
    with pytest.raises(InvalidValue, match="container_upload"):
        call("messages", messages=[lost], system="Be kind.")
    with pytest.raises(InvalidValue, match="web_search_call"):
        call("responses", input=[{"type": "web_search_call", "id": "ws"}])


def test_instructions_that_only_change_tools_are_left_out():
    change = {"role": "system", "content": [{"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}}]}
    asked = call("messages", messages=[HI, change])
    assert asked.sent["messages"] == [HI]
    assert asked.dropped == ("messages[].content[].tool_addition",)


def test_the_thoughts_of_a_chat_are_not_said():
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yo"}]
    sent = call("chat/completions", messages=[HI, {"role": "assistant", "content": content}, HI]).sent["messages"]
    assert sent[1]["content"] == content[1:]


# -- pictures --------------------------------------------------------------------------------------------------------


def test_the_output_of_a_function_may_be_a_picture():
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": DATA}]}
    call_item = {"type": "function_call", "call_id": "c", "name": "view_image", "arguments": "{}"}
    assert call("responses", input=[HI, call_item, output]).sent["input"][2] == output


REMOTES = [
    ("chat/completions", "messages", {"type": "image_url", "image_url": {"url": REMOTE}}),
    ("responses", "input", {"type": "input_image", "image_url": REMOTE}),
    ("messages", "messages", {"type": "image", "source": {"type": "url", "url": REMOTE}}),
]


@pytest.mark.parametrize(("url", "field", "part"), REMOTES)
def test_a_remote_picture_is_refused_where_it_is_asked_about(url, field, part):
    with pytest.raises(InvalidValue, match="fetches nothing") as caught:
        call(url, **{field: [HI, YO, {"role": "user", "content": [part]}]})
    assert caught.value.param == f"{field}[2].content[0]"


@pytest.mark.parametrize(("url", "field", "part"), REMOTES)
def test_a_remote_picture_of_an_earlier_turn_is_a_note(url, field, part):
    part = dict(part)
    assert of_user(part.pop("type"), url, field, **part)[0] == [f"[A picture that cannot be shown here: {REMOTE}]"]


AFTER = {
    "chat/completions": [[HI], [{"role": "system", "content": "Be kind."}], [YO], [HI, YO]],
    "responses": [
        [HI],
        [{"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}],
        [{"type": "compaction", "encrypted_content": "Eq"}],
    ],
    "messages": [[HI], [{"role": "system", "content": "Be kind."}], [YO]],
}


@pytest.mark.parametrize(("url", "field", "part"), REMOTES)
def test_a_remote_picture_that_is_asked_about_need_not_be_last(url, field, part):
    for after in AFTER[url]:
        with pytest.raises(InvalidValue, match="fetches nothing") as caught:
            call(url, **{field: [HI, YO, {"role": "user", "content": [part]}, *after]})
        assert caught.value.param == f"{field}[2].content[0]"


def test_a_remote_picture_before_the_call_of_a_tool_is_a_note():
    part = REMOTES[1][2]
    ran = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
    ]
    sent = call("responses", input=[{"role": "user", "content": [part]}, *ran]).sent["input"]
    assert texts_of(sent[0]["content"]) == [f"[A picture that cannot be shown here: {REMOTE}]"]


def test_a_remote_picture_that_a_tool_gave_is_a_note():
    content, _ = of_result({"type": "image", "source": {"type": "url", "url": REMOTE}})
    assert content == [{"type": "text", "text": f"[A picture that cannot be shown here: {REMOTE}]"}]


# -- items -----------------------------------------------------------------------------------------------------------


def spelled(*items):
    asked = call("responses", input=[HI, *items, HI])
    return [{**item, "type": item.get("type")} for item in asked.sent["input"][1:-1]], asked.dropped


def test_a_call_of_a_tool_with_free_text_stays_a_call():
    items, dropped = spelled(
        {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"},
    )
    assert items == [
        {"type": "function_call", "call_id": "c", "name": "apply_patch", "arguments": '{"input":"*** Begin"}'},
        {"type": "function_call_output", "call_id": "c", "output": "ok"},
    ]
    assert dropped == ("input[].custom_tool_call", "input[].custom_tool_call_output")


def test_a_call_of_the_shell_stays_a_call():
    action = {"type": "exec", "command": ["ls"]}
    items, _ = spelled(
        {"type": "local_shell_call", "id": "lsh_1", "call_id": "c", "action": action, "status": "completed"},
        {"type": "local_shell_call_output", "id": "lsh_1", "output": "a.txt"},
    )
    assert (items[0]["name"], orjson.loads(items[0]["arguments"])) == ("local_shell", {"action": action})
    assert items[0]["call_id"] == items[1]["call_id"] == "lsh_1"


def test_the_output_of_a_hosted_shell_is_its_text():
    items, _ = spelled(
        {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "a", "stderr": "b", "outcome": {}}]},
    )
    assert items[1] == {"type": "function_call_output", "call_id": "c", "output": "a\nb"}


SHOT = {"type": "computer_screenshot", "image_url": DATA}


@pytest.mark.parametrize(
    ("kind", "fields", "output"),
    [
        ("apply_patch", {"status": "completed"}, "status: completed"),
        ("apply_patch", {"status": "failed", "output": "No such file."}, "No such file.\nstatus: failed"),
        ("apply_patch", {}, "[apply_patch_call_output: cannot be shown here]"),
        ("shell", {"output": [{"stdout": "a", "outcome": {"type": "exit", "exit_code": 2}}]}, "a\nexit code: 2"),
        ("shell", {"output": [{"stdout": "", "outcome": {"type": "timeout"}}]}, "timeout"),
        ("computer", {"output": SHOT}, [{"type": "input_image", "image_url": DATA}]),
        (
            "computer",
            {"output": {**SHOT, "image_url": REMOTE}},
            [{"type": "input_text", "text": f"[A picture that cannot be shown here: {REMOTE}]"}],
        ),
        ("", {"output": "x"}, "x"),
    ],
)
def test_the_output_of_a_foreign_tool_says_how_it_ended(kind, fields, output):
    items, _ = spelled(
        {"type": f"{kind}_call", "call_id": "c"}, {"type": f"{kind}_call_output", "call_id": "c", **fields}
    )
    assert (items[0]["name"], items[1]["output"]) == (kind or "tool", output)


@pytest.mark.parametrize("outcome", [{"output": "sunny"}, {"output": None, "error": "sunny"}])
def test_a_call_that_holds_its_output_becomes_both(outcome):
    call_item = {"type": "mcp_call", "id": "m", "name": "weather", "server_label": "s", "arguments": "{}", **outcome}
    items, dropped = spelled(call_item)
    assert items == [
        {"type": "function_call", "call_id": "m", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "m", "output": "sunny"},
    ]
    assert dropped == ("input[].mcp_call",)


@pytest.mark.parametrize("role", ["user", "developer", None])
def test_an_unknown_item_with_text_becomes_a_message(role):
    items, dropped = spelled({"type": "kind_of_2031", "role": role, "text": "hello"})
    assert (items[0]["role"], texts_of(items[0]["content"])) == (role or "assistant", ["hello"])
    assert dropped == ("input[].kind_of_2031",)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": "x"}},
        {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "x"},
        {"type": "image_generation_call", "id": "ig", "result": PIXEL},
        {"type": "mcp_list_tools", "id": "m", "tools": []},
        {"type": "compaction", "encrypted_content": "Eq"},
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "Eq"},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "x"}], "content": []},
        {"type": "kind_of_2031"},
    ],
)
def test_an_item_that_stands_alone_is_dropped_and_told(item):
    assert spelled(item) == ([], (f"input[].{item['type']}",))


def test_thoughts_of_earlier_turns_are_passed_on():
    thoughts = [{"type": "reasoning_text", "text": "h"}, {"type": "reasoning_text", "text": "m"}]
    items, dropped = spelled({"type": "reasoning", "id": "r", "summary": [], "content": thoughts, "status": None})
    assert items == [{"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}]
    assert dropped == ()


def test_text_has_the_name_that_its_place_wants():
    parts = [{"type": kind, "text": "x"} for kind in ("text", "input_text", "output_text")]
    items, _ = spelled({"role": "user", "content": parts}, {"role": "assistant", "content": parts})
    assert [{part["type"] for part in item["content"]} for item in items] == [{"input_text"}, {"output_text"}]
    chat = call("chat/completions", messages=[{"role": "user", "content": parts}]).sent["messages"][0]
    assert {part["type"] for part in chat["content"]} == {"text"}


@pytest.mark.parametrize("field", ["previous_response_id", "conversation", "prompt"])
def test_a_memory_that_is_asked_for_says_what_to_do(field):
    with pytest.raises(UnsupportedParameter, match=r"nothing is stored here.*store: false"):
        call("responses", input="hi", **{field: "x"})
    with pytest.raises(UnsupportedParameter, match=r"nothing is stored here.*store: false"):
        call("responses", input=[HI, {"type": "item_reference", "id": "msg_1"}])


# -- spellings that a llama-server takes, or that older clients send ---------------------------------------------------


def chat_turn(**message):
    return call("chat/completions", messages=[HI, message, HI]).sent["messages"][1]


NOW = {"name": "now", "arguments": "{}"}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"refusal": "no", "content": None}, {"content": "no"}),
        ({"refusal": "no"}, {"content": "no"}),
        ({"refusal": None, "content": None}, {"content": ""}),
        ({}, {"content": ""}),
        ({"function_call": NOW}, {"tool_calls": [{"id": "call_now", "type": "function", "function": NOW}]}),
        (
            {"content": None, "tool_calls": [{"id": "c", "function": {"name": "now"}}]},
            {"content": None, "tool_calls": [{"id": "c", "type": "function", "function": NOW}]},
        ),
    ],
)
def test_an_assistant_of_a_chat_keeps_its_answer(fields, kept):
    assert chat_turn(role="assistant", **fields) == {"role": "assistant", **kept}


@pytest.mark.parametrize(("url", "field"), [(url, field) for url, field, _ in REMOTES])
def test_parts_may_be_strings_or_null_or_without_a_type(url, field):
    content = ["a", None, {"type": None, "text": "b"}, {"text": "c"}]
    asked = call(url, **{field: [{"role": "user", "content": content}]})
    assert texts_of(asked.sent[field][0]["content"]) == ["a", "b", "c"]
    assert asked.dropped == ()


@pytest.mark.parametrize(("url", "field"), [(url, field) for url, field, _ in REMOTES])
def test_an_assistant_may_have_said_nothing(url, field):
    said = call(url, **{field: [HI, {"role": "assistant", "content": None}, HI]}).sent[field][1]["content"]
    assert texts_of(said) == [""] if said else said == ""


def test_messages_may_leave_out_what_a_tool_was_given():
    parts = [{"type": "thinking", "thinking": None}, {**USE, "input": None}, {"type": "tool_use", "name": "now"}]
    sent = call("messages", messages=[HI, {"role": "assistant", "content": parts}, HI]).sent["messages"][1]
    assert [part["input"] for part in sent["content"]] == [{}, {}]


@pytest.mark.parametrize("content", [{"type": "text", "text": "a"}, ["a"]])
def test_the_result_of_a_tool_may_be_one_part_or_strings(content):
    result = {"type": "tool_result", "tool_use_id": "t1", "content": content}
    sent = call("messages", messages=[{"role": "user", "content": [result]}]).sent["messages"][0]
    assert sent["content"][0]["content"] == [{"type": "text", "text": "a"}]


# -- tools -----------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "chat/completions": {"type": "function", "function": {"name": "now"}},
    "responses": {"type": "function", "name": "now", "parameters": {"type": "object"}},
    "messages": {"name": "now", "input_schema": {"type": "object"}},
}
ASKS = {"chat/completions": {"messages": [HI]}, "responses": {"input": "hi"}, "messages": {"messages": [HI]}}
OTHERS = {
    "chat/completions": ["custom", "web_search", "kind_of_2031"],
    "responses": ["namespace", "web_search", "image_generation", "local_shell", "mcp", "tool_search", "custom"],
    "messages": ["web_search_20250305", "bash_20250124", "tool_search_tool_regex_20251119", "mcp_toolset"],
}
SKIPPED = [(url, kind) for url, kinds in OTHERS.items() for kind in kinds]


@pytest.mark.parametrize(("url", "kind"), SKIPPED)
def test_a_tool_that_is_not_a_function_is_skipped_and_told(url, kind):
    asked = call(url, **ASKS[url], tools=[{"type": kind, "name": "x"}, FUNCTIONS[url]], tool_choice={"type": "auto"})
    assert asked.sent["tools"] == [FUNCTIONS[url]]
    assert asked.dropped == (f"tools[].{kind}",)
    assert "x" not in call(url, **ASKS[url], tools=[{"type": kind, "name": "x"}]).sent["tools"]


@pytest.mark.parametrize("url", FUNCTIONS)
def test_a_tool_without_a_type_is_a_function(url):
    named = {name: value for name, value in FUNCTIONS[url].items() if name != "type"}
    asked = call(url, **ASKS[url], tools=[{"type": None, **named}])
    assert (len(asked.sent["tools"]), asked.dropped) == (1, ())


CHOICES = [
    ("chat/completions", {"type": "custom", "custom": {"name": "x"}}),
    ("chat/completions", {"type": "function", "function": {"name": "x"}}),
    ("responses", {"type": "web_search"}),
    ("responses", {"type": "custom", "name": "x"}),
    ("responses", {"type": "function", "name": "x"}),
    ("messages", {"type": "tool", "name": "x"}),
]


@pytest.mark.parametrize(("url", "choice"), CHOICES)
def test_a_choice_that_forces_a_skipped_tool_is_refused(url, choice):
    tools = [{"type": OTHERS[url][0], "name": "x"}, FUNCTIONS[url]]
    with pytest.raises(UnsupportedParameter, match="only functions") as caught:
        call(url, **ASKS[url], tools=tools, tool_choice=choice)
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize(("url", "choice"), [("chat/completions", "required"), ("messages", {"type": "any"})])
def test_some_tool_may_be_forced_while_one_is_left(url, choice):
    skipped = {"type": OTHERS[url][0], "name": "x"}
    assert call(url, **ASKS[url], tools=[skipped, FUNCTIONS[url]], tool_choice=choice).sent["tool_choice"] == choice
    with pytest.raises(UnsupportedParameter):
        call(url, **ASKS[url], tools=[skipped], tool_choice=choice)


@pytest.mark.parametrize(("url", "nested"), [("chat/completions", True), ("responses", False)])
def test_allowed_tools_that_are_all_skipped_are_refused(url, nested):
    def allowing(mode, *tools):
        listed = {"mode": mode, "tools": list(tools)}
        return {"type": "allowed_tools", **({"allowed_tools": listed} if nested else listed)}

    tools, gone = [{"type": OTHERS[url][1], "name": "x"}, FUNCTIONS[url]], {"type": OTHERS[url][1], "name": "x"}
    for mode in ("auto", "required"):
        with pytest.raises(UnsupportedParameter, match="only functions"):
            call(url, **ASKS[url], tools=tools, tool_choice=allowing(mode, gone))
        choice = allowing(mode, gone, FUNCTIONS[url])
        assert call(url, **ASKS[url], tools=tools, tool_choice=choice).sent["tool_choice"] == choice


@pytest.mark.parametrize("url", FUNCTIONS)
def test_nulls_of_tools_are_left_out(url):
    named = {**FUNCTIONS[url], "description": None, "strict": None}
    if "function" in named:
        named["function"] = {**named["function"], "description": None, "parameters": None}
    (sent,) = call(url, **ASKS[url], tools=[None, named]).sent["tools"]
    assert sent == FUNCTIONS[url]


# -- what the caller is told, and what a llama-server makes of it ------------------------------------------------------


def test_what_was_left_out_is_told_once_and_as_a_header_may(bob, post):
    kinds = ["document", "document", "a\r\nb: c", "x" * 200, *(f"k{n}" for n in range(200))]
    content = [{"type": "text", "text": "hi"}, *({"type": kind} for kind in kinds)]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1, "tools": [{"type": "mcp_toolset"}]}
    told = post("messages", bob, **body, metadata={}).headers["x-dropped-params"].split(", ")
    assert told[:2] == ["metadata", "messages[].content[].document"]
    assert len(told) == len(set(told)) == 20


def test_a_kind_with_odd_characters_is_told_in_a_safe_spelling(bob, post):
    content = [{"type": "text", "text": "hi"}, {"type": "a\r\nb: c"}]
    response = post("messages", bob, messages=[{"role": "user", "content": content}], max_tokens=1)
    assert response.headers["x-dropped-params"] == "messages[].content[].a__b__c"


def test_no_header_tells_of_nothing(bob, post):
    response = post("messages", bob, messages=[HI], max_tokens=1, ü=1)
    assert "x-dropped-params" not in response.headers


IMAGE_FILE = {"type": "base64", "media_type": "text/plain", "data": base64.b64encode(b"hello").decode()}
HISTORIES = {
    "chat/completions": {
        "messages": [
            {"role": "system", "content": [{"type": "document", "source": {"type": "text", "data": "x"}}]},
            {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]},
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "hm"}],
                "name": None,
                "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "image_url", "image_url": REMOTE}]},
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "user", "content": ["a", None, {"text": "b"}]},
            {"role": "assistant", "function_call": {"name": "f"}},
            {"role": "function", "name": "f", "content": "x"},
            {"role": "assistant"},
            HI,
        ],
        "tools": [{"type": "custom", "custom": {"name": "f"}}],
    },
    "responses": {
        "input": [
            {"role": "developer", "content": [{"type": "kind_of_2031"}]},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"role": "user", "content": [{"type": "input_image", "image_url": REMOTE}, {"type": "input_file"}]},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "local_shell_call", "id": "l", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
            {"type": "local_shell_call_output", "id": "c", "output": "a"},
            {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"type": "compaction", "encrypted_content": "Eq"},
            {"type": "mcp_call", "id": "m", "name": "f", "arguments": "{}", "output": "x"},
            {"type": "apply_patch_call", "call_id": "p", "operation": {"type": "delete_file", "path": "a"}},
            {"type": "apply_patch_call_output", "call_id": "p", "status": "completed"},
            {"type": "kind_of_2031", "text": "hello"},
            {"role": "assistant", "content": None},
            {"type": "function_call", "call_id": "d", "name": "f", "arguments": ""},
            {"type": "function_call_output", "call_id": "d", "output": [{"type": "input_file", "filename": "a"}]},
            HI,
        ],
        "tools": [{"type": "namespace", "name": "n", "tools": []}, {"type": "web_search"}],
    },
    "messages": {
        "system": [{"type": "kind_of_2031"}, {"type": "text", "text": "x"}],
        "messages": [
            {"role": "user", "content": [{"type": "document", "source": PDF}, {"type": "container_upload"}]},
            {"role": "system", "content": [{"type": "tool_removal", "tool": {}}]},
            {"role": "assistant", "content": [{"type": "server_tool_use", "id": "s", "name": "f", "input": {}}, USE]},
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "image", "source": IMAGE_FILE | {"type": "file"}}, {"type": "x"}],
                    }
                ],
            },
            {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "Eq"}]},
            HI,
            {"role": "assistant", "content": [{**USE, "input": None}, {"type": "thinking"}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": ["a"]}]},
            {"role": "assistant", "content": None},
            HI,
        ],
        "tools": [None, {"type": "web_search_20250305", "name": "web_search"}, {"type": None, **FUNCTIONS["messages"]}],
    },
}


@pytest.mark.parametrize("url", HISTORIES)
def test_a_history_of_all_kinds_is_answered(bob, post, url):
    limit = "max_output_tokens" if url == "responses" else "max_tokens"
    response = post(url, bob, **HISTORIES[url], **{limit: 1})
    assert response.status_code == 200, response.text
    assert "tools[]." in response.headers["x-dropped-params"]


def test_arguments_that_are_nested_too_deeply_are_refused():
    deep: object = "x"
    for _ in range(400):
        deep = [deep]
    items = [{"type": "x_call", "call_id": "c", "input": deep}, {"type": "x_output", "call_id": "c", "output": "x"}]
    with pytest.raises(InvalidRequest, match="too deeply"):
        Call.parse(b'{"input":' + repr(items).replace("'", '"').encode() + b"}", SCHEMAS["responses"])


def test_documents_inside_of_documents_are_read_to_a_depth():
    inner = {"type": "text", "text": "hello"}
    for _ in range(60):
        inner = {"type": "document", "source": {"type": "content", "content": [inner]}}
    ((text,), _) = of_user("document", source=inner["source"])
    assert text == "[A document that cannot be shown here]"


def least_time(work):
    """Seconds of this thread that the work takes at least."""
    taken = []
    for _ in range(3):
        begun = time.thread_time()
        work()
        taken.append(time.thread_time() - begun)
    return min(taken)


def test_a_body_of_unknown_parts_costs_little_more_than_its_json():
    part = b'{"type":"x","content":[' + b",".join([b"{}"] * 300_000) + b"]}"
    body = b'{"messages":[{"role":"user","content":[{"type":"text","text":"hi"},' + part + b"]}]}"
    json_alone = least_time(lambda: orjson.loads(body))
    assert least_time(lambda: Call.parse(body, SCHEMAS["chat/completions"])) < 60 * json_alone  # without end: 300 times

"""Chunks, folded."""

import pytest

from proxy.folding import ChatFold, TextFold

pytestmark = pytest.mark.once


def chunk(delta, index=0, finish=None, **fields):
    return {
        "id": "x",
        "created": 1,
        "model": "m",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
        **fields,
    }


def folded(*chunks, fold=None):
    fold = fold or ChatFold()
    for each in chunks:
        fold.add(each)
    return fold


def test_text_is_joined():
    fold = folded(
        chunk({"role": "assistant", "content": None}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}, finish="stop"),
    )
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    assert fold.answer["choices"] == [choice]
    assert (fold.answer["id"], fold.answer["object"]) == ("x", "chat.completion")


def test_reasoning_is_kept_apart_from_content():
    fold = folded(chunk({"reasoning_content": "Hm"}), chunk({"reasoning_content": "m."}), chunk({"content": "Yes"}))
    message = fold.answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hmm.", "Yes")


def test_tool_calls_come_in_parts():
    parts = [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "add", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x":'}},
        {"index": 1, "id": "b", "function": {"name": "sub", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": "1}"}},
    ]
    calls = folded(*(chunk({"tool_calls": [part]}) for part in parts)).answer["choices"][0]["message"]["tool_calls"]
    assert [call["id"] for call in calls] == ["a", "b"]
    assert calls[0]["function"] == {"name": "add", "arguments": '{"x":1}'}


def test_choices_are_told_apart_and_sorted():
    fold = folded(chunk({"content": "B"}, index=1), chunk({"content": "A"}, index=0))
    assert [choice["message"]["content"] for choice in fold.answer["choices"]] == ["A", "B"]


def test_logprobs_are_joined():
    fold = folded(
        *[
            chunk({}, logprobs=None) | {"choices": [{"index": 0, "delta": {}, "logprobs": {"content": [n]}}]}
            for n in (1, 2)
        ]
    )
    assert fold.answer["choices"][0]["logprobs"] == {"content": [1, 2]}


@pytest.mark.parametrize(("chunks", "finished"), [([], 0), ([chunk({})], 0), ([chunk({}, finish="stop")], 1)])
def test_it_knows_how_many_choices_have_ended(chunks, finished):
    assert folded(*chunks).finished == finished


def test_a_completion_is_text():
    parts = [{"text": text, "index": 0, "logprobs": None, "finish_reason": None} for text in ("Hel", "lo")]
    answer = folded(*({"id": "x", "choices": [part]} for part in parts), fold=TextFold()).answer
    assert answer["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": None}]
    assert answer["object"] == "text_completion"

"""What to send to each endpoint, for the API's documentation, and what answers hold. Tests send it all. Pure."""

from dataclasses import dataclass, field
from typing import Any

MODEL = "smollm2-135m"
ASK = [{"role": "user", "content": "Name three colours."}]


@dataclass(frozen=True)
class Example:
    """`bodies` by their names, `answers`: what an answer that is not streamed holds at least."""

    summary: str
    bodies: dict[str, dict[str, Any]]
    answers: tuple[str, ...]
    required: tuple[str, ...] = ()
    description: str = ""
    needs: str = field(default="")  # the option that a llama-server must have been started with


CHAT: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 32}
EXAMPLES = {
    "chat-completions": Example(
        "Chat, as OpenAI's clients do",
        {
            "whole": CHAT,
            "streamed": {**CHAT, "stream": True},
            "always the same answer": {**CHAT, "temperature": 0},
            "a tool": {
                **CHAT,
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "weather",
                            "description": "The weather in a city.",
                            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
                        },
                    }
                ],
            },
        },
        ("id", "object", "choices", "usage"),
        ("messages",),
        "Fields that a llama-server has no use for are left out, and named in `x-dropped-params`. At temperature 0 "
        "an answer may come from the cache: `x-cache` tells.",
    ),
    "completions": Example(
        "Continue a text",
        {"whole": {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 16}},
        ("id", "object", "choices", "usage"),
        ("prompt",),
    ),
    "responses": Example(
        "Answer, as OpenAI's newer clients ask",
        {"whole": {"model": MODEL, "input": "Name three colours.", "max_output_tokens": 32}},
        ("id", "object", "output", "usage"),
        ("input",),
        "Nothing is stored, so `previous_response_id`, `conversation` and items of type `item_reference` are refused: "
        "`store: false` keeps SDKs from sending them. Tools that are not functions are skipped.",
    ),
    "messages": Example(
        "Chat, as Anthropic's clients do",
        {"whole": CHAT, "streamed": {**CHAT, "stream": True}},
        ("id", "type", "role", "content", "usage"),
        ("messages",),
        "The token is taken from `x-api-key`, too, and errors come in Anthropic's envelope.",
    ),
    "count-tokens": Example(
        "Count the tokens of a prompt",
        {"messages": {"model": MODEL, "messages": ASK}},
        ("input_tokens",),
        ("messages",),
    ),
    "embeddings": Example(
        "Embed texts",
        {"one text": {"model": MODEL, "input": "A colour."}, "two texts": {"model": MODEL, "input": ["red", "blue"]}},
        ("object", "data", "usage"),
        ("input",),
        needs="--pooling mean",
    ),
    "rerank": Example(
        "Sort documents by how well they fit a query",
        {"two documents": {"model": MODEL, "query": "Which colour?", "documents": ["Red.", "A dog."]}},
        ("results", "usage"),
        ("query", "documents"),
        needs="--pooling rank",
    ),
    "tokenize": Example(
        "Turn text into the model's tokens",
        {"a text": {"model": MODEL, "content": "Name three colours."}},
        ("tokens",),
        ("content",),
    ),
    "detokenize": Example(
        "Turn tokens into text",
        {"tokens": {"model": MODEL, "tokens": [1, 2, 3]}},
        ("content",),
        ("tokens",),
    ),
}

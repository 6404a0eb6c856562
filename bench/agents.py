"""A stand-in for a llama-server that plays the model of a coding agent, to try agents through the gateway by hand.

    python bench/agents.py --port 8081 --file notes.pdf

Asked by Codex (/v1/responses) it calls the shell once, then answers with what the shell said; asked by Claude Code
(/v1/messages) it reads the file once, then answers. It thinks first. Its events have the shapes of llama-server b11549.
Each body is printed: the kinds of tools, items and parts that came. docs/clients.md says how agents are pointed here.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "agent"
CONTEXT = 131_072
THOUGHT = "I need to look first."
Json = dict[str, Any]


def kinds(value: Any) -> Iterator[str]:
    """The `type` of each tool, item and part, however deep it stands."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value["type"]
        for name, inner in value.items():
            if name not in ("parameters", "input_schema"):
                yield from kinds(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from kinds(inner)


def said(output: Any) -> str:
    """The text of what a tool gave."""
    if isinstance(output, list):
        return " ".join(part.get("text", f"<{part['type']}>") for part in output)
    return str(output)


def shell_call(tools: list[Json], command: str) -> tuple[str, Json]:
    """A call of the shell tool that an agent offers, by the fields that it takes."""
    for tool in tools:
        fields = tool.get("parameters", {}).get("properties", {})
        if "cmd" in fields:
            return tool["name"], {"cmd": command}
        if "command" in fields:
            is_list = fields["command"].get("type") == "array"
            return tool["name"], {"command": ["bash", "-lc", command] if is_list else command}
    raise LookupError("No tool takes a command.")


def response_events(body: Json, command: str) -> Iterator[Json]:
    """A response that calls the shell, or tells what it said."""
    items = body["input"] if isinstance(body["input"], list) else []
    last = items[-1] if items else {}
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": ""}
    full = {**thought, "content": [{"type": "reasoning_text", "text": THOUGHT}]}
    yield {"type": "response.created", "response": {"id": "resp_1", "object": "response", "status": "in_progress"}}
    yield {"type": "response.in_progress", "response": {"id": "resp_1", "object": "response", "status": "in_progress"}}
    yield {"type": "response.output_item.added", "item": {**thought, "content": [], "status": "in_progress"}}
    yield {"type": "response.reasoning_text.delta", "delta": THOUGHT, "item_id": "rs_1"}
    if last.get("type") == "function_call_output" or not body.get("tools"):
        text = f"The shell said: {said(last.get('output', 'nothing')).strip()}"
        message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        done: Json = {**message, "content": [part]}
        yield {"type": "response.output_item.added", "item": {**message, "content": [], "status": "in_progress"}}
        yield {"type": "response.content_part.added", "item_id": "msg_1", "part": {"type": "output_text", "text": ""}}
        yield {"type": "response.output_text.delta", "item_id": "msg_1", "delta": text}
        yield {"type": "response.output_item.done", "item": full}
        yield {"type": "response.output_text.done", "item_id": "msg_1", "text": text}
        yield {"type": "response.content_part.done", "item_id": "msg_1", "part": part}
    else:
        name, given = shell_call(body["tools"], command)
        told = json.dumps(given)
        call = {"type": "function_call", "id": "fc_1", "call_id": f"call_{len(items)}", "name": name}
        done = {**call, "arguments": told, "status": "completed"}
        yield {"type": "response.output_item.added", "item": {**call, "arguments": "", "status": "in_progress"}}
        yield {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": told}
        yield {"type": "response.output_item.done", "item": full}
    yield {"type": "response.output_item.done", "item": done}
    usage = {"input_tokens": 9, "output_tokens": 9, "total_tokens": 18, "input_tokens_details": {"cached_tokens": 0}}
    ended = {"id": "resp_1", "object": "response", "status": "completed", "model": MODEL, "output": [full, done]}
    yield {
        "type": "response.completed",
        "response": {**ended, "usage": usage},
        "timings": {"cache_n": 0, "prompt_n": 9, "predicted_n": 9},
    }


def message_events(body: Json, file: str) -> Iterator[Json]:
    """A message that reads the file where the last one asks for it, or tells what came."""
    contents = [message["content"] for message in body["messages"]]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [{"text": content}])]
    results = [said(part.get("content")) for part in parts if part.get("type") == "tool_result"]
    texts = [part["text"] for part in parts if "text" in part]
    can_read = any(tool["name"] == "Read" for tool in body.get("tools", ()))
    usage = {"cache_read_input_tokens": 0, "input_tokens": 9, "output_tokens": 0}
    message = {"id": "chatcmpl-1", "type": "message", "role": "assistant", "content": [], "model": MODEL}
    start = {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}
    yield {"type": "message_start", "message": start}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": THOUGHT}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": ""}}
    yield {"type": "content_block_stop", "index": 0}
    is_asked = can_read and not results and any(file in text for text in texts)
    if is_asked:
        tool = {"type": "tool_use", "id": f"tool{len(body['messages'])}", "name": "Read"}
        delta = {"type": "input_json_delta", "partial_json": json.dumps({"file_path": file})}
        yield {"type": "content_block_start", "index": 1, "content_block": tool}
    else:
        notes = [text[:200] for text in texts if "cannot be shown here" in text]
        told = " ".join([*results, *notes, f"({len(body['messages'])} messages)"])
        delta = {"type": "text_delta", "text": f"Read: {told}"}
        yield {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}
    yield {"type": "content_block_delta", "index": 1, "delta": delta}
    yield {"type": "content_block_stop", "index": 1}
    ending = {"stop_reason": "tool_use" if is_asked else "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 9}}
    yield {"type": "message_stop"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    shell = "echo hello"
    file = ""

    def do_GET(self) -> None:
        told: Any = {"data": [{"id": MODEL, "meta": {"n_ctx": CONTEXT}}]}
        if self.path == "/props":
            props = {"n_ctx": CONTEXT}
            told = {"model_path": "agent.gguf", "total_slots": 4, "default_generation_settings": props}
        elif self.path == "/lora-adapters":
            told = []
        self.answer("application/json", json.dumps(told).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        given = {name: sorted({*kinds(body.get(name))}) for name in ("tools", "input", "messages", "system")}
        print(self.path, json.dumps({name: value for name, value in given.items() if value}), file=sys.stderr)
        if self.path.endswith(("input_tokens", "count_tokens")):
            self.answer("application/json", b'{"input_tokens":9}')
            return
        is_response = self.path == "/v1/responses"
        events = response_events(body, self.shell) if is_response else message_events(body, self.file)
        lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
        self.answer("text/event-stream", "".join(lines).encode())

    def answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # its name is the library's
        """Requests are told by do_POST."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--file", default="notes.pdf", help="that Claude Code is told to read, by its full path")
    parser.add_argument("--run", default="echo hello", help="the command that Codex is told to run")
    options = parser.parse_args()
    Handler.shell, Handler.file = options.run, options.file
    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()

"""A stand-in for the faults that a real llama-server cannot be made to show. Each test scripts its own connection."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from .servers import PATIENCE, free_port

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**fields: Any) -> bytes:
    base = {"created": 1, "id": "chatcmpl-1", "model": "smollm2-135m", "object": "chat.completion.chunk"}
    last = {"timings": fields.pop("timings")} if "timings" in fields else {}
    return chunk(b"data: " + json.dumps({**fields, **base, **last}, separators=(",", ":")).encode() + b"\n\n")


def token(text: str, predicted: int = 1) -> bytes:
    """The event of a token, the so-manieth: 5 of the prompt, 3 of them cached, were before it."""
    choices = [{"finish_reason": None, "index": 0, "delta": {"content": text}}]
    return event(choices=choices, timings={"cache_n": 3, "prompt_n": 2, "predicted_n": predicted})


FINISH = event(choices=[{"finish_reason": "stop", "index": 0, "delta": {}}])
DETAILS = {"cached_tokens": 3}
USAGE = event(
    choices=[],
    usage={"completion_tokens": 2, "prompt_tokens": 5, "total_tokens": 7, "prompt_tokens_details": DETAILS},
    timings={"cache_n": 3, "prompt_n": 2, "predicted_n": 2},
)
DONE = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
ERROR = chunk(b'data: {"error":{"code":500,"message":"Something broke.","type":"server_error"}}\n\n') + b"0\r\n\r\n"
LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}


def whole(status: str, body: Any) -> bytes:
    text = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text


MODELS = {"data": [{"id": "smollm2-135m"}]}
TOLD: dict[bytes, Any] = {b"/props": {"model_path": "fake.gguf", "media_marker": "first start"}, b"/lora-adapters": []}


class FakeLlama:
    """Listens on a thread of its own, and plays a script for each request. `seen` holds the bodies that came.

    It owns every connection that it accepted: `close` returns when all scripts have ended and all sockets are closed.
    """

    def __init__(self, script: Script, slots: int = 64) -> None:
        self.script = script
        self.told = {**TOLD, b"/props": {**TOLD[b"/props"], "total_slots": slots}}
        self.seen: list[dict[str, Any]] = []
        self.answers_after = 0.0  # seconds, to questions about itself
        self.gone = threading.Event()  # set when a client has left a script that waits for that
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", free_port()))
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self.loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._close(), self.loop).result(PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()

    async def _close(self) -> None:
        # asyncio's own tasks, which accept; cancelled, or begun on a closed server, they would leave sockets open
        while accepting := asyncio.all_tasks() - self._serving.keys() - {asyncio.current_task()}:
            await asyncio.gather(*accepting)
        self.server.close()
        for task, writer in self._serving.items():
            writer.transport.abort()  # also where the other side does not read
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for writer in self._serving.values():
            with suppress(OSError):
                await writer.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving[self.loop.create_task(self._serve(reader, writer))] = writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                if head.startswith(b"get"):
                    await asyncio.sleep(self.answers_after)
                    writer.write(whole("200 OK", self.told.get(head.split(b" ")[1], MODELS)))
                    continue
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                self.seen.append(json.loads(await reader.readexactly(length)))
                await self.script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def opened(gate: threading.Event) -> None:
    """Wait for a test's sign, on the loop: a script that is cancelled leaves no thread behind."""
    while not gate.is_set():  # noqa: ASYNC110  # another thread sets it
        await asyncio.sleep(0.002)


def sends(*parts: bytes) -> Script:
    """Send these bytes, and keep the connection."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.writelines(parts)
        await writer.drain()

    return script


def sends_and_cuts(*parts: bytes) -> Script:
    """Send these bytes, and close the connection."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.writelines(parts)
        await writer.drain()
        writer.close()

    return script


def sends_then_cuts(go: threading.Event, first: bytes, *rest: bytes) -> Script:
    """Send the first bytes, wait for a sign, send the rest, and close the connection."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await opened(go)
        writer.writelines(rest)
        await writer.drain()
        writer.close()

    return script


def plays(*scripts: Script) -> Script:
    """A script for each request in turn; the last for all that follow."""
    left = list(scripts)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(reader, writer)

    return script


def sends_late(go: threading.Event, *parts: bytes) -> Script:
    """Wait for a sign, send these bytes, and close the connection."""
    return sends_then_cuts(go, b"", *parts)


def sends_and_hangs(fake: "list[FakeLlama]", *parts: bytes) -> Script:
    """Send these bytes, then nothing, until the other side leaves."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.writelines(parts)
        await writer.drain()
        await reader.read()
        fake[0].gone.set()

    return script


def named(kind: str, **fields: Any) -> bytes:
    """An event of Anthropic's or of a response: it has a name."""
    data = json.dumps({"type": kind, **fields}, separators=(",", ":")).encode()
    return chunk(b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n")


def block_delta(index: int, kind: str, **fields: str) -> bytes:
    return named("content_block_delta", index=index, delta={"type": kind, **fields})


MESSAGE = {"id": "chatcmpl-1", "type": "message", "role": "assistant", "content": [], "model": "smollm2-135m"}
ANTHROPIC_USAGE = {"cache_read_input_tokens": 3, "input_tokens": 2, "output_tokens": 0}
TOOL = {"type": "tool_use", "id": "t", "name": "get_weather"}
ANTHROPIC_TOOL_USE = [
    named("message_start", message={**MESSAGE, "stop_reason": None, "stop_sequence": None, "usage": ANTHROPIC_USAGE}),
    named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    block_delta(0, "text_delta", text="We"),
    block_delta(0, "text_delta", text="ll."),
    named("content_block_stop", index=0),
    named("content_block_start", index=1, content_block=TOOL),
    block_delta(1, "input_json_delta", partial_json='{"city":'),
    block_delta(1, "input_json_delta", partial_json='"Paris"}'),
    named("content_block_stop", index=1),
    named("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage={"output_tokens": 9}),
    named("message_stop"),
    b"0\r\n\r\n",
]


def tool_call(**fields: Any) -> bytes:
    delta = {"tool_calls": [{"index": 0, **fields}]}
    return event(choices=[{"finish_reason": None, "index": 0, "delta": delta}])


TOOL_CALL = [
    tool_call(id="c", type="function", function={"name": "get_weather", "arguments": ""}),
    tool_call(function={"arguments": '{"city":'}),
    tool_call(function={"arguments": '"Paris"}'}),
    event(choices=[{"finish_reason": "tool_calls", "index": 0, "delta": {}}]),
]

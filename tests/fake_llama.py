"""A stand-in for the faults that a real llama-server cannot be made to show. Each test scripts its own connection."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**fields: Any) -> bytes:
    base = {"created": 1, "id": "chatcmpl-1", "model": "smollm2-135m", "object": "chat.completion.chunk"}
    return chunk(b"data: " + json.dumps({**fields, **base}, separators=(",", ":")).encode() + b"\n\n")


def token(text: str) -> bytes:
    return event(choices=[{"finish_reason": None, "index": 0, "delta": {"content": text}}])


FINISH = event(choices=[{"finish_reason": "stop", "index": 0, "delta": {}}])
USAGE = event(choices=[], usage={"completion_tokens": 2, "prompt_tokens": 5, "total_tokens": 7})
DONE = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
ERROR = chunk(b'data: {"error":{"code":500,"message":"Something broke.","type":"server_error"}}\n\n') + b"0\r\n\r\n"
LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}


def whole(status: str, body: Any) -> bytes:
    text = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text


class FakeLlama:
    """Listens on a thread of its own, and plays a script for each request. `seen` holds the bodies that came."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[dict[str, Any]] = []
        self.gone = threading.Event()  # set when a client has left a script that waits for that
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self.loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._close(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()

    async def _close(self) -> None:
        self.server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                if head.startswith(b"get"):
                    writer.write(whole("200 OK", {"data": [{"id": "smollm2-135m"}]}))
                    continue
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                self.seen.append(json.loads(await reader.readexactly(length)))
                await self.script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


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
        await asyncio.to_thread(go.wait, 10)
        writer.writelines(rest)
        await writer.drain()
        writer.close()

    return script


def sends_and_hangs(fake: "list[FakeLlama]", *parts: bytes) -> Script:
    """Send these bytes, then nothing, until the other side leaves."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.writelines(parts)
        await writer.drain()
        await reader.read()
        fake[0].gone.set()

    return script

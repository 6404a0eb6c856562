"""A llama-server stand-in that can be told to fail: GET /fail/KIND, and GET /fail/no for it to be well again.

Usage: failing_llama.py PORT SLOTS SECONDS. Each call holds a slot for so many seconds and tells 10 events. GET /stats
tells how many calls came, and how many of them were failed.

nonsense: 200 with an event that is no JSON. 500: to every call. 401: a key that is not accepted; /v1/models is open to
all, as llama-server's is.
"""

import asyncio
import json
import sys

import uvloop
from mock_llama import END, FINISH, GETS, STREAM_HEAD, TOKEN, USAGE, told  # it reads the same arguments

PORT, SLOTS, SECONDS = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
EVENTS = 10
PROPS = {"model_path": "m.gguf", "build_info": "b1", "chat_template": "", "media_marker": "m", "total_slots": SLOTS}
GETS[b"/props"] = told(PROPS)


def refusal(status: str, code: int, message: str) -> bytes:
    text = json.dumps({"error": {"code": code, "message": message, "type": "server_error"}}).encode()
    return b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status.encode(), len(text)) + text


KEY = refusal("401 Unauthorized", 401, "Invalid API Key")
FAILURES = {
    b"nonsense": STREAM_HEAD + b'16\r\ndata: {"choices":[{f\n\r\n0\r\n\r\n',
    b"500": refusal("500 Internal Server Error", 500, "Compute error."),
    b"401": KEY,
}


class Now:
    kind = b"no"
    calls = failed = 0


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).lower():
            path = head.split(b" ")[1]
            if path.startswith(b"/fail/"):
                Now.kind = path.removeprefix(b"/fail/")
                writer.write(told({}))
            elif path == b"/stats":
                writer.write(told({"calls": Now.calls, "failed": Now.failed}))
            elif head.startswith(b"get"):
                is_closed = Now.kind == b"401" and path != b"/v1/models"
                writer.write(KEY if is_closed else GETS.get(path, GETS[b"/v1/models"]))
            else:
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                await answer(writer)
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def answer(writer: asyncio.StreamWriter) -> None:
    Now.calls += 1
    if Now.kind in FAILURES:
        Now.failed += 1
        writer.write(FAILURES[Now.kind])
    else:
        writer.write(STREAM_HEAD)
        for _ in range(EVENTS):
            writer.write(TOKEN)
            await asyncio.sleep(SECONDS / EVENTS)
        writer.write(FINISH + USAGE + END)
    await writer.drain()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", PORT, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())

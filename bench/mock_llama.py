"""A llama-server stand-in for load: a POST is answered by EVENTS token chunks, GAP seconds apart, and a usage.

Where it asks for no stream, which the gateway never does, it is answered whole.

Usage: mock_llama.py PORT EVENTS GAP. For measuring only; behaviour is tested against a real llama-server.
"""

import asyncio
import json
import sys

import uvloop

PORT, EVENTS, GAP = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
BASE = {"created": 1, "id": "chatcmpl-0123456789abcdef0123456789abcdef", "model": "mock", "system_fingerprint": "b1"}
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(**fields: object) -> bytes:
    text = json.dumps({**fields, **BASE, "object": "chat.completion.chunk"}, separators=(",", ":"))
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def choice(reason: str | None, **delta: object) -> list[dict[str, object]]:
    return [{"finish_reason": reason, "index": 0, "delta": delta}]


COUNTS = {"completion_tokens": EVENTS, "prompt_tokens": 36, "total_tokens": EVENTS + 36}
TOKEN = event(choices=choice(None, content=" colour"))
FINISH = event(choices=choice("stop"))
USAGE = event(choices=[], usage=COUNTS)
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def told(body: object) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text


CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": " colour" * EVENTS}}
WHOLE = told({**BASE, "object": "chat.completion", "choices": [CHOICE], "usage": COUNTS})
GETS = {
    b"/v1/models": told({"object": "list", "data": [{"id": "mock"}]}),
    b"/props": told(
        {"model_path": "mock.gguf", "build_info": "b1", "chat_template": "", "media_marker": "m", "total_slots": 1024}
    ),
    b"/lora-adapters": told([]),
}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).lower():
            if head.startswith(b"get"):
                writer.write(GETS.get(head.split(b" ")[1], GETS[b"/v1/models"]))
                continue
            body = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            if b'"stream":true' not in body.replace(b" ", b""):
                writer.write(WHOLE)
                continue
            writer.write(STREAM_HEAD)
            for _ in range(EVENTS):
                writer.write(TOKEN)
                if GAP:
                    await asyncio.sleep(GAP)
            writer.write(FINISH + USAGE + END)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", PORT, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())

"""A load generator: keep-alive connections that each send one request after the other.

Usage: load.py PORT METHOD PATH CONCURRENCY TOTAL TOKEN STREAM(0|1). Prints one line of JSON.
"""

import asyncio
import json
import sys
import time

import uvloop

PORT, METHOD, PATH, CONCURRENCY, TOTAL, TOKEN, STREAM = sys.argv[1:8]
MESSAGES = [{"role": "user", "content": "Name three colours, please."}]
BODY = (
    json.dumps({"model": "mock", "stream": STREAM == "1", "messages": MESSAGES}).encode() if METHOD == "POST" else b""
)
REQUEST = (
    f"{METHOD} {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
).encode() + BODY


class Tally:
    left = int(TOTAL)
    events = 0
    failed = 0


async def caller() -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(PORT))
    while Tally.left > 0:
        Tally.left -= 1
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await read_body(reader, head.lower())
        Tally.events += body.count(b"data: ")
        if b" 200 " not in head[:20] or (STREAM == "1" and b"[DONE]" not in body):
            Tally.failed += 1
    writer.close()


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"content-length:" in head:
        return await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body


async def main() -> None:
    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(int(CONCURRENCY))))
    seconds = round(time.perf_counter() - began, 2)
    print(json.dumps({"seconds": seconds, "events": Tally.events, "failed": Tally.failed}))


uvloop.run(main())

"""A load generator: keep-alive connections that each send one request after the other.

Usage: load.py PORT METHOD PATH CONCURRENCY TOTAL TOKEN STREAM(0|1) [FIELDS [STATUS]]. FIELDS are more of the body, as
JSON; a seed of 0 becomes another one for each call. STATUS is what is expected. Prints one line of JSON.
"""

import asyncio
import json
import sys
import time
from itertools import count
from statistics import median

import uvloop

PORT, METHOD, PATH, CONCURRENCY, TOTAL, TOKEN, STREAM = sys.argv[1:8]
FIELDS, STATUS = (*sys.argv[8:10], *("{}", "200")[len(sys.argv[8:10]) :])
FIRST_SEED = 1_000_000_000  # so that all have the same number of digits
MESSAGES = [{"role": "user", "content": "Name three colours, please."}]
BODY = (
    json.dumps({"model": "mock", "stream": STREAM == "1", "messages": MESSAGES, **json.loads(FIELDS)})
    .replace('"seed": 0', f'"seed": {FIRST_SEED}')
    .encode()
    if METHOD == "POST"
    else b""
)
REQUEST = (
    f"{METHOD} {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
).encode() + BODY


SEEDS = count(FIRST_SEED + int(time.time() * 1000) % 10**9)


class Tally:
    left = int(TOTAL)
    seconds: list[float] = []
    events = 0
    failed = 0


async def caller() -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(PORT))
    while Tally.left > 0:
        Tally.left -= 1
        began = time.perf_counter()
        writer.write(REQUEST.replace(b"%d" % FIRST_SEED, b"%d" % next(SEEDS)))
        head = await reader.readuntil(b"\r\n\r\n")
        body = await read_body(reader, head.lower())
        Tally.seconds.append(time.perf_counter() - began)
        Tally.events += body.count(b"data: ")
        if f" {STATUS} ".encode() not in head[:20] or (STREAM == "1" and b"[DONE]" not in body):
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
    told = {"seconds": seconds, "events": Tally.events, "failed": Tally.failed}
    print(json.dumps({**told, "ms": round(median(Tally.seconds) * 1000, 2)}))


uvloop.run(main())

"""A llama-server stand-in that counts: how many calls it has at once, and how long a slot is idle between two.

Usage: counting_llama.py PORT SLOTS SECONDS. Each call holds a slot for so many seconds, a fifth
more or less, and tells 10 events. GET /stats tells
what was seen since the last GET /reset. A client that leaves frees its slot at once.
"""

import asyncio
import json
import random
import sys
import time
from collections import deque
from contextlib import suppress

import uvloop
from mock_llama import END, FINISH, GETS, STREAM_HEAD, TOKEN, USAGE, told  # it reads the same arguments

PORT, SLOTS, SECONDS = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
EVENTS = 10
GETS[b"/props"] = told(
    {"model_path": "m.gguf", "build_info": "b1", "chat_template": "", "media_marker": "m", "total_slots": SLOTS}
)


class Seen:
    def __init__(self) -> None:
        self.since = time.monotonic()
        self.calls = self.left = 0
        self.most = Slots.running
        self.gaps: list[float] = []
        self.freed: deque[float] = deque()
        self.busy = 0.0
        self.arrivals: list[float] = []

    def stats(self) -> dict[str, object]:
        gaps = sorted(self.gaps) or [0.0]
        running = sum(time.monotonic() - max(began, self.since) for began in Slots.began)
        return {
            "calls": self.calls,
            "left": self.left,
            "most": self.most,
            "gap_p50_ms": round(gaps[len(gaps) // 2] * 1000, 2),
            "gap_p95_ms": round(gaps[int(len(gaps) * 0.95)] * 1000, 2),
            "busy": round((self.busy + running) / SLOTS / (time.monotonic() - self.since), 4),
            "last_arrival_ago": round(time.monotonic() - self.arrivals[-1], 3) if self.arrivals else None,
        }


class Slots:
    running = 0
    began: list[float] = []
    seen: Seen


async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    seen, began = Slots.seen, time.monotonic()
    Slots.running += 1
    Slots.began.append(began)
    seen.calls += 1
    seen.arrivals.append(began)
    seen.most = max(seen.most, Slots.running)
    if seen.freed:
        seen.gaps.append(began - seen.freed.popleft())
    leaving = asyncio.create_task(reader.read(1))
    try:
        writer.write(STREAM_HEAD)
        seconds = SECONDS * random.uniform(0.8, 1.2)
        for _ in range(EVENTS):
            writer.write(TOKEN)
            await asyncio.wait({leaving}, timeout=seconds / EVENTS)
            if leaving.done():
                seen.left += 1
                raise ConnectionError
    finally:
        leaving.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await leaving
        Slots.running -= 1
        Slots.began.remove(began)
        now = time.monotonic()
        Slots.seen.busy += now - max(began, Slots.seen.since)
        Slots.seen.freed.append(now)
    writer.write(FINISH + USAGE + END)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).lower():
            if head.startswith(b"get"):
                path = head.split(b" ")[1]
                if path == b"/reset":
                    Slots.seen = Seen()
                answer = told(Slots.seen.stats()) if path in (b"/stats", b"/reset") else GETS.get(path, told([]))
                writer.write(answer)
                continue
            json.loads(await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0])))
            await work(reader, writer)
            await writer.drain()
            return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    Slots.seen = Seen()
    server = await asyncio.start_server(serve, "127.0.0.1", PORT, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())

"""A server that breaks some of its requests on purpose, so that you see what your client does then.

    with Faulty(server.url, "cut", share=0.5, seed=7) as faulty:
        client = serving.client(faulty.url, server.key)

It stands between a client and a real model server, on loopback, in a thread of this process.
"""

import asyncio
import random
import threading
from collections.abc import Callable
from types import TracebackType
from urllib.parse import urlsplit

from course_utils.serving.settings import LOOPBACK

FAULTS = {
    "slow": "the answer comes a byte at a time, and would take minutes",
    "dead": "the connection is closed without a word",
    "garbage": "a page of HTML, with status 200",
    "cut": "the answer ends in its middle",
}
PAGE = b"<html><body><h1>Something went wrong</h1></body></html>"
GARBAGE = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
DRIP = 0.1  # seconds between two bytes of a slow answer
LONGEST_HEAD = 65_536  # bytes
PIECE = 4096  # bytes that are handed on at once
HOP = (b"connection:", b"expect:")  # headers between two neighbours, which are not handed on


class Faulty:
    """Hands requests on to the model server at `url`, and breaks a `share` (0 to 1) of them with `fault`.

    `seed` decides which, in the order in which they come; `broken` counts them. ValueError for an unknown fault.
    """

    def __init__(self, url: str, fault: str, share: float = 0.5, seed: int = 0) -> None:
        if fault not in FAULTS:
            raise ValueError(f"There is no fault {fault!r}; there are {', '.join(FAULTS)}.")
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}, and must be from 0 to 1.")
        self.upstream = urlsplit(url)
        self.fault, self.share = fault, share
        self.rng = random.Random(seed)
        self.broken = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> "Faulty":
        self.thread.start()
        opening = asyncio.start_server(self.serve, LOOPBACK, 0, limit=LONGEST_HEAD)
        self.server = asyncio.run_coroutine_threadsafe(opening, self.loop).result()
        port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://{LOOPBACK}:{port}"
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self.close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def close(self) -> None:
        """Close the port, and end what is still dripping."""
        self.server.close()
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            request = await read_request(reader)
            breaks = self.rng.random() < self.share
            self.broken += breaks
            answer = getattr(self, self.fault) if breaks else self.hand_on
            await answer(request, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client left, the model server is gone, or this server closes
        finally:
            writer.close()

    async def hand_on(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        """The model server's answer, as it comes."""
        await self.forward(request, writer.write, writer.drain)

    async def dead(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def garbage(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(GARBAGE % (len(PAGE), PAGE))
        await writer.drain()

    async def cut(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        answer = await self.whole(request)
        writer.write(answer[: len(answer) // 2])
        await writer.drain()

    async def slow(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        answer = await self.whole(request)
        for byte in answer:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(DRIP)

    async def whole(self, request: bytes) -> bytes:
        """All of the model server's answer, with its head."""
        answer = bytearray()

        async def at_once() -> None:
            pass

        await self.forward(request, answer.extend, at_once)
        return bytes(answer)

    async def forward(self, request: bytes, take: Callable[[bytes], object], drain: Callable) -> None:
        """Ask the model server, and give each piece of its answer to `take`. It is asked to close behind the last."""
        place = self.upstream
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            writer.write(request)
            await writer.drain()
            while piece := await reader.read(PIECE):
                take(piece)
                await drain()
        finally:
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """A request with its body, asking for the connection to be closed after the answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *headers = head.rstrip().split(b"\r\n")
    length = 0
    kept = []
    for header in headers:
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        if not header.lower().startswith(HOP):
            kept.append(header)
    body = await reader.readexactly(length)
    lines = [first, *kept, b"Connection: close", b"", b""]
    return b"\r\n".join(lines) + body

"""The one module that knows httpx and aiohttp. It translates all their errors."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from accounts.errors import GatewayError

from .destinations import Destinations
from .errors import BrokenOff, NeverSent, UpstreamError, UpstreamTimeout
from .refusals import refusal

ERROR_BYTES = 64 * 1024  # of an error's body that are read at most
ANYWHERE = Destinations()
HOST: ContextVar[str] = ContextVar("host")  # that of the URL which a connection is made for

AddrInfo = tuple[Any, Any, int, str, tuple[Any, ...]]  # as getaddrinfo gives them


class UpstreamClient:
    """Connections to llama-servers. Headers are built from nothing: a client's never pass."""

    def __init__(
        self,
        connect_timeout: float,
        idle_timeout: float,
        destinations: Destinations = ANYWHERE,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.idle_timeout = idle_timeout
        self._transport = transport or AiohttpTransport(client=lambda: new_session(destinations))
        self._extensions = {"timeout": {"connect": connect_timeout, "read": idle_timeout}}

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def post(self, url: str, api_key: str, body: bytes) -> "Answer":
        """Send a call and wait for its answer to begin. The caller closes the answer.

        Raises NeverSent, BrokenOff, UpstreamTimeout, or the refusal of the llama-server, translated.
        """
        response = await self._send(httpx.Request("POST", parsed(url), headers=headers(api_key), content=body))
        if response.status_code != 200:
            raise await self._refusal(response)
        return Answer(response)

    async def get(self, url: str, api_key: str, within: float) -> Any:
        """The JSON of a GET that is answered within so many seconds. Raises as `post` does."""
        async with translated(), asyncio.timeout(within):
            response = await self._send(httpx.Request("GET", parsed(url), headers=headers(api_key)))
        try:
            async with translated(), asyncio.timeout(within):
                await response.aread()
            if response.status_code != 200:
                raise refusal(response.status_code, response.content, logging.DEBUG)  # whoever looks says so
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as exc:
            raise UpstreamError from exc
        finally:
            await response.aclose()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, **self._extensions}
        HOST.set(request.url.host)
        async with translated(), asyncio.timeout(self.idle_timeout):  # aiohttp has no limit for sending
            return await self._transport.handle_async_request(request)

    async def _refusal(self, response: httpx.Response) -> GatewayError:
        body = b""
        try:
            async with translated(), asyncio.timeout(self.idle_timeout):
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > ERROR_BYTES:
                        break
        finally:
            await response.aclose()
        return refusal(response.status_code, body)


class Answer:
    """The answer of a llama-server, as it comes in."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    async def whole(self) -> Any:
        """The JSON of an answer that is not streamed. Raises as `parts` does, or UpstreamError."""
        body = b"".join([part async for part in self.parts()])
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise UpstreamError("The llama-server sent something that is no answer.") from exc

    async def parts(self) -> AsyncIterator[bytes]:
        async with translated():
            async for part in self._response.stream:  # type: ignore[union-attr]  # the transport's is asynchronous
                yield part

    async def aclose(self) -> None:
        """End it. Where it was not at its end the connection is closed, and the llama-server frees the slot."""
        await self._response.aclose()


def new_session(destinations: Destinations) -> aiohttp.ClientSession:
    """A connection for each call, no cookies, no proxies from the environment, and to none but these destinations.

    Connections are not kept: under load a llama-server closes idle ones without a word (docs/decisions/0004), and
    a call that meets such a one fails without anybody knowing whether it was begun.
    """

    def new_socket(address: AddrInfo) -> socket.socket:
        """The socket of a connection, made when its address is known."""
        family, kind, protocol, _, where = address
        destinations.check(HOST.get(), str(where[0]))
        return socket.socket(family, kind, protocol)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=new_socket),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


@lru_cache  # parsing one costs 100 us, and there are as many as llama-servers have endpoints
def parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


@lru_cache
def headers(api_key: str) -> httpx.Headers:
    fixed = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "llmgateway"}
    return httpx.Headers({**fixed, "Authorization": f"Bearer {api_key}"} if api_key else fixed)


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Errors of httpx and aiohttp, as ours. httpx-aiohttp's classes mislead, so aiohttp's own decides."""
    try:
        yield
    except TimeoutError as exc:
        raise UpstreamTimeout from exc
    except (httpx.HTTPError, aiohttp.ClientError, OSError) as exc:
        cause = exc.__cause__ if isinstance(exc, httpx.HTTPError) else exc
        if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            raise NeverSent from exc
        if isinstance(cause, aiohttp.ServerTimeoutError):
            raise UpstreamTimeout from exc
        raise BrokenOff from exc

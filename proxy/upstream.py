"""The one module that knows httpx and aiohttp. It translates all their errors."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import lru_cache
from types import TracebackType
from typing import Any

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from accounts.errors import GatewayError

from .destinations import Destinations, Forbidden
from .errors import BrokenOff, ConnectTimeout, NeverSent, OutOfFiles, UpstreamError, UpstreamTimeout
from .events import NO_ANSWER
from .files import FULL, is_reached
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
        self._translated = Translation(connect_timeout)
        self._transport = transport or AiohttpTransport(client=lambda: new_session(destinations))
        self._extensions = {"timeout": {"connect": connect_timeout, "read": idle_timeout}}

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def post(self, url: str, api_key: str, body: bytes) -> "Answer":
        """Send a call and wait for its answer to begin. The caller closes the answer.

        Raises NeverSent, OutOfFiles, BrokenOff, UpstreamTimeout, or the refusal of the llama-server, translated.
        """
        response = await self._send(httpx.Request("POST", parsed(url), headers=headers(api_key), content=body))
        if response.status_code != 200:
            raise await self._refusal(response)
        return Answer(response, self._translated)

    async def get(self, url: str, api_key: str, within: float) -> Any:
        """The JSON of a GET that is answered within so many seconds. Raises as `post` does."""
        with self._translated:
            async with asyncio.timeout(within):
                response = await self._send(httpx.Request("GET", parsed(url), headers=headers(api_key)))
                try:
                    await response.aread()
                finally:
                    await response.aclose()
        if response.status_code != 200:
            raise refusal(response.status_code, response.content)
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as exc:
            raise UpstreamError from exc

    async def _send(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, **self._extensions}
        HOST.set(request.url.host)
        with self._translated:
            async with asyncio.timeout(self.idle_timeout):  # aiohttp has no limit for sending
                return await self._transport.handle_async_request(request)

    async def _refusal(self, response: httpx.Response) -> GatewayError:
        body = b""
        try:
            with self._translated:
                async with asyncio.timeout(self.idle_timeout):
                    async for part in response.aiter_raw():
                        body += part
                        if len(body) > ERROR_BYTES:
                            break
        finally:
            await response.aclose()
        return refusal(response.status_code, body)


class Answer:
    """The answer of a llama-server, as it comes in."""

    def __init__(self, response: httpx.Response, translated: "Translation") -> None:
        self._response = response
        self._translated = translated

    async def whole(self) -> Any:
        """The JSON of an answer that is not streamed. Raises as `parts` does, or UpstreamError."""
        body = b"".join([part async for part in self.parts()])
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise UpstreamError(NO_ANSWER) from exc

    async def parts(self) -> AsyncIterator[bytes]:
        with self._translated:
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


class Translation:
    """Errors of httpx and aiohttp, as ours. httpx-aiohttp's classes mislead, so aiohttp's own decides.

    A context manager without state, since a call passes several.
    """

    def __init__(self, connect_timeout: float) -> None:
        self.connect_timeout = connect_timeout

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _: type[BaseException] | None, exc: BaseException | None, __: TracebackType | None) -> None:
        if isinstance(exc, httpx.HTTPError | OSError | aiohttp.ClientError):  # a TimeoutError is an OSError
            raise self.meaning(exc) from exc

    def meaning(self, exc: Exception) -> GatewayError:
        """Our error for one of theirs."""
        cause = exc.__cause__ if isinstance(exc, httpx.HTTPError) else exc
        match cause:
            case aiohttp.ConnectionTimeoutError():
                return ConnectTimeout(reason=f"did not take a connection within {self.connect_timeout:g} s")
            case aiohttp.ClientConnectorError():
                return OutOfFiles() if is_out_of_files(cause) else NeverSent(reason=words_for(cause))
            case OSError(errno=number) if number in FULL:
                return OutOfFiles()
            case TimeoutError():
                return UpstreamTimeout()
            case aiohttp.ServerDisconnectedError():
                return BrokenOff(reason="closed the connection without an answer")
            case aiohttp.ClientResponseError():
                return BrokenOff(reason="sent something that is no HTTP")
            case aiohttp.ClientPayloadError():
                return BrokenOff(reason="broke its answer off")
        return BrokenOff()


def is_out_of_files(exc: aiohttp.ClientConnectorError) -> bool:
    """True where a connection failed since this process has no room for it. A resolver that has none hides why."""
    return exc.errno in FULL or (isinstance(exc, aiohttp.ClientConnectorDNSError) and is_reached())


def words_for(exc: aiohttp.ClientConnectorError) -> str:
    """Why a connection could not be made, in words that follow "it"."""
    match exc:
        case aiohttp.ClientConnectorDNSError():
            return "has a name that does not resolve"
        case aiohttp.ClientConnectorCertificateError():
            return "has a certificate that is not accepted"
        case aiohttp.ClientSSLError():
            return "does not speak TLS"
    if isinstance(exc.os_error, Forbidden):
        return f"may not be reached: {exc.os_error}"
    return WORDS.get(exc.errno or 0, "could not be reached")


WORDS = {
    errno.ECONNREFUSED: "refused the connection",
    errno.ECONNRESET: "broke the connection",
    errno.EHOSTUNREACH: "is on a host that cannot be reached",
    errno.ENETUNREACH: "is on a network that cannot be reached",
}

"""HTTP/1.1 as uvicorn speaks it, for clients that offer to upgrade, too.

Clients such as the JDK's offer HTTP/2 in each request (`Upgrade: h2c`). A server may go on in HTTP/1.1 (RFC 9110,
7.8), but uvicorn's parser ends at the head of such a request, and its body is lost (Kludex/uvicorn#2722).

`uvicorn --http llmgateway.protocol:GatewayProtocol` uses it; `llmgateway serve` always does.
"""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

OFFERS = (b"upgrade", b"http2-settings")  # headers that only an upgrade gives a meaning to


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's protocol, to which a request that offers anything but a WebSocket is one without the offer.

    A parser that saw an offer stops at the end of the head, and nothing makes it go on. So a new parser is given the
    same head without the offer, and then the bytes that follow. Requests without an offer pay nothing for this.
    """

    def _should_upgrade(self) -> bool:
        """True if uvicorn must not start a request from the head at whose end the parser has stopped.

        It becomes a WebSocket, or comes again without its offer. A CONNECT makes no offer, and is left to uvicorn.
        """
        return self.parser.get_method() != b"CONNECT" or super()._should_upgrade()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        rest: bytes | memoryview = data
        try:
            while True:  # once for each pipelined request with an offer
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as stop:
                    rest = memoryview(rest)[stop.args[0] :]
                if super()._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                if not self._should_upgrade():
                    self._unsupported_upgrade_warning()
                    return
                head = self._head_without_offer()
                self.parser = new_parser(self)
                self.parser.feed_data(head)
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)

    def _head_without_offer(self) -> bytes:
        """The head that was parsed last, written anew without what belongs to an upgrade."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() not in OFFERS]
                if kept:
                    lines.append(b"connection: %b\r\n" % b",".join(kept))
            elif name not in OFFERS:
                lines.append(b"%b: %b\r\n" % (name, value))
        return b"".join([*lines, b"\r\n"])


def new_parser(protocol: HttpToolsProtocol) -> httptools.HttpRequestParser:
    """A parser as lenient as uvicorn's own: requests may follow one that asked to close the connection."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser

"""An S3 server on a port that fails when it is told to: in front of one that does not."""

import http.client
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Fails = Callable[["Request"], int]
"""HTTP status of the failure, 0 for none"""


@dataclass(frozen=True)
class Request:
    """What a client asks for."""

    method: str
    path: str
    """with its query"""
    size: int
    """bytes that it brings"""
    number: int
    """how often the same was asked for before"""
    signed: str
    """by whom, and for which region; empty: anonymous"""
    headers: frozenset[str]
    """names of its headers, in small letters"""


@dataclass
class FlakyS3:
    """The address of the server, and what was asked of it."""

    endpoint: str
    seen: list[Request] = field(default_factory=list)


@contextmanager
def flaky_s3(behind: str, fails: Fails, most_keys: int = 0) -> Iterator[FlakyS3]:
    """A server that hands on to the one `behind` what `fails` says nothing against.

    With `most_keys` it lists no more at a time, however many it is asked for.
    """
    target = urlsplit(behind).netloc
    counts: Counter[tuple[str, str]] = Counter()
    lock = threading.Lock()
    flaky = FlakyS3("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self._body()
            with lock:
                number = counts[self.command, self.path]
                counts[self.command, self.path] += 1
                signed = self.headers.get("Authorization", "")
                headers = frozenset(name.lower() for name in self.headers)
                request = Request(self.command, self.path, len(body), number, signed, headers)
                flaky.seen.append(request)
            if status := fails(request):
                code = {503: "SlowDown", 403: "AccessDenied"}.get(status, "InvalidRequest")
                told = f"<Error><Code>{code}</Code><Message>told to fail</Message></Error>"
                return self._answer(status, [("Content-Type", "application/xml")], told.encode())
            connection = http.client.HTTPConnection(target)
            headers = {n: v for n, v in self.headers.items() if n.lower() != "transfer-encoding"}
            headers["Content-Length"] = str(len(body))
            path = self.path
            if most_keys:
                path = re.sub(
                    r"max-keys=(\d+)", lambda n: f"max-keys={min(int(n[1]), most_keys)}", path
                )
            connection.request(self.command, path, body, headers)
            answer = connection.getresponse()
            kept = [h for h in answer.getheaders() if h[0].lower() not in ("date", "server")]
            self._answer(answer.status, kept, answer.read())
            connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response(status)
            is_head = self.command == "HEAD"
            for name, value in headers:
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = dict((n.lower(), v) for n, v in headers).get("content-length", "0")
            self.send_header("Content-Length", length if is_head else str(len(data)))
            self.end_headers()
            if not is_head:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flaky.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield flaky
    finally:
        server.shutdown()
        server.server_close()

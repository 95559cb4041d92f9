"""How long a bucket of many keys takes to be listed: in ranges at once, and page after page.

    python -m tests.benchmarks.listing [--keys 200000 --latency-ms 50]

A server on a port that answers as S3 does, in a process of its own, each answer after a latency
that is usual within a region. Page after page is what `Storage.find` does, by pyarrow.
"""

import multiprocessing
import sys
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlsplit

import tyro

from jobs.runtime.listing import listed
from jobs.runtime.storage import Storage, StorageConfig

PAGE = 1_000


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    keys: int = 200_000
    """objects of the bucket, with names like those of hashes"""
    latency_ms: float = 50.0
    """that an answer takes, besides what the server computes"""
    rounds: int = 3
    """of which the fastest counts"""


def main(config: Config) -> None:
    """Measure and print a row for each way."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs, config), daemon=True)
    server.start()
    storage = Storage(StorageConfig(endpoint=f"http://127.0.0.1:{ours.recv()}", anonymous=True))
    seconds: dict[str, list[float]] = {"page after page": [], "in ranges": []}
    cpu: dict[str, list[float]] = {name: [] for name in seconds}
    for _ in range(config.rounds):
        for name, measured in seconds.items():
            start, used = time.monotonic(), time.process_time()
            if name == "in ranges":
                with listed(storage, "s3://bucket/in", lambda _: True) as found:
                    count = len(found)
            else:
                count = len(storage.find("s3://bucket/in"))
            measured.append(time.monotonic() - start)
            cpu[name].append(time.process_time() - used)
            if count != config.keys:
                raise SystemExit(f"{count} of {config.keys} keys {name}")
    server.terminate()
    row = "{:>16}  {:>8}  {:>8}  {:>10}\n"
    sys.stdout.write(row.format("", "seconds", "CPU s", "keys/s"))
    for name, measured in seconds.items():
        best, least = min(measured), min(cpu[name])
        sys.stdout.write(
            row.format(name, f"{best:.1f}", f"{least:.1f}", f"{config.keys / best:,.0f}")
        )


def serve(pipe: Connection, config: Config) -> None:
    """The server; its port goes through the pipe."""
    keys = sorted(f"in/{n * 2654435761 % 2**32:08x}/{n:09}.jpg" for n in range(config.keys))
    handler = partial(Bucket, keys, config.latency_ms / 1e3)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    pipe.send(server.server_port)
    server.serve_forever()


class Bucket(BaseHTTPRequestHandler):
    """Lists keys as S3 does, and knows nothing else."""

    protocol_version = "HTTP/1.1"

    def __init__(self, keys: list[str], latency_s: float, *args: object) -> None:
        self.keys = keys
        self.latency_s = latency_s
        super().__init__(*args)  # pyright: ignore[reportArgumentType]

    def do_HEAD(self) -> None:
        """No object has the name of the folder."""
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """A page of keys."""
        time.sleep(self.latency_s)
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        prefix = asked.get("prefix", "")
        after = asked.get("continuation-token") or asked.get("start-after", "")
        first = max(bisect_left(self.keys, prefix), bisect_right(self.keys, after))
        page = self.keys[first : first + min(PAGE, int(asked.get("max-keys", PAGE)))]
        page = [key for key in page if key.startswith(prefix)]
        more = bool(page) and page[-1] != self.keys[-1]
        told = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
            '<ETag>"d41d8cd98f00b204e9800998ecf8427e"</ETag><Size>100000</Size>'
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        body = (
            f"<ListBucketResult><Name>bucket</Name><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{told}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

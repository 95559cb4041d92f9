"""What lies at a source: all of it, in order, whatever the server, in memory that does not grow."""

import os
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from jobs.runtime import listing
from jobs.runtime.listing import _between, _cut, listed
from jobs.runtime.storage import Entry, Storage, StorageConfig, join, walk
from tests.flaky_s3 import Request, flaky_s3

ODD = (
    "a/b.jpg",
    "a-b.jpg",
    "a.jpg",
    "ä/ü+ %41#?.jpg",
    "a/c d.jpg",
    "b//c.jpg",
    "a0/1.jpg",
    "Z.jpg",
)


@pytest.fixture(params=["local", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, s3: StorageConfig, bucket: str
) -> tuple[Storage, str]:
    return (Storage(), str(tmp_path)) if request.param == "local" else (Storage(s3), bucket)


def everything(storage: Storage, uri: str) -> list[Entry]:
    with listed(storage, uri, lambda _: True) as found:
        entries = list(found)
        assert len(found) == len(entries)
        assert list(found) == entries  # a second time
        return entries


def test_a_listing_has_what_find_has_in_its_order(place: tuple[Storage, str]):
    storage, root = place
    names = [name for name in ODD if "//" not in name or root.startswith("s3://")]
    store = storage.fsspec(root)
    for name in names:
        store.makedirs(join(root, "in", name).rpartition("/")[0], exist_ok=True)
        store.pipe_file(join(root, "in", name), name.encode())
    storage.put(join(root, "in2", "other.jpg"), b"")

    found = everything(storage, join(root, "in"))

    assert [e.uri for e in found] == sorted(f"{root}/in/{name}" for name in names)
    assert [e.size for e in found] == [len(e.uri.encode()) - len(f"{root}/in/") for e in found]
    assert found == storage.find(join(root, "in"))
    for uri in ("in/a.jpg", "in/a*.jpg", "in/**/*.jpg", "in/a/*", "in/[ab].jpg", "none", "in/z*"):
        assert everything(storage, join(root, uri)) == storage.find(join(root, uri)), uri
    with listed(storage, join(root, "in"), lambda uri: uri.endswith("c d.jpg")) as some:
        assert [e.uri for e in some] == [join(root, "in/a/c d.jpg")]


def test_a_bucket_that_is_not_there_is_empty(s3: StorageConfig):
    assert everything(Storage(s3), "s3://no-such-bucket-1/in") == []


def test_many_keys_are_listed_in_ranges_at_once(
    s3: StorageConfig, s3_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    storage = Storage(s3)
    names = [f"{n % 7}/{n:05}.jpg" for n in range(100)] + [f"x{n}" for n in range(9)]
    folder = ["3/"]  # what consoles make for one
    storage.fsspec(bucket).pipe({f"{bucket}/in/{name}": b"" for name in names + folder})
    monkeypatch.setattr(listing, "HEAD", 20)
    monkeypatch.setattr(listing, "NUM_RANGES", 8)

    with flaky_s3(s3_endpoint, lambda _: 0) as counted:
        found = everything(Storage(replace(s3, endpoint=counted.endpoint)), f"{bucket}/in")

    assert [e.uri for e in found] == sorted(f"{bucket}/in/{name}" for name in names)
    assert sum("start-after" in request.path for request in counted.seen) > 8


class Keys:
    """A server's keys, all in one place; answers as S3 does, and counts what it is asked."""

    def __init__(self, names: list[str]) -> None:
        self.entries = [
            Entry(uri=f"s3://b/in/{name}", size=1, mtime_ns=1) for name in sorted(names)
        ]
        self.asked: Counter[int] = Counter()

    def __call__(self, after: str, most: int) -> list[Entry]:
        self.asked[most] += 1
        return [entry for entry in self.entries if entry.uri > after][:most]


@pytest.mark.parametrize(
    ("names", "at_least"),
    [
        ([f"img_{n:09}.jpg" for n in range(3000)], 64),
        ([f"{n * 2654435761 % 2**32:08x}/x.jpg" for n in range(3000)], 64),
        ([f"{'train' if n % 9 else 'val'}/{n % 40:02}/{n}.jpg" for n in range(3000)], 40),
        (["a", "aa", "aaa", "ab", "b", "b\ud7ff", "b\uffff", "b\U0001f600x", "in/"], 3),
        (["only.jpg"], 1),
    ],
)
def test_ranges_hold_every_key_once_and_about_as_many_each(names: list[str], at_least: int):
    page, stop = Keys(names), threading.Event()
    with ThreadPoolExecutor(4) as pool:
        bounds = _cut(page, "s3://b/in/", "", pool)
    probes = page.asked.total()
    ranges = [list(_between(page, *each, stop)) for each in pairwise(bounds)]

    found = [entry.uri for each in ranges for entry in each]
    assert found == [e.uri for e in page.entries if not e.uri.endswith("/")]
    assert len(ranges) >= at_least
    assert probes <= 40 + 3 * len(ranges)
    if len(names) == 3000:
        assert max(map(len, ranges)) < 3000 / at_least * 3


class Unordered(BaseHTTPRequestHandler):
    """A bucket that lists by another order, as directory buckets of S3 do."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def do_GET(self) -> None:
        keys = "".join(
            f"<Contents><Key>in/{name}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
            f"<ETag>1</ETag><Size>{size}</Size></Contents>"
            for size, name in enumerate(("b.jpg", "c.png", "a.jpg"))
        )
        body = f"<ListBucketResult><Name>bucket</Name>{keys}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def test_what_a_server_lists_out_of_order_is_put_in_order(s3: StorageConfig):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unordered)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        storage = Storage(replace(s3, endpoint=f"http://127.0.0.1:{server.server_port}"))
        found = everything(storage, "s3://bucket/in")
        some = everything(storage, "s3://bucket/in/*.jpg")
    finally:
        server.shutdown()
        server.server_close()
    told = [(e.uri.rpartition("/")[2], e.size) for e in found]
    assert told == [("a.jpg", 2), ("b.jpg", 0), ("c.png", 1)]
    assert some == found[:2]


def test_an_outage_while_listing_ends_it_and_leaves_no_file(
    s3: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = Storage(replace(s3, endpoint="http://127.0.0.1:9", max_attempts=1))
    with pytest.raises(OSError, match=r"s3://bucket/in: .*127\.0\.0\.1:9"):
        listing._s3_pages(dead, "s3://bucket/in")("", 1)
    with (
        pytest.raises(OSError, match=r"127\.0\.0\.1:9"),
        listed(dead, "s3://bucket/in/*.jpg", lambda _: True),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_page_that_fails_is_asked_for_again_and_then_ends_it(
    s3: StorageConfig, s3_endpoint: str, bucket: str
):
    Storage(s3).put(f"{bucket}/in/a.jpg", b"1")
    most = [1]

    def fails(request: Request) -> int:
        return 503 if "list-type=2" in request.path and request.number < most[0] else 0

    with flaky_s3(s3_endpoint, fails) as flaky:
        storage = Storage(replace(s3, endpoint=flaky.endpoint, max_attempts=3))
        assert [e.size for e in everything(storage, f"{bucket}/in")] == [1]
        most[0] = 1_000
        storage.config = replace(storage.config, max_attempts=1)
        with pytest.raises(OSError, match="told to fail"):
            everything(storage, f"{bucket}/in")


def test_a_full_temporary_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x.jpg").write_bytes(b"1")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(listing, "_write", full)
    with (
        pytest.raises(RuntimeError, match="set TMPDIR"),
        listed(Storage(), str(tmp_path), lambda _: True),
    ):
        pass


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "in" / "a" / "1.jpg").write_bytes(b"1")
    (tmp_path / "other" / "2.jpg").write_bytes(b"22")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "a" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in" / "self")
    (tmp_path / "in" / "late.jpg").symlink_to(tmp_path / "other" / "2.jpg")
    os.mkfifo(tmp_path / "in" / "pipe.jpg")

    found = list(walk(str(tmp_path / "in")))

    names = [(e.uri.removeprefix(f"{tmp_path}/in/"), e.size) for e in found]
    assert names == [("a/1.jpg", 1), ("late.jpg", 2), ("link/2.jpg", 2)]

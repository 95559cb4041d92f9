"""What lies at a source: all of it, in order, whatever the server, in memory that does not grow."""

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from jobs.runtime import listing
from jobs.runtime.listing import _between, _cut, listed
from jobs.runtime.s3_pages import s3_pages
from jobs.runtime.storage import Entry, Storage, StorageConfig, endpoint_of, join, walk
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


def test_a_server_may_give_fewer_keys_than_it_is_asked_for(
    s3: StorageConfig, s3_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    names = [f"{n % 7}/{n:05}.jpg" for n in range(100)]
    Storage(s3).fsspec(bucket).pipe({f"{bucket}/in/{name}": b"" for name in names})
    monkeypatch.setattr(listing, "NUM_RANGES", 8)
    for head in (20, 20_000):
        monkeypatch.setattr(listing, "HEAD", head)
        with flaky_s3(s3_endpoint, lambda _: 0, most_keys=3) as few:
            found = everything(Storage(replace(s3, endpoint=few.endpoint)), f"{bucket}/in")
        assert [e.uri for e in found] == sorted(f"{bucket}/in/{name}" for name in names)


def test_an_empty_answer_that_is_not_the_last_is_followed(s3: StorageConfig):
    more = "<IsTruncated>true</IsTruncated>"
    token = "<NextContinuationToken>on</NextContinuationToken>"
    empty = f"<ListBucketResult>{more}{token}</ListBucketResult>"
    bodies = [empty, empty, f"<ListBucketResult>{contents('in/a.jpg')}</ListBucketResult>"]
    with (
        answering(s3, *bodies) as storage,
        flaky_s3(endpoint_of(storage.config), lambda _: 0) as seen,
    ):
        page = s3_pages(replace(storage.config, endpoint=seen.endpoint), "s3://bucket/in/", 1)
        assert [e.uri for e in page("", 9)] == ["s3://bucket/in/a.jpg"]
    assert ["continuation-token=on" in each.path for each in seen.seen] == [False, True, True]

    with answering(s3, f"<ListBucketResult>{more}</ListBucketResult>") as storage:
        page = s3_pages(storage.config, "s3://bucket/in/", 1)
        with pytest.raises(OSError, match="leads nowhere"):
            page("", 9)


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


class Answering(BaseHTTPRequestHandler):
    """A server that has an answer to whatever is listed, the last one again and again."""

    def __init__(self, bodies: list[str], *args: Any) -> None:
        self.bodies = bodies
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def do_GET(self) -> None:
        body = (self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def answering(config: StorageConfig, *bodies: str) -> Iterator[Storage]:
    handler = partial(Answering, list(bodies))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Storage(replace(config, endpoint=f"http://127.0.0.1:{server.server_port}"))
    finally:
        server.shutdown()
        server.server_close()


def contents(key: str, size: int = 1, time: str = "2026-01-02T03:04:05.678Z") -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>{time}</LastModified>"
        f"<ETag>1</ETag><Size>{size}</Size></Contents>"
    )


def test_what_a_server_lists_out_of_order_is_put_in_order(s3: StorageConfig):
    keys = "".join(contents(f"in/{name}", n) for n, name in enumerate(("b.jpg", "c.png", "a.jpg")))
    with answering(s3, f"<ListBucketResult>{keys}</ListBucketResult>") as storage:
        found = everything(storage, "s3://bucket/in")
        some = everything(storage, "s3://bucket/in/*.jpg")
    told = [(e.uri.rpartition("/")[2], e.size) for e in found]
    assert told == [("a.jpg", 2), ("b.jpg", 0), ("c.png", 1)]
    assert some == found[:2]


def test_keys_are_read_as_a_server_writes_them(s3: StorageConfig):
    space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    plain = contents("in/a%20+b&amp;ü.jpg", 5_000_000_000)
    encoded = contents("in%2Fa+b%2520%01%C3%BC.jpg", time="2026-01-02T05:04:05+02:00")
    for head, key, size, name, fraction in (
        ("", plain, 5_000_000_000, "a%20+b&ü.jpg", 678_000_000),
        ("<EncodingType>url</EncodingType>", encoded, 1, "a b%20\x01ü.jpg", 0),
    ):
        body = f"<ListBucketResult {space}>{head}{key}</ListBucketResult>"
        with answering(s3, body) as storage:
            entries = s3_pages(storage.config, "s3://bucket/in/", 1)("", 1000)
        ns = 1767323045 * 10**9 + fraction
        assert entries == [Entry(uri=f"s3://bucket/in/{name}", size=size, mtime_ns=ns)]


@pytest.mark.parametrize(
    ("body", "told", "asked"),
    [
        ("<ListBucketResult><Contents><Key>in/a.jpg", "s3://bucket/in/: ", 2),
        (
            "<Error><Code>InternalError</Code><Message>try</Message></Error>",
            "InternalError.*try",
            2,
        ),
        (f"<ListBucketResult>{contents('a', time='')}</ListBucketResult>", "no listing", 1),
        ("<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>", "no listing", 1),
    ],
)
def test_an_answer_that_is_no_listing_is_an_outage(
    s3: StorageConfig, body: str, told: str, asked: int
):
    with (
        answering(replace(s3, max_attempts=2), body) as storage,
        flaky_s3(endpoint_of(storage.config), lambda _: 0) as seen,
    ):
        page = s3_pages(replace(storage.config, endpoint=seen.endpoint), "s3://bucket/in/", 1)
        with pytest.raises(OSError, match=told):
            page("", 1)
    assert len(seen.seen) == asked


def test_who_may_not_list_is_told_so_and_requests_are_signed_for_their_region(
    s3: StorageConfig, s3_endpoint: str
):
    with flaky_s3(s3_endpoint, lambda _: 403) as closed:
        for config in (replace(s3, region="eu-west-3"), replace(s3, anonymous=True)):
            page = s3_pages(replace(config, endpoint=closed.endpoint), "s3://bucket/in/", 1)
            with pytest.raises(PermissionError, match="s3://bucket/in/: .*told to fail"):
                page("", 1)
    assert "/eu-west-3/s3/aws4_request" in closed.seen[0].signed
    assert [request.signed for request in closed.seen[1:]] == [""]


def test_an_outage_while_listing_ends_it_and_leaves_no_file(
    s3: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = Storage(replace(s3, endpoint="http://127.0.0.1:9", max_attempts=1))
    with pytest.raises(OSError, match=r"s3://bucket/in: .*127\.0\.0\.1:9"):
        s3_pages(dead.config, "s3://bucket/in", 1)("", 1)
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


def test_a_range_that_fails_ends_the_others(
    s3: StorageConfig, s3_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    names = [f"a{n}" for n in range(8)] + [f"b{n:03}" for n in range(200)]
    Storage(s3).fsspec(bucket).pipe({f"{bucket}/in/{name}": b"" for name in names})
    for name, value in (("PAGE", 2), ("HEAD", 4), ("NUM_RANGES", 2)):
        monkeypatch.setattr(listing, name, value)
    in_the_second = threading.Event()

    def fails(request: Request) -> int:
        if "start-after=in%2Fa3" in request.path:
            in_the_second.wait(60)
            return 500
        if "max-keys=2" in request.path and "start-after=in%2Fb" in request.path:
            in_the_second.set()
            time.sleep(0.05)
        return 0

    with flaky_s3(s3_endpoint, fails) as flaky:
        storage = Storage(replace(s3, endpoint=flaky.endpoint, max_attempts=1))
        with pytest.raises(OSError, match="told to fail"):
            everything(storage, f"{bucket}/in")
    assert 0 < sum("start-after=in%2Fb" in request.path for request in flaky.seen) < 60


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

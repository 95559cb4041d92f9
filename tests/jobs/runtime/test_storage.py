import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs.runtime.storage import Storage, StorageConfig, absolute, join, relative
from tests.flaky_s3 import Request, flaky_s3

ODD_NAMES = [
    *("a b.jpg", "c#d.jpg", "e%20f.jpg", "g+h.jpg", "ü/日本.jpg"),
    *("x/y/z.png", "q?.gif", "[1].jpg", "a&b=c.jpg"),
]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, str]:
    """Local disk and S3 keep the same promises."""
    if request.param == "local":
        return Storage(), str(tmp_path)
    config = request.getfixturevalue("s3")
    return Storage(config), request.getfixturevalue("bucket")


def test_names_with_odd_characters_are_listed_and_read_as_they_are(place: tuple[Storage, str]):
    storage, root = place
    for name in ODD_NAMES:
        storage.put(join(root, "in", name), name.encode())

    entries = storage.find(join(root, "in"))

    assert [relative(e.uri, join(root, "in")) for e in entries] == sorted(ODD_NAMES)
    for entry in entries:
        assert storage.read(entry.uri).decode() == relative(entry.uri, join(root, "in"))
        assert entry.size == len(storage.read(entry.uri))
        assert entry.mtime_ns > 0


def test_a_glob_selects_and_a_name_that_looks_like_one_is_itself(place: tuple[Storage, str]):
    storage, root = place
    for name in ODD_NAMES:
        storage.put(join(root, name), b"1")

    assert [relative(e.uri, root) for e in storage.find(join(root, "**/*.png"))] == ["x/y/z.png"]
    assert len(storage.find(join(root, "*.jpg"))) == 6
    assert [e.uri for e in storage.find(join(root, "[1].jpg"))] == [join(root, "[1].jpg")]


def test_put_replaces_whole_and_delete_is_repeatable(place: tuple[Storage, str]):
    storage, root = place
    uri = join(root, "new/folder/x.bin")
    storage.put(uri, b"first")
    storage.put(uri, b"second")

    assert storage.read(uri) == b"second"
    assert [e.uri for e in storage.find(root)] == [uri]
    storage.delete(uri)
    storage.delete(uri)
    assert storage.stat(uri) is None
    assert storage.find(join(root, "never")) == []
    with pytest.raises(FileNotFoundError):
        storage.read(uri)


@pytest.mark.slow
def test_more_than_a_thousand_keys_are_listed(s3: StorageConfig, bucket: str):
    storage = Storage(s3)
    storage.fsspec(bucket).pipe({f"{bucket}/many/{i:05}.jpg": b"1" for i in range(1205)})

    assert len(storage.find(f"{bucket}/many")) == 1205


def test_an_object_larger_than_a_request_arrives_whole(s3: StorageConfig, bucket: str):
    data = os.urandom(17_000_000)
    Storage(s3).put(f"{bucket}/large.bin", data)

    assert Storage(s3).read(f"{bucket}/large.bin") == data


@pytest.mark.parametrize("size", [0, 1_000, 40_000_000])
def test_a_file_is_put_whole_however_large(place: tuple[Storage, str], tmp_path: Path, size: int):
    storage, root = place
    source = tmp_path / "here"
    source.write_bytes(os.urandom(size))
    for _ in range(2):  # a second time it takes the first one's place
        storage.put_file(join(root, "there"), source)
    assert storage.read(join(root, "there")) == source.read_bytes()
    assert [e.uri for e in storage.find(join(root, "there"))] == [join(root, "there")]


@pytest.mark.parametrize("size", [100, 25_000_000])
def test_a_put_that_fails_leaves_nothing_of_it(
    s3: StorageConfig, s3_endpoint: str, bucket: str, size: int
):
    """Not even the parts of a large one that had arrived."""

    def fails(request: Request) -> int:
        is_first_part = "partNumber=1" in request.path
        return 403 if request.method == "PUT" and not is_first_part else 0

    with flaky_s3(s3_endpoint, fails) as flaky, pytest.raises(OSError, match="told to fail|DENIED"):
        Storage(replace(s3, endpoint=flaky.endpoint)).put(join(bucket, "x.bin"), bytes(size))
    assert Storage(s3).stat(join(bucket, "x.bin")) is None


def test_throttling_is_waited_for_however_often_it_comes(
    s3: StorageConfig, s3_endpoint: str, bucket: str
):
    """More often than a client's usual budget of repetitions, which all its threads share."""
    uris = [join(bucket, f"{number:03}.bin") for number in range(130)]
    for uri in uris:
        Storage(s3).put(uri, uri.encode() * 20)
    with flaky_s3(s3_endpoint, lambda each: 503 if not each.number else 0) as flaky:
        storage = Storage(replace(s3, endpoint=flaky.endpoint))
        with ThreadPoolExecutor(24) as pool:
            assert list(pool.map(storage.read, uris)) == [uri.encode() * 20 for uri in uris]
    assert sum(not each.number for each in flaky.seen) >= 2 * len(uris)


@pytest.mark.parametrize("opens", [Storage.read, lambda s, uri: s.fsspec(uri).cat(uri)])
def test_region_and_anonymity_reach_the_server(
    s3: StorageConfig, s3_endpoint: str, bucket: str, opens: Callable[[Storage, str], bytes]
):
    uri = join(bucket, "x.bin")
    Storage(s3).put(uri, b"1" * 1000)
    public: Any = Storage(s3).fsspec(uri)
    public.chmod(uri, "public-read")
    with flaky_s3(s3_endpoint, lambda _: 0) as flaky:
        here = replace(s3, endpoint=flaky.endpoint)
        assert opens(Storage(replace(here, region="eu-west-3")), uri) == b"1" * 1000
        assert all("/eu-west-3/s3/" in each.signed for each in flaky.seen)
        flaky.seen.clear()
        assert opens(Storage(replace(here, anonymous=True)), uri) == b"1" * 1000
        assert not any(each.signed for each in flaky.seen)
        assert flaky.seen


@pytest.mark.parametrize("wanted", [True, False])
def test_checksums_that_old_servers_refuse_can_be_left_out(
    s3: StorageConfig, s3_endpoint: str, bucket: str, wanted: bool
):
    """In a process of its own: the AWS library asks once what it is to send."""
    program = (
        "import sys; from jobs.runtime.storage import *\n"
        "config = StorageConfig(endpoint=sys.argv[1], request_checksums=sys.argv[2] == 'True')\n"
        "for size in (10, 9_000_000): Storage(config).put(f'{sys.argv[3]}/{size}', bytes(size))\n"
    )
    with flaky_s3(s3_endpoint, lambda _: 0) as flaky:
        command = [sys.executable, "-c", program, flaky.endpoint, str(wanted), bucket]
        subprocess.run(command, check=True, timeout=120)
    sent = [each for each in flaky.seen if each.method == "PUT"]
    told = [any("checksum" in name or name == "x-amz-trailer" for name in e.headers) for e in sent]
    assert len(sent) >= 2
    assert told == [wanted] * len(sent)
    assert [Storage(s3).read(f"{bucket}/{n}") for n in (10, 9_000_000)] == [
        bytes(10),
        bytes(9 * 10**6),
    ]


def test_a_name_that_is_no_utf_8_is_listed(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"1")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"22")
    entries = Storage().find(str(tmp_path))
    assert [(relative(e.uri, str(tmp_path)), e.size) for e in entries] == [
        ("a.jpg", 1),
        ("caf\\xe9.jpg", 2),
    ]


def test_pandas_opens_results_by_the_same_settings(s3: StorageConfig, bucket: str):
    frame = pd.DataFrame({"id": ["a", "b"]})
    storage = Storage(s3)
    filesystem = storage.fsspec(bucket)
    frame.to_parquet(f"{bucket}/t.parquet", filesystem=filesystem)

    assert pd.read_parquet(f"{bucket}/t.parquet", filesystem=filesystem).equals(frame)


def test_a_failed_local_put_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    storage = Storage()
    storage.put(str(tmp_path / "x"), b"old")

    with pytest.raises(TypeError):
        storage.put(str(tmp_path / "x"), "no bytes")  # pyright: ignore[reportArgumentType]

    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_fetch_caches_remote_files_by_content(s3: StorageConfig, bucket: str):
    storage = Storage(s3)
    storage.put(f"{bucket}/w.bin", b"one")
    first = storage.fetch(f"{bucket}/w.bin")
    storage.put(f"{bucket}/w.bin", b"three")

    assert first.read_bytes() == b"one"
    assert storage.fetch(f"{bucket}/w.bin").read_bytes() == b"three"
    with pytest.raises(FileNotFoundError, match="none.bin"):
        storage.fetch(f"{bucket}/none.bin")


def test_fetch_reads_http_once():
    answered: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answered.append(self.path)
            self.send_response(200 if self.path == "/w.bin" else 404)
            self.end_headers()
            self.wfile.write(b"weights")

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        paths = [Storage().fetch(f"{url}/w.bin") for _ in range(2)]
        with pytest.raises(FileNotFoundError, match="HTTP 404"):
            Storage().fetch(f"{url}/other.bin")
    finally:
        server.shutdown()
        server.server_close()
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == b"weights"
    assert answered == ["/w.bin", "/other.bin"]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("gs://b/x", "gs:// is not read"),
        ("s3://KEY:SECRET@b/x", "credentials"),
        ("s3:///x", "no bucket"),
        ("", "empty"),
    ],
)
def test_a_uri_that_cannot_be_read_is_refused_without_its_secrets(uri: str, said: str):
    with pytest.raises(ValueError, match=said) as refusal:
        absolute(uri)
    assert "SECRET" not in str(refusal.value)


def test_absolute_uris():
    assert absolute("s3://b/a b/") == "s3://b/a b"
    assert absolute("file:///a%20b") == "/a b"
    assert absolute("x/../y") == os.path.join(os.getcwd(), "y")


def test_a_storage_travels_between_processes(s3: StorageConfig, bucket: str):
    storage = Storage(s3)
    storage.put(f"{bucket}/x", b"1")

    assert pickle.loads(pickle.dumps(storage)).read(f"{bucket}/x") == b"1"


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="max_attempts"):
        StorageConfig(max_attempts=0)
    with pytest.raises(ValueError, match="password") as refusal:
        StorageConfig(endpoint="http://user:secret@host")
    assert "secret" not in str(refusal.value)

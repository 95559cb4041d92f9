"""Local paths and s3:// URIs alike: list, read, put whole.

A URI here is an absolute local path or `s3://bucket/key` with the raw key: never percent-encoded,
so a key with a space, `#`, `%` or `+` is written as it is. Bytes go through pyarrow.fs;
`Storage.fsspec` is the door for code that opens files by fsspec (pandas, torch).
"""

import errno
import hashlib
import os
import posixpath
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from jobs.runtime.folders import files_below

S3 = "s3://"
ONE_REQUEST_BYTES = 8_000_000
"""that pyarrow is given to put; above it uploads in parts, and completes what an error broke off"""
PART_BYTES = 16 << 20
"""of a file that is uploaded; ten parts are in memory at a time"""
GLOB_CHARACTERS = frozenset("*?[")
FORBIDDEN = ("AWS Error ACCESS_DENIED", "AWS Error INVALID_OBJECT_STATE", "InvalidObjectState")
"""in pyarrow's words: of a key that one may not read, or that lies in an archive (Glacier)"""
UNNAMEABLE = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """How object storage is reached. Keys come from the AWS environment, never from here."""

    endpoint: str = ""
    """URL of an S3-compatible server; empty: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else AWS"""
    region: str = ""
    """bucket region; empty: AWS_REGION, AWS_DEFAULT_REGION, else us-east-1"""
    anonymous: bool = False
    """read public buckets without credentials"""
    max_attempts: int = 10
    """tries of one request before an outage ends the attempt"""
    connect_timeout_s: float = 10.0
    """seconds to wait for a connection"""
    request_timeout_s: float = 60.0
    """seconds to wait for an answer"""
    request_checksums: bool = True
    """send the checksums that new servers know; older ones (Ceph 16) refuse them"""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"storage.max_attempts: {self.max_attempts}, must be at least 1")
        if urlsplit(self.endpoint).password:
            raise ValueError("storage.endpoint: holds a password; give keys by AWS_* variables")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stored object, as a listing shows it."""

    uri: str
    size: int
    mtime_ns: int
    """last change, ns since 1970; S3 gives whole seconds"""


def absolute(uri: str) -> str:
    """The URI that a row may carry: `s3://bucket/key`, or an absolute local path.

    Raises ValueError for another scheme and for credentials in the URI (they would end in logs).
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return os.path.abspath(os.path.expanduser(uri)) if uri else _refuse(uri)
    if scheme == "file":
        return os.path.abspath(unquote(rest))
    if scheme != "s3":
        raise ValueError(f"{uri}: scheme {scheme}:// is not read; accepted: a local path, s3://")
    bucket, _, key = rest.partition("/")
    if "@" in bucket:
        raise ValueError("s3 URI: holds credentials; give them by AWS_ACCESS_KEY_ID and the like")
    if not bucket:
        raise ValueError(f"{uri}: names no bucket")
    return f"{S3}{bucket}/{key.rstrip('/')}".rstrip("/")


def _refuse(uri: str) -> str:
    raise ValueError(f"uri {uri!r}: empty; accepted: a local path, s3://")


def join(uri: str, *names: str) -> str:
    """`uri` with path parts added."""
    return posixpath.join(uri, *names)


def relative(uri: str, root: str) -> str:
    """`uri` as a path below `root`; the last name where they are the same."""
    return uri[len(root) :].removeprefix("/") or posixpath.basename(uri)


def refusal_of(error: OSError | pa.ArrowInvalid) -> str:
    """Why one object cannot be read whenever it is tried; empty where storage is down."""
    if isinstance(error, FileNotFoundError):
        return "gone: it was there when the run was planned"
    if isinstance(error, IsADirectoryError):
        return "gone: a folder has its name now"
    if isinstance(error, PermissionError) or any(word in str(error) for word in FORBIDDEN):
        return f"not allowed to read it: {error}"
    if isinstance(error, pa.ArrowInvalid) or error.errno in UNNAMEABLE:
        return f"not a name that can be read: {error}"
    return ""


class Storage:
    """Reads and writes by URI. Cheap to make, safe to pickle: it connects where it is used."""

    def __init__(self, config: StorageConfig | None = None) -> None:
        self.config = config or StorageConfig()
        self._s3: fs.S3FileSystem | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"config": self.config, "_s3": None}

    def filesystem(self, uri: str) -> tuple[fs.FileSystem, str]:
        """The pyarrow file system of a URI, and the path in it."""
        if not uri.startswith(S3):
            return fs.LocalFileSystem(), uri
        if self._s3 is None:
            self._s3 = self._connect()
        return self._s3, uri[len(S3) :]

    def _connect(self) -> fs.S3FileSystem:
        config = self.config
        if not config.request_checksums:  # the AWS library reads it when the first client is made
            os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
        return fs.S3FileSystem(
            anonymous=config.anonymous,
            endpoint_override=endpoint_of(config) or None,
            region=region_of(config) or "us-east-1",
            connect_timeout=config.connect_timeout_s,
            request_timeout=config.request_timeout_s,
            # backs off; the standard one has a hundred repetitions for all threads together
            retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=config.max_attempts - 1),
            allow_delayed_open=True,  # an object that fits one request is one PUT
            background_writes=False,
        )

    def fsspec(self, uri: str) -> AbstractFileSystem:
        """The fsspec file system of a URI with these settings, for pandas, torch and the like."""
        if not uri.startswith(S3):
            return LocalFileSystem()
        from s3fs import S3FileSystem  # 0.4 s; only who opens files by fsspec pays

        config = self.config
        client = {"region_name": config.region} if config.region else {}
        checksums = (
            {} if config.request_checksums else {"request_checksum_calculation": "when_required"}
        )
        return S3FileSystem(
            anon=config.anonymous,
            endpoint_url=endpoint_of(config) or None,
            client_kwargs=client,
            config_kwargs={
                "connect_timeout": config.connect_timeout_s,
                "read_timeout": config.request_timeout_s,
                "retries": {"total_max_attempts": config.max_attempts, "mode": "standard"},
                **checksums,
            },
        )

    def open_input(self, uri: str) -> pa.NativeFile:
        """A seekable file. Raises FileNotFoundError."""
        filesystem, path = self.filesystem(uri)
        return filesystem.open_input_file(path)

    def open_stream(self, uri: str) -> pa.NativeFile:
        """A file to be read once from its start. Raises FileNotFoundError."""
        filesystem, path = self.filesystem(uri)
        return filesystem.open_input_stream(path, compression=None, buffer_size=1 << 20)

    def read(self, uri: str) -> bytes:
        """All bytes of an object. Raises FileNotFoundError."""
        with self.open_input(uri) as file:
            return file.read()

    def put(self, uri: str, data: bytes | pa.Buffer) -> None:
        """Write an object whole: a reader sees the old one or the new one, never a half.

        S3: one PUT, or a multipart upload, which appears when it is complete and is given up where
        a part of it fails. Local: a temporary file and a rename.
        """
        filesystem, path = self.filesystem(uri)
        if uri.startswith(S3) and len(data) > ONE_REQUEST_BYTES:
            self.fsspec(uri).pipe_file(path, bytes(data))
            return
        if uri.startswith(S3):
            with filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        with _replacing(path) as file:
            file.write(data)

    def put_file(self, uri: str, source: Path) -> None:
        """`put` of what a local file holds, which may be more than memory does."""
        if not uri.startswith(S3):
            with _replacing(uri) as file, source.open("rb") as data:
                shutil.copyfileobj(data, file)
        elif source.stat().st_size > ONE_REQUEST_BYTES:
            self.fsspec(uri).put_file(str(source), uri[len(S3) :], chunksize=PART_BYTES)
        else:
            self.put(uri, source.read_bytes())

    def delete(self, uri: str) -> None:
        """Remove an object; one that is not there is no error."""
        filesystem, path = self.filesystem(uri)
        if self.stat(uri) is not None:
            filesystem.delete_file(path)

    def stat(self, uri: str) -> Entry | None:
        """The object of this name, or None (also for a folder or prefix)."""
        filesystem, path = self.filesystem(uri)
        info = filesystem.get_file_info(path)
        return _entry(uri, info) if info.type == fs.FileType.File else None

    def is_folder(self, uri: str) -> bool:
        """Whether there is a folder, which may be empty, or a prefix of objects."""
        filesystem, path = self.filesystem(uri)
        return filesystem.get_file_info(path).type == fs.FileType.Directory

    def find(self, uri: str) -> list[Entry]:
        """All objects below a folder, prefix or glob, or the one of that very name, sorted by URI.

        A name that holds `*`, `?` or `[` and is there is taken as it is. Nothing there: empty.
        """
        if (single := self.stat(uri)) is not None:
            return [single]
        if not GLOB_CHARACTERS.isdisjoint(uri):
            root, matches = glob_pattern(uri)
            return [entry for entry in self.find(root) if matches(entry.uri)]
        return self.below(uri)

    def below(self, uri: str) -> list[Entry]:
        """All objects below a folder or prefix, sorted by URI; nothing there: empty."""
        if not uri.startswith(S3):
            return list(walk(uri))
        filesystem, path = self.filesystem(uri)
        infos = filesystem.get_file_info(
            fs.FileSelector(path, allow_not_found=True, recursive=True)
        )
        entries = [_entry(S3 + i.path, i) for i in infos if i.type == fs.FileType.File]
        return sorted(entries, key=lambda entry: entry.uri)

    def fetch(self, uri: str) -> Path:
        """A local copy of a file: itself where it is local, else in the cache, fetched once.

        The cache is $ARGUS_CACHE, else ~/.cache/argus; a copy's name holds a hash of the URI and,
        on S3, of size and time of change: a changed object is fetched anew. Reads https:// too.
        Raises FileNotFoundError, OSError.
        """
        if uri.startswith(("https://", "http://")):
            return self._fetch_url(uri)
        uri = absolute(uri)
        entry = self.stat(uri)
        if entry is None:
            raise FileNotFoundError(f"{uri}: not there")
        if not uri.startswith(S3):
            return Path(uri)
        target = _cached(f"{uri} {entry.size} {entry.mtime_ns}", posixpath.basename(uri))
        if not target.exists():
            self.put(str(target), self.read(uri))
        return target

    def _fetch_url(self, url: str) -> Path:
        target = _cached(url, posixpath.basename(urlsplit(url).path))
        if not target.exists():
            try:
                with urllib.request.urlopen(url, timeout=self.config.connect_timeout_s) as answer:
                    self.put(str(target), answer.read())
            except urllib.error.HTTPError as refusal:
                raise FileNotFoundError(f"{url}: HTTP {refusal.code}") from refusal
        return target


def glob_pattern(pattern: str) -> tuple[str, Callable[[str], object]]:
    """The folder or prefix that a glob begins with, and what tells whether a URI matches it.

    Raises ValueError where it begins with none.
    """
    from fsspec.utils import glob_translate

    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if not GLOB_CHARACTERS.isdisjoint(part))
    root = "/".join(parts[:first])
    if root in ("s3:/", "s3:", ""):
        raise ValueError(f"{pattern}: a glob must begin with a folder or a bucket's name")
    return root, re.compile(glob_translate(pattern)).match


def walk(folder: str) -> Iterator[Entry]:
    """All files below a local folder in order of their URIs, see `files_below`."""
    for path, told in files_below(folder):
        yield Entry(uri=path, size=told.st_size, mtime_ns=told.st_mtime_ns)


@contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is written; until then nobody sees it."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{name[:80]}.", suffix=".partial", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def cache_folder() -> Path:
    """Where fetched files are kept: $ARGUS_CACHE, else ~/.cache/argus."""
    return Path(os.environ.get("ARGUS_CACHE") or Path.home() / ".cache" / "argus")


def _cached(identity: str, name: str) -> Path:
    return cache_folder() / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}-{name}"


def region_of(config: StorageConfig) -> str:
    """Region that is asked for, empty where none is."""
    environment = os.environ
    return (
        config.region
        or environment.get("AWS_REGION", "")
        or environment.get("AWS_DEFAULT_REGION", "")
    )


def endpoint_of(config: StorageConfig) -> str:
    """URL of the server that is asked for, empty for AWS."""
    environment = os.environ
    return (
        config.endpoint
        or environment.get("AWS_ENDPOINT_URL_S3", "")
        or environment.get("AWS_ENDPOINT_URL", "")
    )


def _entry(uri: str, info: fs.FileInfo) -> Entry:
    return Entry(uri=uri, size=info.size, mtime_ns=info.mtime_ns or 0)

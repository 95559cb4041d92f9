"""What lies in a bucket, page by page.

botocore signs, finds the server and tries again; keys are read out of its answers here, in a
fraction of the time that botocore takes: of a hundred million that is an hour of a core.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

import botocore.session
from botocore import UNSIGNED, handlers
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from jobs.runtime.storage import S3, Entry, StorageConfig, endpoint_of, region_of

LISTED = "Listed"
NEXT = "Next"
"""of an answer that is not the last one: the token that leads on, which may be empty"""


class OutOfOrderError(Exception):
    """A server lists its keys in another order than S3 does, or not from where it was asked to."""


def s3_pages(
    config: StorageConfig, prefix: str, connections: int
) -> Callable[[str, int], list[Entry]]:
    """What lists the keys under a prefix (a URI, which may end inside a name); safe in threads.

    It gives the entries behind a URI, in order, so many at most; fewer: there are no more. A server
    may answer with fewer than it was asked for and have more: it is asked again then.
    A page raises PermissionError where listing is not allowed, OSError where storage is down,
    OutOfOrderError; of a bucket that is not there it is empty.
    """
    bucket, _, start = prefix.removeprefix(S3).partition("/")
    root = f"{S3}{bucket}/"
    client = _client(config, connections)

    def page(after: str, most: int) -> list[Entry]:
        entries: list[Entry] = []
        behind = {"StartAfter": after.removeprefix(root)} if after else {}
        while len(entries) < most:
            answer = answer_to(MaxKeys=most - len(entries), **behind)
            found = [Entry(uri=root + key, size=n, mtime_ns=ns) for key, n, ns in answer[LISTED]]
            uris = [entries[-1].uri if entries else after, *(entry.uri for entry in found)]
            if any(one >= other for one, other in pairwise(uris)):
                raise OutOfOrderError(prefix)
            entries += found
            if NEXT not in answer:
                break
            if found:
                behind = {"StartAfter": found[-1].uri.removeprefix(root)}
            elif answer[NEXT]:
                behind = {"ContinuationToken": answer[NEXT]}
            else:
                raise OSError(f"{prefix}: an empty answer that is not the last and leads nowhere")
        return entries

    def answer_to(**asked: Any) -> dict[str, Any]:
        try:
            answer = client.list_objects_v2(Bucket=bucket, Prefix=start, **asked)
        except ClientError as refusal:
            if refusal.response.get("Error", {}).get("Code") == "NoSuchBucket":
                return {LISTED: []}
            status = refusal.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            raise (PermissionError if status == 403 else OSError)(
                f"{prefix}: {refusal}"
            ) from refusal
        except (BotoCoreError, ResponseParserError) as outage:
            raise OSError(f"{prefix}: {outage}") from outage
        if LISTED not in answer:
            raise OSError(f"{prefix}: an answer that is no listing")
        return answer

    return page


def _client(config: StorageConfig, connections: int) -> Any:
    client = botocore.session.get_session().create_client(
        "s3",
        region_name=region_of(config) or None,
        endpoint_url=endpoint_of(config) or None,
        config=Config(
            connect_timeout=config.connect_timeout_s,
            read_timeout=config.request_timeout_s,
            max_pool_connections=connections,
            retries={"total_max_attempts": config.max_attempts, "mode": "standard"},
            signature_version=UNSIGNED if config.anonymous else None,
        ),
    )
    events = client.meta.events
    if (looks_twice := getattr(handlers, "_handle_200_error", None)) is not None:
        events.unregister("before-parse.s3.*", looks_twice)  # `_read` does what it is for
    events.register("before-parse.s3.ListObjectsV2", _read)
    return client


def _read(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Take a listing out of an answer before botocore reads it.

    An error told with status 200, and what is broken off, become a 500, which is asked for again.
    """
    if response_dict["status_code"] != 200:
        return
    try:
        root = ElementTree.fromstring(response_dict["body"])
    except ElementTree.ParseError:
        root = None
    if root is None or not root.tag.endswith("ListBucketResult"):
        response_dict["status_code"] = 500
        return
    response_dict["body"] = b""
    with suppress(ValueError):
        customized_response_dict[LISTED] = _contents(root)
    space = _space(root)
    if root.findtext(f"{space}IsTruncated", "").strip().lower() == "true":
        customized_response_dict[NEXT] = root.findtext(f"{space}NextContinuationToken", "")


def _space(root: ElementTree.Element) -> str:
    """What stands before every name: servers differ."""
    return root.tag.removesuffix("ListBucketResult")


def _contents(root: ElementTree.Element) -> list[tuple[str, int, int]]:
    """Key, size and time of change (ns since 1970) of what a page lists."""
    space = _space(root)
    key, size, time = (f"{space}{name}" for name in ("Key", "Size", "LastModified"))
    found = [
        (each.findtext(key, ""), int(each.findtext(size, "")), _ns(each.findtext(time, "")))
        for each in root.iterfind(f"{space}Contents")
    ]
    if root.findtext(f"{space}EncodingType") == "url":
        return [(unquote_plus(name), size, ns) for name, size, ns in found]
    return found


def _ns(told: str) -> int:
    """Time as ISO 8601 in ns since 1970."""
    time = datetime.fromisoformat(told)
    return int(time.timestamp()) * 10**9 + time.microsecond * 1000

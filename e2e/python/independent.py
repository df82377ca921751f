#!/usr/bin/env python3
"""A second implementation of the wire format, on the official Python client and its own object store.

independent.py URL ROOT FILE PATH

Reads the log and every blob it names, compares the result with the files below ROOT, then stores FILE under its hash
and publishes an event that puts it at PATH. Ends with 0 when everything agreed.
"""

import asyncio
import base64
import hashlib
import json
import os
import sys
from datetime import datetime, timezone

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, ObjectMeta, ObjectMetaOptions
from nats.js.errors import APIError

MIRROR = "media"
STREAM = "MIRROR_MEDIA"
BUCKET = "MIRROR_MEDIA_BLOBS"
ESCAPED = b"%.*> \x7f"
# Not what mediamirror uses itself: a reader has to take any chunking.
CHUNK = 100_000
WRONG_LAST_SEQUENCE = 10071


def subject_of(path: bytes) -> str:
    """The subject of a path, written from the description of the wire format."""

    def escape(component: bytes) -> str:
        out = ""
        for char in component.decode("utf-8", "surrogateescape"):
            code = ord(char)
            if 0xDC80 <= code <= 0xDCFF:  # A byte that is no UTF-8.
                out += f"%{code - 0xDC00:02X}"
            elif code < 0x20 or (code < 0x80 and code in ESCAPED):
                out += f"%{code:02X}"
            else:
                out += char
        return out

    subject = f"mirror.{MIRROR}." + ".".join(escape(c) for c in path.split(b"/"))
    if len(subject.encode()) > 1024:
        subject = f"mirror.{MIRROR}.%long." + hashlib.sha256(path).hexdigest()
    return subject


def message_id(subject: str, kind: str, sha256: str, replaces: int) -> str:
    parts = (subject, kind, sha256, str(replaces))
    return hashlib.sha256(b"".join(part.encode() + b"\0" for part in parts)).hexdigest()


async def read_log(jetstream) -> list:
    last = (await jetstream.stream_info(STREAM)).state.last_seq
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE)
    subscription = await jetstream.pull_subscribe(f"mirror.{MIRROR}.>", stream=STREAM, config=config)
    events = []
    while not events or events[-1].metadata.sequence.stream < last:
        events += await subscription.fetch(500, timeout=5)
    await subscription.unsubscribe()
    return events


def check(event, seen: dict) -> tuple[bytes, dict]:
    """Decodes an event and checks all that a reader may rely on."""
    fields = json.loads(event.data)
    assert fields["v"] == 1 and fields["type"] in ("added", "removed"), fields
    path = base64.b64decode(fields["path_b64"]) if "path_b64" in fields else fields["path"].encode()
    assert event.subject == subject_of(path), (event.subject, subject_of(path))
    assert fields["replaces"] == seen.get(path, 0), fields
    expected = message_id(event.subject, fields["type"], fields["sha256"], fields["replaces"])
    assert event.headers["Nats-Msg-Id"] == expected, event.headers
    if fields["type"] == "removed":
        assert not {"size", "mtime", "mode"} & fields.keys(), fields
    else:
        datetime.fromisoformat(fields["mtime"].split(".")[0].rstrip("Z"))
        assert int(fields["mode"], 8) <= 0o777, fields
    seen[path] = event.metadata.sequence.stream
    return path, fields


def files_below(root: bytes) -> dict:
    found = {}
    for folder, folders, names in os.walk(root):
        if folder == root and b".mirror" in folders:
            folders.remove(b".mirror")
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = hashlib.sha256(file.read()).hexdigest()
    return found


async def main(url: str, root: str, file: str, path: str) -> None:
    client = await nats.connect(url, connect_timeout=5)
    jetstream = client.jetstream(timeout=10)
    bucket = await jetstream.object_store(BUCKET)

    seen, tree = {}, {}
    for event in await read_log(jetstream):
        at, fields = check(event, seen)
        if fields["type"] == "added":
            tree[at] = fields
        else:
            tree.pop(at, None)
    held = files_below(os.fsencode(root))
    assert {at: fields["sha256"] for at, fields in tree.items()} == held, (tree, held)
    for fields in tree.values():
        blob = await bucket.get(fields["sha256"])
        assert len(blob.data or b"") == fields["size"], (fields, blob.info)
        assert hashlib.sha256(blob.data or b"").hexdigest() == fields["sha256"], fields
    print(f"read {len(tree)} files")

    with open(file, "rb") as opened:
        content = opened.read()
    sha256 = hashlib.sha256(content).hexdigest()
    meta = ObjectMeta(name=sha256, options=ObjectMetaOptions(max_chunk_size=CHUNK))
    await bucket.put(sha256, content, meta=meta)
    subject, now = subject_of(path.encode()), datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {
        "v": 1, "type": "added", "path": path, "sha256": sha256, "size": len(content), "mtime": now,
        "mode": "0644", "node": "python", "replaces": 0, "detected": now, "unknown": ["ignored by readers"],
    }
    headers = {
        "Nats-Msg-Id": message_id(subject, "added", sha256, 0),
        "Nats-Expected-Last-Subject-Sequence": "0",
    }
    stored = await jetstream.publish(subject, json.dumps(fields).encode(), headers=headers)
    try:
        again = await jetstream.publish(subject, json.dumps(fields).encode(), headers=headers)
        assert again.duplicate and again.seq == stored.seq, (stored, again)
    except APIError as error:  # Newer servers look at the expected sequence first.
        assert error.err_code == WRONG_LAST_SEQUENCE, error
    print(f"wrote {path} at {stored.seq}")
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

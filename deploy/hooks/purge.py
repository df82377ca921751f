#!/usr/bin/env python3
"""For --on-change: asks a cache to forget each file that changed, or to fetch it.

    replicator run --on-change 'purge.py https://cdn.example.org/media'
    replicator run --on-change 'purge.py --method GET https://cdn.example.org/media'

Needs Python 3.8 and nothing else. Ends with 1, and so is run again with the same files, when the cache does not answer or refuses; that it does not
have a file (404, 410) is fine.
"""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.parse
import urllib.request

TIMEOUT = 10
NOT_THERE = (404, 410)


def changed(lines):
    """The path of each change as it stands on the disk, each once."""
    paths = {}
    for line in lines:
        change = json.loads(line)
        raw = change.get("path_b64")
        paths[base64.b64decode(raw) if raw else change["path"].encode()] = change["type"]
    return paths


def main():
    arguments = argparse.ArgumentParser(description="Asks a cache to forget or fetch the files that changed.")
    arguments.add_argument("url", help="where the cache has the media folder")
    arguments.add_argument("--method", default="PURGE", help="of the requests [default: PURGE]")
    arguments = arguments.parse_args()
    for path, kind in changed(sys.stdin).items():
        if arguments.method == "GET" and kind == "removed":
            continue
        url = arguments.url.rstrip("/") + "/" + urllib.parse.quote(path)
        try:
            urllib.request.urlopen(urllib.request.Request(url, method=arguments.method), timeout=TIMEOUT).close()
        except urllib.error.HTTPError as error:
            if error.code not in NOT_THERE:
                sys.exit(f"{arguments.method} {url}: {error}")
        except OSError as error:
            sys.exit(f"{arguments.method} {url}: {error}")


main()

"""Puts a file on a pull request as a comment; the second time that comment is changed instead.

python comment.py FILE, with GITHUB_API_URL, GITHUB_REPOSITORY, NUMBER and TOKEN in the environment.
A comment that cannot be written (a pull request from a fork has a token that may only read) is a
warning: the verdict stands in the summary all the same.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

# Invisible on the page; the comment is known by it.
MARK = "<!-- lm-eval-ctx context gate -->"
_PAGE = 100
# GitHub takes no longer comment.
_MOST = 65_000


def main(file: str) -> None:
    """Write or change the comment."""
    issues = f"repos/{os.environ['GITHUB_REPOSITORY']}/issues"
    body = {"body": f"{MARK}\n{Path(file).read_text(encoding='utf-8')[:_MOST]}"}
    try:
        comments = f"{issues}/{os.environ['NUMBER']}/comments"
        ours = _ours(comments)
        if ours is None:
            _call("POST", comments, body)
        else:
            _call("PATCH", f"{issues}/comments/{ours}", body)
    except urllib.error.URLError as error:
        print(f"::warning::The comment cannot be written ({error}); see the summary.")


def _ours(comments: str) -> int | None:
    page = 1
    while found := _call("GET", f"{comments}?per_page={_PAGE}&page={page}"):
        for comment in found:
            if str(comment.get("body", "")).startswith(MARK):
                return int(comment["id"])
        page += 1
    return None


def _call(method: str, path: str, content: Any = None) -> Any:
    request = urllib.request.Request(
        f"{os.environ['GITHUB_API_URL']}/{path}",
        method=method,
        data=None if content is None else json.dumps(content).encode(),
        headers={
            "Authorization": f"Bearer {os.environ['TOKEN']}",
            "Accept": "application/vnd.github+json",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


if __name__ == "__main__":
    main(*sys.argv[1:])

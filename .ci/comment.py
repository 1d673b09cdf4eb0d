"""Put a text into the one comment of this kind on a pull or merge request: written once, replaced from then on.

`python3 .ci/comment.py FILE`, with the variables that GitHub's or GitLab's runner sets and a token. Without a token, a
request or the file it says so and does nothing, for a fork's run may not write. It needs no package.
"""
# ruff: noqa: INP001, T201

import json
import os
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "<!-- randomz: small run -->"
LONGEST = 60_000  # characters; GitHub takes 65,536
PAGE = 100  # comments that are asked for at a time


@dataclass(frozen=True)
class Place:
    """Where the comments of a request are, how one of them is written to, and what the request's headers are."""

    comments: str
    one: str
    method: str
    headers: Mapping[str, str]


def main(words: list[str], variables: Mapping[str, str]) -> int:
    """Write the comment; the exit status is 0 where there is nothing to be done."""
    file, place = Path(words[0]), find_place(variables)
    if place is None or not file.exists():
        print("comment: " + (f"no {file}" if place else "no token, or no pull or merge request") + "; none is written")
        return 0
    text = file.read_text(encoding="utf-8")
    cut = "\n\n(cut here; the artifact has all of it)" if len(text) > LONGEST else ""
    body = {"body": f"{MARKER}\n{text[:LONGEST]}{cut}"}
    mine = find_comment(place)
    if mine is None:
        ask(place, "POST", place.comments, body)
    else:
        ask(place, place.method, place.one.format(mine), body)
    print(f"comment: {'written' if mine is None else 'replaced'}")
    return 0


def find_place(variables: Mapping[str, str]) -> Place | None:
    """GitHub's or GitLab's interface, by the variables of the runner; None without a request or a token."""
    if (token := variables.get("GITHUB_TOKEN")) and (number := variables.get("PULL_REQUEST")):
        issues = f"{variables['GITHUB_API_URL']}/repos/{variables['GITHUB_REPOSITORY']}/issues"
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
        return Place(f"{issues}/{number}/comments", f"{issues}/comments/{{}}", "PATCH", headers)
    if (token := variables.get("GITLAB_TOKEN")) and (number := variables.get("CI_MERGE_REQUEST_IID")):
        project = f"{variables['CI_API_V4_URL']}/projects/{variables['CI_PROJECT_ID']}"
        notes = f"{project}/merge_requests/{number}/notes"
        return Place(notes, f"{notes}/{{}}", "PUT", {"PRIVATE-TOKEN": token})
    return None


def find_comment(place: Place) -> int | None:
    """The comment that an earlier run has written."""
    number = 1
    while page := ask(place, "GET", f"{place.comments}?per_page={PAGE}&page={number}"):
        for comment in page:
            if comment["body"].startswith(MARKER):
                return int(comment["id"])
        number += 1
    return None


def ask(place: Place, method: str, address: str, body: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 (parsed JSON)
    """Send a request; the answer is JSON. Raises urllib.error.HTTPError where it is refused."""
    content = None if body is None else json.dumps(body).encode()
    headers = {**place.headers, "Content-Type": "application/json"}
    request = urllib.request.Request(address, content, headers, method=method)  # noqa: S310 (the runner's own address)
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))

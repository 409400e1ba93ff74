"""The git repository of a project: a clone at the commit that a run came from, and the branch that the run becomes.

The token in GIT_TOKEN is handed over by a credential helper that only this repository's host can ask. It stands in no
URL, command line, file or message.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from components.core.errors import InputError, UsageError
from components.record.tool import run

TOKEN, USER = "GIT_TOKEN", "GIT_USER"
# GitHub and GitLab take any name beside a token.
HELPER = f'!f() {{ test "$1" != get || printf "username=%s\\npassword=%s\\n" "${{{USER}:-token}}" "${TOKEN}"; }}; f'
BRANCHES = "runs"
AUTHOR = {"NAME": "Embedmill", "EMAIL": "embedmill@localhost"}
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_HELPED = re.compile(r"\w+::")  # what git hands to a program of that name
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")


def check(url: str, commit: str) -> None:
    """Raise UsageError for a repository or commit that cannot be meant."""
    if url.startswith("-") or _HELPED.match(url):
        raise UsageError(f"--repository {url}: expected the URL of a git repository")
    if urlsplit(url).password is not None:
        raise UsageError(f"--repository: the URL holds a password; leave it out and put the token into {TOKEN}")
    if not _COMMIT.fullmatch(commit):
        raise UsageError(f"--commit {commit!r}: expected the commit of the run's code, which embedmill submit names")


def check_run(run_id: str) -> None:
    """Raise UsageError for a run's id that cannot be part of a branch's name or of a path."""
    if not _RUN.fullmatch(run_id) or run_id.endswith(".lock"):
        raise UsageError(f"--run {run_id!r}: expected letters, digits and - _ . inside")


@dataclass(frozen=True)
class Clone:
    """A clone of `url` in `folder`."""

    url: str
    folder: Path

    @classmethod
    def make(cls, url: str, folder: Path) -> Clone:
        """Clone `url` into `folder`, which is made. Raises InputError if it cannot be had."""
        clone = cls(url, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        clone._remote("clone", "clone", "--quiet", "--no-checkout", "--", url, str(folder.resolve()))
        return clone

    def check_out(self, commit: str) -> None:
        """Raises InputError if the repository does not have the commit."""
        try:
            self._git("rev-parse", "--quiet", "--verify", f"{commit}^{{commit}}")
        except InputError:
            raise InputError(f"{self.url}: has no commit {commit}; push it, so that the record can name it") from None
        self._git("checkout", "--quiet", "--detach", commit)

    def publish(self, run_id: str, files: tuple[str, ...]) -> tuple[str, bool]:
        """Commit `files` on the run's branch and push it; returns the commit and whether there was anything to do.

        The commit takes its date from its parent, so that attempts that race or come again make one and the same.
        """
        branch = f"{BRANCHES}/{run_id}"
        self._git("add", "--", *files)
        tree, parent = self._git("write-tree"), self._git("rev-parse", "HEAD")
        found = self._git("for-each-ref", "--format=%(objectname) %(tree)", f"refs/remotes/origin/{branch}")
        if found:
            parent, its_tree = found.split()
            if its_tree == tree:
                return parent, False
        date = self._git("show", "--no-patch", "--format=%cI", parent)
        message = f"Run {run_id}: what it made, as DVC keeps it"
        commit = self._git("commit-tree", tree, "-p", parent, "-m", message, env=self._identity(date))
        self._remote("push", "push", "--quiet", "origin", f"{commit}:refs/heads/{branch}")
        return commit, True

    def _identity(self, date: str) -> dict[str, str]:
        configured = self._git("config", "--default", "", "--get", "user.email")
        names = (
            {}
            if configured
            else {f"GIT_{role}_{key}": v for role in ("AUTHOR", "COMMITTER") for key, v in AUTHOR.items()}
        )
        return {**names, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}

    def _git(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        return run(f"git {arguments[0]}", ["git", *arguments], self.folder, env)

    def _remote(self, what: str, *arguments: str) -> None:
        where = self.folder if self.folder.exists() else Path()
        run(f"{self.url}: {what}", ["git", *self._credentials(), *arguments], where)

    def _credentials(self) -> list[str]:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not os.environ.get(TOKEN):
            return []
        host = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        return ["-c", "credential.helper=", "-c", f"credential.{host}.helper={HELPER}"]

"""The log of one container, from its first line to its last, through connections that break.

The API has no cursor. Every line is asked for with its time; after a break the log is asked for again from the second
of the last line, and what has been passed on is left out by time and count. Lines are lost only where the node itself
has thrown them away: when it rotates a log while nobody is connected, or is gone.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import Any

from components.launch.apiserver import ApiError, ApiServer, Object, Passing, Wait

_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")


class Position:
    """How far a log has been read: the time of the last line and how many lines have had just this time."""

    def __init__(self) -> None:
        self.since = ""
        """The second of the last line, as `sinceTime` takes it; empty before the first line."""
        self._last: tuple[str, int] = ("", 0)
        self._count = self._skip = 0
        self._resuming = False

    def resume(self) -> None:
        """The next lines may be ones that have been passed on."""
        self._skip, self._resuming = self._count, True

    def new(self, line: bytes) -> str | None:
        """The text of a line with its time before it; None if it has been passed on already."""
        match = _STAMP.match(line)
        if match is None:  # the node's own words, such as an error while it reads the log
            return _text(line)
        second, fraction, zone = match.groups()
        # one container's lines come in one zone, so that text compares as time does
        time = (second.decode(), int((fraction or b"").ljust(9, b"0")))
        if self._resuming:
            if time < self._last:
                return None
            if time == self._last and self._skip:
                self._skip -= 1
                return None
            self._resuming = time == self._last
        self._count = self._count + 1 if time == self._last else 1
        self._last, self.since = time, (second + zone).decode()
        return _text(line[match.end() :])


class Container:
    """A container of a pod as the API shows it now."""

    def __init__(self, pod: Object, name: str) -> None:
        status = pod.get("status", {})
        statuses = [each for each in status.get("containerStatuses") or [] if each["name"] == name]
        self.status: Object = statuses[0] if statuses else {}
        self.restarts = int(self.status.get("restartCount", 0))
        self.over = status.get("phase") in ("Succeeded", "Failed")

    @property
    def started(self) -> bool:
        """Whether it runs or has run, so that there is a log."""
        return bool(self.ended or self.status.get("state", {}).get("running"))

    @property
    def waiting(self) -> Object:
        """Why it does not run (`reason`, `message`), or nothing."""
        return self.status.get("state", {}).get("waiting") or {}

    @property
    def ended(self) -> Object:
        """How it ended last (`exitCode`, `reason`, `finishedAt`), or nothing."""
        for state in (self.status.get("state", {}), self.status.get("lastState", {})):
            if state.get("terminated"):
                terminated: Object = state["terminated"]
                return terminated
        return {}


def follow(api: ApiServer, pod: str, container: str, wait: Wait) -> Iterator[str]:
    """Lines without their time, until the container has ended for good or its pod is gone.

    `pod` is its path, `/api/v1/namespaces/NS/pods/NAME`.
    """
    position, restarts, delay = Position(), 0, api.pace.first
    while True:
        before = position.since
        try:
            now = Container(api.get(pod, wait), container)
            if now.restarts > restarts and position.since:
                yield from _read(api, pod, container, position, previous=True)
            restarts = now.restarts
            # what is over is read once more, to its end: the connection may have broken before the last line
            whole = yield from _read(api, pod, container, position, follow=not now.over)
        except ApiError as error:
            if error.status == 404:
                return
            if error.status != 400:  # 400: no log yet, or none any more
                raise
            whole = True
        if now.over and whole:
            return
        wait(delay)
        delay = api.pace.first if position.since != before else min(2 * delay, api.pace.longest)


def _read(
    api: ApiServer, pod: str, container: str, position: Position, follow: bool = False, previous: bool = False
) -> Generator[str, None, bool]:
    """The new lines of one connection, and whether it lasted to the end."""
    position.resume()
    wanted = {"sinceTime": position.since, "follow": follow, "previous": previous}
    query: dict[str, Any] = {key: value for key, value in wanted.items() if value}
    try:
        for line in api.lines(f"{pod}/log", api.pace.answer, container=container, timestamps=True, **query):
            if follow and not line.endswith(b"\n"):  # the rest of the line comes with the next connection
                return False
            text = position.new(line)
            if text is not None:
                yield text
    except Passing as trouble:
        if "timed out" not in str(trouble):  # that is how a quiet log is found out to be still there
            api.remind("log", f"the connection to a log broke ({trouble}); trying again")
        return False
    return True


def _text(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode(errors="replace")

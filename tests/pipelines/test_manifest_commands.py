"""Every command line of ours in a manifest is one that `embedmill` takes; test_local_overlay starts the others."""

from __future__ import annotations

from typing import Any

import click
import pytest

from components.cli import cli
from tests.pipelines.rendered import TARGETS, pods, render


def parse(command: click.Command, words: list[str]) -> dict[str, Any]:
    """The options of the command that `words` lead to, without running it. Raises click's UsageError."""
    name, *rest = words
    context = command.make_context(name, rest)
    if not isinstance(command, click.Group):
        return context.params
    with context:
        _, chosen, left = command.resolve_command(context, [*context._protected_args, *context.args])
    assert chosen is not None
    return parse(chosen, [str(chosen.name), *left])


def commands() -> list[Any]:
    """Our own command lines, each with the resource in which it stands."""
    found = {
        (pod.owner, *container["command"]): container["command"]
        for target in TARGETS
        for pod in pods(render(target))
        for container in pod.containers
        if container.get("command", [""])[0] == "embedmill"
    }
    return [pytest.param(command, id=owner) for (owner, *_), command in found.items()]


@pytest.mark.parametrize("command", commands())
def test_our_own_command_lines(command: list[str]) -> None:
    parse(cli, command)


def test_a_wrong_option_or_command_is_seen() -> None:
    for words in (["embedmill", "flywheel", "poll", "--sbmit=x"], ["embedmill", "flywheel", "pull"]):
        with pytest.raises(click.UsageError):
            parse(cli, words)

"""Errors that reach a person: one clear line each, with the exit code that scripts can rely on."""

from __future__ import annotations


class EmbedmillError(Exception):
    """Base of every expected failure. The message is one line that says what is wrong and what would be right."""

    exit_code = 1


class UsageError(EmbedmillError):
    """Wrong parameters or wrong usage: says which key and what is allowed."""

    exit_code = 2


class InputError(EmbedmillError):
    """Unusable input or output location: says which file, which row and why."""

    exit_code = 3


class MissingFile(InputError):
    """A file is not there, or not any more: another run may have finished with it."""


class GateRefused(EmbedmillError):
    """A quality gate refused the model: says which rule and by how much."""

    exit_code = 4


class Interrupted(EmbedmillError):
    """Stopped by a signal; finished work is kept and the same command goes on from there."""

    exit_code = 5

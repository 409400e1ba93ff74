"""Chats: the first exchange of a conversation as question and answer.

Later turns lean on what was said before ("and the second one?"), so they make no pair that stands by itself; only the
first user message and the assistant's answer to it are taken. A system message is no part of either.
"""

from __future__ import annotations

from typing import Any

USERS = ("user", "human")
ASSISTANTS = ("assistant", "gpt", "bot", "model", "chatgpt")


def first_exchange(messages: Any) -> tuple[str, str] | str:
    """Question and answer of `[{role, content}, …]` or ShareGPT's `[{from, value}, …]`; else what is wrong, in words.

    Messages of one side that follow each other are one, joined by an empty line. A content may be a list of parts, of
    which the texts count.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return "expected a list of messages, each with role and content or from and value"
    question: list[str] = []
    answer: list[str] = []
    for message in messages:
        role = str(message.get("role", message.get("from"))).lower()
        text = _text(message.get("content", message.get("value")))
        if role in USERS:
            if answer:
                break
            question.append(text)
        elif role in ASSISTANTS and question:
            answer.append(text)
    if not question or not answer:
        roles = ", ".join(dict.fromkeys(str(message.get("role", message.get("from"))) for message in messages))
        return f"no user message with an answer among the roles {roles or '(none)'}"
    return "\n\n".join(filter(None, question)), "\n\n".join(filter(None, answer))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content.strip()
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in content)
        return "\n".join(part.strip() for part in parts if isinstance(part, str))
    return ""

"""Replies before and after: written, scored, timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from course_utils.measures import Measure, share
from course_utils.models.inputs import as_texts
from course_utils.prisma import conversations
from course_utils.prisma.conversations import Conversation
from course_utils.settings import paced

if TYPE_CHECKING:
    from course_utils.models.roles import Chat


def replies(chat: Chat, talks: Sequence[Conversation]) -> list[str]:
    """What the model answers to each conversation, greedy, at most 120 tokens (at the quick pace 16)."""
    prompts = [chat.prompt(talk.prompt) for talk in talks]
    return chat.complete_many(prompts, max_new_tokens=paced(120))


def score(talks: Sequence[Conversation], written: Sequence[str]) -> dict[str, Measure]:
    """The share of replies with each part of the house style right, and of those fit to be sent ("all")."""
    written = as_texts(written, "replies")
    pairs = list(zip(talks, written, strict=True))
    checks = [conversations.parts_right(talk, text) for talk, text in pairs]
    shares = {}
    for name in checks[0]:
        shares[name] = share([check[name] for check in checks])
    whole = [conversations.graded(talk, text) for talk, text in pairs]
    return {**shares, "all": share(whole)}


def reply_times(chat: Chat, prompt: str, rounds: int = 8, tokens: int = 16) -> dict[str, list[float]]:
    """Milliseconds per token of a reply, with PEFT's adapter beside the weights and merged into them.

    Both in turn, `rounds` times after one for warming up. Leaves the adapter unmerged.
    """
    taken: dict[str, list[float]] = {"adapter beside the weights": [], "merged": []}
    for turn in range(-1, rounds):
        for name, change in zip(taken, (lambda: None, chat.model.merge_adapter), strict=True):
            change()
            started = time.perf_counter()
            chat.complete(prompt, max_new_tokens=tokens)  # waits for the text, so for the GPU too
            if turn >= 0:
                taken[name].append(1000 * (time.perf_counter() - started) / tokens)
        chat.model.unmerge_adapter()
    return taken

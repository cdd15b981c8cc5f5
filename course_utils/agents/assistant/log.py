"""The log: one JSON line for each thing that happened, without what was said unless somebody chose that aloud."""

import json
from datetime import UTC, datetime
from pathlib import Path

# What helps to find a fault and tells nothing about a person.
PLAIN = ("kind", "tool", "ok", "refused", "stopped", "milliseconds", "decision")


class Log:
    """A JSONL file. With `content` it also keeps words and arguments, which can hold personal data."""

    def __init__(self, path: Path, content: bool = False) -> None:
        self.path, self.content = path, content

    def note(self, event: str, **facts: object) -> None:
        """Add a line. Facts that are not PLAIN are written with `content` alone."""
        kept = {name: value for name, value in facts.items() if self.content or name in PLAIN}
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"at": now, "event": event, **kept}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict]:
        """All lines, the oldest first."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]

    @property
    def notice(self) -> str:
        """What the front end tells people about this log."""
        if self.content:
            return "This assistant's log keeps every word that you say or write, and every answer."
        return "This assistant's log keeps what kind of thing was done and when, and none of your words."

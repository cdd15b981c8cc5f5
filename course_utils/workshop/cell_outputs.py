"""What a cell may put out when a notebook is executed: joined as a reader sees it, and never without a limit.

nbclient joins streams with a search that takes the square of the longest line: one line of a million letters
keeps the interpreter busy, and deaf to Ctrl-C, for an hour. Here every step is linear.
"""

from __future__ import annotations

from typing import Any

from nbclient import NotebookClient

TEXT_LIMIT = 1_000_000  # letters that one cell may print
DATA_LIMIT = 50_000_000  # letters of pictures, sounds and pages that one cell may show (pictures in base64)
CUT = "\n[The rest of this cell's output is left out: a cell may put out {limit:,} letters.]\n"


class Client(NotebookClient):
    """nbclient with a limit to each cell's output; `coalesce_streams` stays off, for `join` does its work."""

    def reset_execution_trackers(self) -> None:
        """Called before a notebook runs."""
        super().reset_execution_trackers()
        self.spent: dict[tuple[int, int], int] = {}  # (cell, limit) -> letters that were let through

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """As nbclient's, after the message was cut to what the cell may still put out; None if it was dropped."""
        content = msg["content"]
        kind = msg["msg_type"]
        if kind == "stream":
            left = self._left(cell_index, TEXT_LIMIT)
            if left < 0:
                return None
            content["text"] = self._allowed(cell_index, TEXT_LIMIT, content["text"])
        elif kind == "error":
            content["evalue"] = _start(content["evalue"])
            content["traceback"] = [_start(line) for line in content["traceback"][-100:]]
        elif "data" in content and kind.endswith(("data", "result")):
            if self._left(cell_index, DATA_LIMIT) < 0:
                return None
            self._shorten(content["data"], cell_index)
        return super().process_message(msg, cell, cell_index)

    def _left(self, cell: int, limit: int) -> int:
        """Letters that `cell` may still put out; below 0 once it was cut."""
        return limit - self.spent.get((cell, limit), 0)

    def _allowed(self, cell: int, limit: int, text: str) -> str:
        """`text`, or as much of it as is left, and a note that the rest is missing."""
        left = self._left(cell, limit)
        self.spent[cell, limit] = limit - left + len(text)
        if len(text) <= left:
            return text
        return text[:left] + CUT.format(limit=limit)

    def _shorten(self, data: dict[str, Any], cell: int) -> None:
        """Cuts the texts of a display in place; a picture or a page can't be cut, so a note takes its place."""
        size = sum(len(str(value)) for value in data.values())
        left = self._left(cell, DATA_LIMIT)
        self.spent[cell, DATA_LIMIT] = DATA_LIMIT - left + size
        if size > left:
            data.clear()
            data["text/plain"] = CUT.format(limit=DATA_LIMIT).strip()
        for name in ("text/plain", "text/markdown", "text/latex"):
            if name in data:
                data[name] = _start(data[name], TEXT_LIMIT)


def _start(text: Any, limit: int = 100_000) -> str:
    """The first `limit` letters of `text`, and a note if there are more."""
    text = str(text)
    return text if len(text) <= limit else text[:limit] + CUT.format(limit=limit)


def join(cell: Any) -> None:
    """Joins what `cell` wrote to stdout, and what it wrote to stderr, in place, as a terminal would show it.

    Each stream stands where it began; stdout comes first where both follow each other, for their order is by
    chance.
    """
    if cell.cell_type != "code":
        return
    outputs: list[Any] = []
    texts: dict[str, list[str]] = {}
    for output in cell.outputs:
        if output.output_type != "stream":
            outputs.append(output)
            continue
        if output.name not in texts:
            texts[output.name] = []
            outputs.append(output)
        texts[output.name].append(output.text)
    for output in outputs:
        if output.output_type == "stream":
            output.text = overwritten("".join(texts[output.name]))
    cell.outputs = _stdout_first(outputs)


def overwritten(text: str) -> str:
    """`text` after its carriage returns: of each line, what was written last is what is left."""
    if "\r" not in text:
        return text
    return "\n".join(_last_writing(line) for line in text.split("\n"))


def _last_writing(line: str) -> str:
    """What stands after the last carriage return that something follows."""
    end = len(line.rstrip("\r"))
    start = line.rfind("\r", 0, end) + 1
    return line[start:]


def _stdout_first(outputs: list[Any]) -> list[Any]:
    """`outputs` with stdout before a stderr that it follows directly."""
    for index in range(len(outputs) - 1):
        names = [output.get("name") for output in outputs[index : index + 2]]
        if names == ["stderr", "stdout"]:
            outputs[index : index + 2] = reversed(outputs[index : index + 2])
    return outputs

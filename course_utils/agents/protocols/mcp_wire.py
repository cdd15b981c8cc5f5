"""Stands between an MCP client and a server over stdio, passes every line on, and writes it down (Unit 7.2).

    python -m course_utils.agents.protocols.mcp_wire LOG PROGRAM [ARGUMENT ...]

LOG gets a line for each message: ">" from the client, "<" from the server, then the message.
"""

import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO


def pass_on(source: BinaryIO, target: BinaryIO, mark: bytes, log: BinaryIO) -> None:
    """Copy the lines of `source` to `target` and, behind `mark`, to `log`; then close `target`."""
    with target:
        for line in source:
            log.write(mark + b" " + line)
            log.flush()
            target.write(line)
            target.flush()


def main(arguments: list[str]) -> int:
    """The program. Its exit status is that of the server."""
    if len(arguments) < 2:
        print(__doc__)
        return 2
    path, *line = arguments
    with Path(path).open("ab") as log:
        server = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        asked = (sys.stdin.buffer, server.stdin, b">", log)
        answered = (server.stdout, sys.stdout.buffer, b"<", log)
        threads = [threading.Thread(target=pass_on, args=way, daemon=True) for way in (asked, answered)]
        for thread in threads:
            thread.start()
        status = server.wait()
        threads[1].join()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

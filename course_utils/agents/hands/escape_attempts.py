"""Thirty attempts to get out of a sandbox, and the ground on which they are made (Unit 7.2).

They are harmless even where they succeed: what they read is a secret made for them, what they write or delete lies in
a temporary folder, what they call is a port on loopback that counts its callers.
"""

import os
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from course_utils.agents.hands.code_sandbox import Outcome

SECRET_NAME = "COURSE_DEMO_SECRET"  # an environment variable
TOO_LONG = 5.0  # seconds after which code has got round its time limit of a second
DONE = "GOT OUT"
_SAY = "print('GOT ' + 'OUT')"
_PROGRAM = "[PYTHON, '-c', 'import sys; open(sys.argv[1], chr(119)).close()', PLANTED]"  # writes the file PLANTED


@dataclass(frozen=True)
class Attempt:
    """One attempt: what it is after (`aim`), how (`way`), and its code, in which capitals stand for the ground's."""

    aim: str
    way: str
    code: str


ATTEMPTS = [
    Attempt("read a file", "open", "print(open(SECRET).read())"),
    Attempt("read a file", "pathlib", "from pathlib import Path\nprint(Path(SECRET).read_text())"),
    Attempt("read a file", "os.open", "import os\nprint(os.read(os.open(SECRET, 0), 99))"),
    Attempt("read a file", "a path full of '..'", "print(open(RELATIVE).read())"),
    Attempt("read a file", "a link", "import os\nos.symlink(SECRET, 'link')\nprint(open('link').read())"),
    Attempt("read a file", "linecache", "import linecache\nprint(linecache.getline(SECRET, 1))"),
    Attempt("list a folder", "os.listdir", "import os\nprint(os.listdir(FOLDER))"),
    Attempt("write a file", "open", "open(PLANTED, 'w').write('planted')"),
    Attempt("write a file", "sqlite3", "import sqlite3\nsqlite3.connect(PLANTED).execute('create table t (x)')"),
    Attempt("delete a file", "os.remove", "import os\nos.remove(VICTIM)"),
    Attempt("read the environment", "os.environ", f"import os\nprint(os.environ[{SECRET_NAME!r}])"),
    Attempt("look round at home", "expanduser", f"import os\nos.listdir(os.path.expanduser('~'))\n{_SAY}"),
    Attempt("start a program", "subprocess", f"import subprocess\nsubprocess.run({_PROGRAM})"),
    Attempt("start a program", "os.spawnv", f"import os\nos.spawnv(0, PYTHON, {_PROGRAM})"),
    Attempt("start a program", "os.popen", f"import os\nos.popen('echo x').read()\n{_SAY}"),
    Attempt("start a program", "os.execv", f"import os\nos.execv(PYTHON, {_PROGRAM})"),
    Attempt("a second process", "os.fork", f"import os\nif os.fork() == 0:\n    {_SAY}"),
    Attempt("reach the network", "socket", "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)"),
    Attempt(
        "reach the network",
        "urllib",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:' + str(PORT), timeout=1)",
    ),
    Attempt(
        "reach the network",
        "asyncio",
        "import asyncio\nasync def call():\n    await asyncio.open_connection('127.0.0.1', PORT)\nasyncio.run(call())",
    ),
    Attempt("round the imports", "__import__", "print(__import__('os').listdir(FOLDER))"),
    Attempt("round the imports", "importlib", "import importlib\nprint(importlib.import_module('os').listdir(FOLDER))"),
    Attempt("round the imports", "eval", "print(eval('__import__(\"os\")').listdir(FOLDER))"),
    Attempt("round the imports", "pickle", "import pickle\nprint(pickle.loads(b'cos\\ngetcwd\\n(tR.'))\n" + _SAY),
    Attempt("round the language", "ctypes", f"import ctypes\nctypes.pythonapi.Py_GetVersion()\n{_SAY}"),
    Attempt(
        "round the language",
        "subclasses of object",
        "kinds = ().__class__.__base__.__subclasses__()\n"
        "for name in ('_IOBase', '_RawIOBase', 'FileIO'):\n"
        "    [kind] = [kind for kind in kinds if kind.__name__ == name]\n"
        "    kinds = kind.__subclasses__()\n"
        "print(kind(SECRET).read())",
    ),
    Attempt(
        "round the language",
        "a traceback's frame",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    frame = error.__traceback__.tb_frame\n"
        "print(frame.f_builtins['open'](SECRET).read())",
    ),
    Attempt("take the machine", "an endless loop", "while True:\n    pass"),
    Attempt("take the machine", "memory", f"taken = 'x' * 10**9\n{_SAY}"),
    Attempt("take the machine", "a long sleep", "import time\ntime.sleep(60)"),
]


class Ground:
    """A folder with a secret, a variable with the same secret, and a port that counts who calls. Use it in `with`."""

    def __enter__(self) -> "Ground":
        self.token = secrets.token_hex(12)
        self._place = tempfile.TemporaryDirectory(prefix="course-secret-")
        self.folder = Path(self._place.name).resolve()
        self.secret = self.folder / "secret.txt"
        self.planted = self.folder / "planted"
        self.victim = self.folder / "victim"
        self.secret.write_text(self.token)
        (self.folder / self.token).touch()  # who lists the folder has read the secret, too
        os.environ[SECRET_NAME] = self.token
        self.callers = 0
        self._port = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._count, args=(self._port,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        os.environ.pop(SECRET_NAME, None)
        self._port.close()
        self._place.cleanup()

    def _count(self, port: socket.socket) -> None:
        with suppress(OSError):  # the port is closed at the end
            while True:
                caller, _ = port.accept()
                self.callers += 1
                caller.close()

    def code(self, attempt: Attempt) -> str:
        """The attempt's code with the names of this ground before it."""
        names = {
            "SECRET": str(self.secret),
            "RELATIVE": "../" * 12 + self.secret.relative_to(self.secret.anchor).as_posix(),
            "FOLDER": str(self.folder),
            "PLANTED": str(self.planted),
            "VICTIM": str(self.victim),
            "PYTHON": sys.executable,
            "PORT": self._port.getsockname()[1],
        }
        lines = [f"{name} = {value!r}" for name, value in names.items()]
        return "\n".join([*lines, attempt.code])

    def try_out(self, attempt: Attempt, way: Callable[[str], Outcome]) -> tuple[bool, Outcome]:
        """Whether an attempt got out when `way` ran its code, and what came of it. Judged by what really happened."""
        self.planted.unlink(missing_ok=True)
        self.victim.touch()
        self.callers = 0
        outcome = way(self.code(attempt))
        said = f"{outcome.printed} {outcome.text}"
        told = self.token in said or DONE in said
        done = self.planted.exists() or not self.victim.exists() or self.callers > 0
        return told or done or outcome.seconds > TOO_LONG, outcome

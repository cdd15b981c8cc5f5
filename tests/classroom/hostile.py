"""What a hostile student might hand in for 7.3.majority_vote, and what they should read. Used by test_jail.py.

Each is the body of the function. Where it gets to `print("DONE")`, it has done what it should not be able to do.
A wall's name comes first (jail.OPEN), for machines where this wall can't be built; "" needs none. The words come last,
as a regular expression.
"""

REFUSED = "PermissionError"
ENDLESS = "ran longer than"

HOSTILE = {
    # --- that never comes back, or takes too much
    "endless loop": ("", "while True: pass", ENDLESS),
    "endless loop that catches everything": (
        "",
        """
        while True:
            try:
                while True: pass
            except BaseException: pass
        """,
        ENDLESS,
    ),
    "deaf to signals": (
        "",
        """
        import signal, time
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        time.sleep(60)
        """,
        ENDLESS,
    ),
    "stops itself": ("", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); print('DONE')", ENDLESS),
    "recursion": ("", "return majority_vote(answers)", "RecursionError"),
    "recursion in compiled code": (
        "",
        """
        import sys
        sys.setrecursionlimit(10**9)
        def deeper(x): return [deeper(y) for y in [x]]
        deeper(1)
        """,
        "",
    ),
    "100 GB at once": ("memory", "x = bytearray(100 * 2**30)", "took more than 0.25 GiB"),
    "100 GB of tensor": ("memory", "import torch; x = torch.ones(25 * 2**30)", "memory"),
    "many small things": ("memory", "x = []\nwhile True: x.append([0] * 10**5)", "took more than|ran longer"),
    "memory in a file": ("memory", "import os; os.write(os.memfd_create('x'), b'x' * 2**20); print('DONE')", REFUSED),
    "shared memory": (
        "files",
        "from multiprocessing.shared_memory import SharedMemory; SharedMemory('x', True, 2**20); print('DONE')",
        REFUSED,
    ),
    "output flood": ("", "for _ in range(10**4): print('x' * 1000)\nreturn '?'", "not right yet"),
    "output flood past the worker": (
        "",
        """
        import os
        while True:
            for stream in range(3, 20):
                try: os.write(stream, b'x' * 2**16)
                except OSError: pass
        """,
        "",
    ),
    "huge result": ("", "return 'x' * 2**22", r"can't be examined \(it has"),
    "result of many lists": ("", "return [[]] * 2**12", "A text is wanted"),
    "result in a circle": ("", "x = []; x.append(x); return x", "RecursionError"),
    "huge number": ("", "return 10**10**4", "can't be examined"),
    "exception with a book": ("", "raise ValueError('x' * 10**6)", "ValueError"),
    "disk flood": ("changes", "open('flood', 'wb').write(b'x' * 2**20); print('DONE')", REFUSED),
    "disk flood elsewhere": (
        "changes",
        "import tempfile; tempfile.mkdtemp(); print('DONE')",
        "PermissionError|FileNotFoundError",
    ),
    "many open files": (
        "",
        "import os\nx = [open(os.devnull) for _ in range(1000)]\nprint('DONE')",
        "Too many open files",
    ),
    # --- that starts what would outlive it
    "fork": ("programs", "import os; os.fork(); print('DONE')", REFUSED),
    "fork bomb": ("programs", "import os\nwhile True: os.fork()", REFUSED),
    "daemon": ("programs", "import multiprocessing as m; m.Process(target=print).start(); print('DONE')", REFUSED),
    "shell": ("programs", "import subprocess; subprocess.run('true', shell=True); print('DONE')", REFUSED),
    "os.system": (
        "programs",
        "import os\nif os.system('true') == 0: print('DONE')\nreturn '?'",
        "not right yet",
    ),
    "exec": ("programs", "import os, sys; os.execv(sys.executable, ['python', '-c', '']); print('DONE')", REFUSED),
    "clone by ctypes": (
        "programs",
        """
        import ctypes
        libc = ctypes.CDLL(None)
        if libc.syscall(56, 17, 0, 0, 0, 0) > 0 or libc.fork() > 0: print('DONE')
        return '?'
        """,
        "not right yet",
    ),
    "thread bomb": (
        "memory",
        """
        import threading, time
        threading.stack_size(32768)
        for _ in range(20_000): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        print('DONE')
        time.sleep(60)
        """,
        "",
    ),
    "threads that spin": (
        "",
        """
        import threading
        def spin():
            while True: pass
        for _ in range(4): threading.Thread(target=spin).start()
        return '?'
        """,
        "",
    ),
    "works at exit": ("", "import atexit; atexit.register(print, 'DONE'); import os; raise SystemExit", "SystemExit"),
    # --- that ends or harms others
    "os._exit": ("", "import os; os._exit(0)", r"ended Python \(exit code 0\)"),
    "crash": ("", "import ctypes; ctypes.string_at(0)", "ended Python by SIGSEGV"),
    "abort": ("", "import os; os.abort()", "ended Python by SIGABRT"),
    "kills the parent": ("signals", "import os; os.kill(os.getppid(), 9); print('DONE')", REFUSED),
    "stops the parent": ("signals", "import os, signal; os.kill(os.getppid(), signal.SIGSTOP); print('DONE')", REFUSED),
    "kills the judge": ("signals", "import os; os.kill({judge}, 9); print('DONE')", REFUSED),
    "kills all": ("signals", "import os; os.kill(-1, 9); print('DONE')", REFUSED),
    "kills its group": ("signals", "import os; os.killpg(0, 9); print('DONE')", REFUSED),
    "kills by thread": (
        "signals",
        """
        import ctypes
        libc = ctypes.CDLL(None)
        if libc.syscall(200, {judge}, 9) == 0 or libc.syscall(234, {judge}, {judge}, 9) == 0: print('DONE')
        return '?'
        """,
        "not right yet",
    ),
    "signals by a file": (
        "signals",
        "import fcntl; fcntl.fcntl(3, fcntl.F_SETOWN, {judge}); print('DONE')",
        REFUSED,
    ),
    "keeps a file from others": (
        "signals",
        "import fcntl, os; fcntl.fcntl(open(os.__file__), fcntl.F_SETLEASE, fcntl.F_RDLCK); print('DONE')",
        REFUSED,
    ),
    "limits the judge": (
        "signals",
        "import resource; resource.prlimit({judge}, resource.RLIMIT_CPU, (1, 1)); print('DONE')",
        REFUSED,
    ),
    "slows all down": (
        "signals",
        "import os; os.setpriority(os.PRIO_USER, os.getuid(), 19); print('DONE')",
        REFUSED,
    ),
    "lifts its limits": (
        "memory",
        """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print('DONE')
        """,
        "ValueError",
    ),
    "becomes another": ("root", "import os; os.setgroups([0]); print('DONE')", REFUSED),
    "traces the parent": (
        "programs",
        """
        import ctypes, os
        if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0: print('DONE')
        return '?'
        """,
        "not right yet",
    ),
    "reads the parent's memory": (
        "files",
        "import os; open(f'/proc/{os.getppid()}/mem', 'rb'); print('DONE')",
        REFUSED,
    ),
    "reads the judge's environment": ("files", "print(open('/proc/{judge}/environ').read(), 'DONE')", REFUSED),
    # --- that reads or writes where it should not
    "reads another's work": ("files", "print(open({neighbour!r}).read(), 'DONE')", REFUSED),
    "lists another's work": (
        "files",
        "import os; print(os.listdir(os.path.dirname({neighbour!r})), 'DONE')",
        REFUSED,
    ),
    "reads by a link": (
        "changes",
        "import os; os.symlink({neighbour!r}, 'link'); print(open('link').read(), 'DONE')",
        REFUSED,
    ),
    "reads the passwords": ("files", "print(open('/etc/passwd').read(), 'DONE')", REFUSED),
    "writes over another's work": ("changes", "open({neighbour!r}, 'w').write('x'); print('DONE')", REFUSED),
    "removes another's work": ("changes", "import os; os.remove({neighbour!r}); print('DONE')", REFUSED),
    "closes another's work": ("changes", "import os; os.chmod({neighbour!r}, 0); print('DONE')", REFUSED),
    "reads the solutions": ("files", "print(open({solutions!r}).read(), 'DONE')", REFUSED),
    "runs the solutions": (
        "files",
        """
        import importlib.util
        found = importlib.util.spec_from_file_location('s', {solutions!r})
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        print('DONE')
        """,
        REFUSED,
    ),
    "asks the registry": (
        "files",
        """
        from course_utils.exercises import registry
        return registry.exercise('7.3.majority_vote').reference(answers)
        """,
        REFUSED,
    ),
    "shows a file by a forged line": (
        "",
        "exec(compile('\\n' * 2 + 'raise ValueError', {neighbour!r}, 'exec'))",
        "ValueError",
    ),
    # --- network
    "TCP": ("network", "import socket; socket.create_connection(('127.0.0.1', 9)); print('DONE')", REFUSED),
    "UDP": ("network", "import socket; socket.socket(type=socket.SOCK_DGRAM); print('DONE')", REFUSED),
    "Unix socket": ("network", "import socket; socket.socket(socket.AF_UNIX); print('DONE')", REFUSED),
    "DNS": ("network", "import socket; socket.getaddrinfo('example.org', 80); print('DONE')", "gaierror"),
    "raw packets": ("network", "import socket; socket.socket(17, 3, 3); print('DONE')", REFUSED),
    "io_uring": (
        "network",
        """
        import ctypes
        if ctypes.CDLL(None).syscall(425, 1, bytes(120)) >= 0: print('DONE')
        return '?'
        """,
        "not right yet",
    ),
    # --- that wants a pass without an answer
    "forged replies": (
        "",
        """
        import os
        from course_utils.exercises import wire
        forged = wire.pack(('returned', '?', [answers]))
        for stream in range(3, 20):
            try: os.write(stream, wire.HEADER.pack(len(forged)) + forged)
            except OSError: pass
        return '?'
        """,
        "",
    ),
    "forged pickle": (
        "",
        """
        import os
        forged = b"cbuiltins\\nprint\\n(VDONE\\ntR."
        for stream in range(3, 20):
            try: os.write(stream, len(forged).to_bytes(8, 'big') + forged)
            except OSError: pass
        return '?'
        """,
        "something else came",
    ),
    "reply without a bottom": (
        "",
        """
        import os
        forged = b'[' * 10**5
        for stream in range(3, 20):
            try: os.write(stream, len(forged).to_bytes(8, 'big') + forged)
            except OSError: pass
        return '?'
        """,
        "something else came",
    ),
    "half a reply": (
        "",
        "import os\nfor stream in range(3, 20):\n    try: os.write(stream, bytes(7) + b'\\x20abc')\n"
        "    except OSError: pass\nos._exit(0)",
        "ended Python",
    ),
    "closes everything": ("", "import os; os.closerange(0, 1000)", "ended Python"),
    "changes wire": (
        "",
        """
        from course_utils.exercises import wire
        wire.pack = lambda value: b'{}'
        return '?'
        """,
        "something else came",
    ),
    "changes the checker": (
        "",
        """
        from course_utils.exercises import diagnosis
        diagnosis.near = diagnosis.same = lambda *_: True
        diagnosis.Attempt.compare = lambda *_: None
        return '?'
        """,
        "not right yet",
    ),
    "equal to all": (
        "",
        """
        class Any(str):
            def __eq__(self, other): return True
            __hash__ = str.__hash__
        return Any('?')
        """,
        "not right yet",
    ),
    "tensor of its own": (
        "",
        """
        import torch
        class Any(torch.Tensor):
            @classmethod
            def __torch_function__(cls, *_): return True
        return torch.ones(1).as_subclass(Any)
        """,
        "",
    ),
    "looks for the wanted value": (
        "",
        """
        import gc, sys
        held = [x for x in gc.get_objects() if callable(x) and hasattr(x, '__code__')]
        theirs = [x for x in held if '.unit_' in (x.__module__ or '')]
        frames = [f for f in sys._current_frames().values()]
        while frames:
            frame = frames.pop()
            theirs += [k for k in frame.f_locals if k in ('wanted', 'mistakes', 'task')]
            frames += [frame.f_back] if frame.f_back else []
        if theirs: print('DONE', theirs)
        return '?'
        """,
        "not right yet",
    ),
    "traces its caller": (
        "",
        """
        import sys
        def trace(frame, event, value): return trace
        sys.settrace(trace)
        sys._getframe().f_back.f_trace = trace
        return '?'
        """,
        "not right yet",
    ),
    "asks the teacher": ("", "return input('What is right? ')", "EOFError"),
    "reads the request pipe": (
        "",
        "import os\nfor stream in range(3, 20):\n    try: os.read(stream, 1000)\n    except OSError: pass\nreturn '?'",
        "",
    ),
    "says that it passed": (
        "",
        "from course_utils.exercises.diagnosis import Wrong\nraise Wrong('passed')",
        "passed",
    ),
    "not the student's fault": (
        "",
        "from course_utils.exercises.diagnosis import NotJudged\nraise NotJudged('the machine is broken')",
        "NotJudged",
    ),
}

# Five ways and more to the course's own solution: by its name, by `check`, by `solution`, by another module.
OWN = {
    "from the package": """
        from course_utils.exercises.unit_7_3 import solutions
        return solutions.majority_vote(answers)
        """,
    "import": "from course_utils.exercises.unit_7_3.solutions import majority_vote as own; return own(answers)",
    "importlib": """
        import importlib
        return importlib.import_module('course_utils.exercises.unit_7_3.solutions').majority_vote(answers)
        """,
    "check": "from course_utils.exercises import check; return check('7.3.majority_vote', print)(answers)",
    "a part of another": "from course_utils.prisma.speech import word_errors; return word_errors([], [])",
    "measures": "from course_utils.measures import majority; return majority(answers)",
    "sys.modules": """
        import sys
        return sys.modules['course_utils.exercises.unit_7_3.solutions'].majority_vote(answers)
        """,
}

"""Where programs wait for connections."""

import time

import psutil


def addresses(*processes: psutil.Process) -> set[str]:
    """The addresses at which they listen. AssertionError if there are none within 20 seconds.

    The system's table, read while others change it, may miss some, so it is read again.
    """
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        connections = [each for process in processes for each in connections_of(process)]
        if found := {each.laddr.ip for each in connections if each.status == "LISTEN"}:
            return found
        time.sleep(0.2)
    raise AssertionError(f"nobody listens: {processes}")


def connections_of(process: psutil.Process) -> list:
    """Its connections, by the name that psutil has for that; before version 6, as on Colab, another."""
    return process.net_connections() if hasattr(process, "net_connections") else process.connections()

"""A real JupyterHub with its proxy on loopback; real users of this machine open 7.1 and run all of it.

    python tests/hub/prove.py [--users 5] [--browser]

By hand: on Linux, as root (it makes users and removes them), with jupyterhub, jupyterlab, nbgitpuller,
jupyterhub-idle-culler and aiohttp in this Python, `configurable-http-proxy` and git on the path, and the course's
packages. README.md in this folder says how. Users sign in with passwords (PAM), nbgitpuller fetches the course's last
commit from this checkout, and the cells run over the hub's proxy and the kernel's websocket. With --browser, the first
user does it in Chromium instead: signs in, opens 7.1, chooses "Run All Cells".
"""

import argparse
import asyncio
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import psutil

from course_utils.agents.hands import browser_tool
from course_utils.classroom.hub import keys
from course_utils.serving.lifecycle import end_tree, free_port
from course_utils.settings import ROOT

HUB = ROOT / "course_utils" / "classroom" / "hub"
FOLDER = "course"  # nbgitpuller's, in each home
NOTEBOOK = f"{FOLDER}/notebooks/7.1_multimodal_ai.ipynb"
PREFIX = "course-proof-"
CELL_SECONDS = 900  # for one cell: five users share the cores
BROWSER_SECONDS = 1200  # for all cells
MIB = 2**20

# On top of the shipped configuration: other ports, a token for this program.
CONFIG = """
import os
load_subconfig({shipped!r})
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/cookie_secret"
c.ConfigurableHTTPProxy.pid_file = "{folder}/proxy.pid"
c.Spawner.environment |= {{"COURSE_PACE": "quick", "COURSE_QUIET": "1", "PATH": os.environ["PATH"]}}
c.JupyterHub.services.append({{"name": "proof", "api_token": os.environ["PROOF_TOKEN"]}})
scopes = ["admin:users", "admin:servers", "access:servers"]
c.JupyterHub.load_roles.append({{"name": "proof", "scopes": scopes, "services": ["proof"]}})
"""


# --- users and the hub ----------------------------------------------------------------------------------


@contextmanager
def users(count: int) -> Iterator[dict[str, str]]:
    """New users of this machine, with passwords; at the end they and all that is theirs are gone."""
    names = {f"{PREFIX}{number}": secrets.token_urlsafe(12) for number in range(1, count + 1)}
    try:
        for name in names:
            subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", name], check=True)
        lines = "".join(f"{name}:{password}\n" for name, password in names.items())
        subprocess.run(["chpasswd"], input=lines, text=True, check=True)
        yield names
    finally:
        for name in names:
            for process in processes_of(name):
                process.kill()
            subprocess.run(["userdel", "--remove", name], capture_output=True)


def processes_of(name: str) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["username"]) if one.info["username"] == name]


@contextmanager
def git_server(folder: Path) -> Iterator[str]:
    """The last commit of this checkout, to be fetched from loopback as from a forge; its address."""
    bare = folder / "git" / "course.git"
    subprocess.run(["git", "clone", "-q", "--bare", ROOT, bare], check=True)
    subprocess.run(["git", "-C", bare, "branch", "-f", "proof", "HEAD"], check=True)
    port = free_port()
    serve = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all", f"--base-path={bare.parent}"]
    daemon = subprocess.Popen([*serve, str(bare.parent)])
    try:
        yield f"git://127.0.0.1:{port}/course.git"
    finally:
        end_tree(daemon)


@contextmanager
def hub(folder: Path, names: dict[str, str], token: str) -> Iterator[tuple[str, psutil.Process]]:
    """JupyterHub with the shipped configuration; its address and process."""
    keys.make_keys(list(names), folder)
    config, port = folder / "config.py", free_port()
    ports = {"port": port, "hub_port": free_port(), "api_port": free_port()}
    config.write_text(CONFIG.format(shipped=str(HUB / "jupyterhub_config.py"), folder=folder, **ports), "utf-8")
    mine = {"PROOF_TOKEN": token, "COURSE_HUB_KEYS": str(folder / keys.PLAIN)}
    mine |= {"COURSE_HUB_MODELS": "http://127.0.0.1:8010/v1", "COURSE_HUB_THREADS": "1"}
    line = [sys.executable, "-m", "jupyterhub", "-f", str(config)]
    with (folder / "hub.log").open("wb") as log:
        process = subprocess.Popen(line, cwd=folder, env=os.environ | mine, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        end_tree(process, patience=30)


# --- a student ------------------------------------------------------------------------------------------


async def until_up(web: aiohttp.ClientSession, url: str) -> None:
    for _ in range(240):
        try:
            async with web.get(f"{url}/hub/api/") as reply:
                if reply.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.5)
    raise TimeoutError("the hub did not start within two minutes")


async def sign_in(web: aiohttp.ClientSession, url: str, name: str, password: str) -> int:
    """The login form, as a browser sends it; the status of the page that comes back."""
    async with web.get(f"{url}/hub/login") as page:
        await page.read()
    guard = {cookie.key: cookie.value for cookie in web.cookie_jar}["_xsrf"]
    form = {"username": name, "password": password, "_xsrf": guard}
    async with web.post(f"{url}/hub/login?next=/hub/home", data=form) as reply:
        return reply.status if "/hub/home" in str(reply.url) else 403


async def start_server(web: aiohttp.ClientSession, url: str, name: str) -> float:
    """Start the user's server; the seconds until it was ready."""
    began = time.monotonic()
    async with web.post(f"{url}/hub/api/users/{name}/server") as reply:
        assert reply.status in (201, 202), await reply.text()
    while True:
        async with web.get(f"{url}/hub/api/users/{name}") as reply:
            if ((await reply.json())["servers"].get("") or {}).get("ready"):
                return time.monotonic() - began
        await asyncio.sleep(0.5)
        assert time.monotonic() - began < 180, f"{name}: the server did not start"


async def pull(web: aiohttp.ClientSession, server: str, repository: str) -> str:
    """What a click on an nbgitpuller link does; the last phase that it reports."""
    asked = {"repo": repository, "branch": "proof", "targetpath": FOLDER}
    phase = "nothing"
    async with web.get(f"{server}/git-pull/api", params=asked) as events:
        async for line in events.content:
            if line.startswith(b"data:"):
                phase = json.loads(line[5:]).get("phase", phase)
    return phase


async def run_all(web: aiohttp.ClientSession, server: str, cells: list[str]) -> list[str]:
    """The cells in their order, over the kernel's websocket; an error for each cell that failed."""
    session = {"path": NOTEBOOK, "type": "notebook", "name": "", "kernel": {"name": "python3"}}
    async with web.post(f"{server}/api/sessions", json=session) as reply:
        kernel = (await reply.json())["kernel"]["id"]
    faults = []
    channel = f"{server}/api/kernels/{kernel}/channels"
    async with web.ws_connect(channel, max_msg_size=0, heartbeat=30) as socket:
        for number, code in enumerate(cells):
            fault = await asyncio.wait_for(execute(socket, code), CELL_SECONDS)
            if fault:
                faults.append(f"cell {number}: {fault}")
    return faults


async def execute(socket: aiohttp.ClientWebSocketResponse, code: str) -> str:
    """Run one cell; "" or its error."""
    name = uuid.uuid4().hex
    header = {"msg_id": name, "msg_type": "execute_request", "username": "", "session": name, "version": "5.4"}
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await socket.send_json(message)
    fault, waits_for = "", {"execute_reply", "idle"}
    while waits_for:
        received = await socket.receive()
        if received.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionError(f"the kernel's connection ended: {received.type.name}")
        event = json.loads(received.data)
        if event["parent_header"].get("msg_id") != name:
            continue
        kind, said = event["header"]["msg_type"], event["content"]
        if kind == "error":
            fault = f"{said['ename']}: {said['evalue'][:200]}"
        waits_for.discard(kind)
        if kind == "status":
            waits_for.discard(said["execution_state"])
    return fault


async def environment(web: aiohttp.ClientSession, server: str) -> str:
    """What the student's server was given, as a kernel sees it."""
    async with web.post(f"{server}/api/kernels", json={}) as reply:
        kernel = (await reply.json())["id"]
    code = "import os; assert os.environ['OPENAI_API_KEY'] and os.environ['COURSE_TIER'] == 'bundled'"
    async with web.ws_connect(f"{server}/api/kernels/{kernel}/channels", max_msg_size=0) as socket:
        fault = await asyncio.wait_for(execute(socket, code), 120)
    async with web.delete(f"{server}/api/kernels/{kernel}"):
        return fault


async def study(url: str, token: str, name: str, password: str, repository: str, browser: bool) -> dict:
    """All of one student."""
    seen: dict = {"user": name, "by": "Chromium" if browser else "websocket"}
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as own:
        seen["signed in"] = await sign_in(own, url, name, password) == 200
    server = f"{url}/user/{name}"
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(headers={"Authorization": f"token {token}"}, timeout=timeout) as web:
        seen["start, s"] = round(await start_server(web, url, name), 1)
        seen["pulled"] = await pull(web, server, repository) == "finished"
        fault = await environment(web, server)
        began = time.monotonic()
        async with web.get(f"{server}/api/contents/{NOTEBOOK}") as reply:
            notebook = (await reply.json())["content"]
        cells = ["".join(one["source"]) for one in notebook["cells"] if one["cell_type"] == "code"]
        if browser:
            faults = await in_chromium(url, name, password, len(cells))
        else:
            faults = await run_all(web, server, cells)
        seen |= {"cells": len(cells), "run all, s": round(time.monotonic() - began, 1)}
        seen["faults"] = [fault, *faults] if fault else faults
    return seen


# --- a student in a browser -----------------------------------------------------------------------------


async def in_chromium(url: str, name: str, password: str, cells: int) -> list[str]:
    """Sign in, open 7.1, "Run All Cells", wait, save; then look at what was saved."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        flags = [*browser_tool.flags(["127.0.0.1"]), "--disable-gpu"]
        chromium = await playwright.chromium.launch(executable_path=browser_tool.find(), args=flags)
        page = await chromium.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(CELL_SECONDS * 1000)
        await page.goto(f"{url}/hub/login?next=/user/{name}/lab/tree/{NOTEBOOK}")
        await page.fill("#username_input", name)
        await page.fill("#password_input", password)
        await page.click("#login_submit")
        # Before the kernel is connected, "Run All Cells" marks the cells as waiting, and nothing runs.
        await page.wait_for_selector("text=/\\| Idle/")
        await page.click("text=Run >> nth=0")
        await page.click('li[data-command="runmenu:run-all"]')
        home = Path(pwd.getpwnam(name).pw_dir) / NOTEBOOK
        faults = await until_run(page, home, cells)
        await page.screenshot(path=str(ROOT / "build" / "hub.png"))
        await chromium.close()
    return faults


async def until_run(page, file: Path, cells: int) -> list[str]:
    """Save now and then, until every code cell of the saved notebook was run, or one has failed; what is wrong."""
    faults = []
    for _ in range(BROWSER_SECONDS // 10):
        await asyncio.sleep(10)
        await page.keyboard.press("Control+s")
        await asyncio.sleep(2)
        faults = faults_in(json.loads(file.read_text("utf-8")), cells)
        if not faults or ": " in faults[0]:
            break
    return faults


def faults_in(notebook: dict, cells: int) -> list[str]:
    """Errors among a saved notebook's outputs, and last how many cells were not run ("Run All" stops at an error)."""
    code = [one for one in notebook["cells"] if one["cell_type"] == "code"]
    run = [one for one in code if one["execution_count"]]
    outputs = [output for one in code for output in one["outputs"]]
    faults = [f"{one['ename']}: {one['evalue'][:200]}" for one in outputs if one["output_type"] == "error"]
    return faults if len(run) == cells else [*faults, f"{len(run)} of {cells} cells were run"]


# --- memory and the whole -------------------------------------------------------------------------------


async def watch(names: list[str], of_hub: psutil.Process, peaks: dict[str, float]) -> None:
    """The highest memory of each user's processes, and of the hub's own, in MiB; shared pages are shared out (PSS)."""
    own = os.getuid()
    while True:
        held: dict[str, float] = defaultdict(float)
        for process in psutil.process_iter(["username"]):
            name = process.info["username"]
            if name in names:
                held[name] += pss(process)
        family = [of_hub, *of_hub.children(recursive=True)] if of_hub.is_running() else []
        held["hub and proxy"] = sum(pss(one) for one in family if pid_owner(one) == own)
        for name, value in held.items():
            peaks[name] = max(peaks[name], value)
        await asyncio.sleep(2)


def pss(process: psutil.Process) -> float:
    try:
        return process.memory_full_info().pss / MIB
    except psutil.Error:
        return 0.0


def pid_owner(process: psutil.Process) -> int:
    try:
        return process.uids().real
    except psutil.Error:
        return -1


async def prove(url: str, of_hub: psutil.Process, token: str, names: dict, repository: str, browser: bool) -> list:
    async with aiohttp.ClientSession() as web:
        await until_up(web, url)
    peaks: dict[str, float] = defaultdict(float)
    watching = asyncio.create_task(watch(list(names), of_hub, peaks))
    first = next(iter(names))
    work = [
        study(url, token, name, password, repository, browser and name == first) for name, password in names.items()
    ]
    rows = await asyncio.gather(*work, return_exceptions=True)
    watching.cancel()
    told = []
    for name, row in zip(names, rows, strict=True):
        if isinstance(row, BaseException):
            row = {"user": name, "faults": [f"{type(row).__name__}: {row}"]}
        told.append(row | {"peak, MiB": round(peaks[name])})
    return [*told, {"hub and proxy, MiB": round(peaks["hub and proxy"])}]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=5)
    parser.add_argument("--browser", action="store_true")
    asked = parser.parse_args()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        sys.exit("This proof makes users of the machine: it needs Linux, and root.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the users are removed then, too
    token = secrets.token_hex(16)
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, users(asked.users) as names:
        folder = Path(name)
        with git_server(folder) as repository, hub(folder, names, token) as (url, process):
            rows = asyncio.run(prove(url, process, token, names, repository, asked.browser))
        shutil.copy(folder / "hub.log", ROOT / "build" / "hub.log")
    for row in rows:
        print(json.dumps(row))
    (ROOT / "build" / "hub.json").write_text(json.dumps(rows, indent=1), "utf-8")
    students = rows[:-1]
    green = all(row.get("signed in") and row.get("pulled") and not row["faults"] for row in students)
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())

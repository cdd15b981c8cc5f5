"""A hub for the class: keys, what students' servers get, files that fit together, a server that is shared fairly."""

import asyncio
import csv
import json
import os
import re
import stat
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from typer.testing import CliRunner

from course_utils import cli
from course_utils.classroom.hub import keys, sharing
from course_utils.models import gguf_file
from course_utils.serving import balancer, lifecycle
from course_utils.serving.clients import hashed, read_keys
from course_utils.serving.gate import read_usage
from course_utils.settings import MODELS, ROOT

HUB = ROOT / "course_utils" / "classroom" / "hub"
FILES = sorted(path for path in HUB.iterdir() if path.is_file())
DOCKERFILES = (HUB / "Dockerfile", HUB / "gateway.Dockerfile")
WORDS = {"FROM", "ARG", "RUN", "COPY", "ENV", "USER", "WORKDIR", "CMD"}


def course(*arguments):
    return CliRunner().invoke(cli.app, [str(one) for one in arguments])


# --- keys -----------------------------------------------------------------------------------------------


def test_who_stays_keeps_the_key_and_who_leaves_loses_it(tmp_path):
    assert keys.make_keys(["anna", "ben"], tmp_path) == (2, 0)
    before = keys.read_plain(tmp_path / keys.PLAIN)
    assert keys.make_keys(["ben", "cleo"], tmp_path) == (1, 1)
    after = keys.read_plain(tmp_path / keys.PLAIN)
    assert set(after) == {"ben", "cleo"} and after["ben"] == before["ben"]
    names = read_keys(tmp_path / keys.HASHED)
    assert names == {hashed(key.encode()): name for name, key in after.items()}


def test_the_server_s_file_holds_no_key(tmp_path):
    keys.make_keys(["anna", "ben"], tmp_path)
    text = (tmp_path / keys.HASHED).read_text("utf-8")
    plain = keys.read_plain(tmp_path / keys.PLAIN).values()
    assert not any(key in text for key in plain)
    assert all(len(key) >= 32 for key in plain)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_only_the_owner_reads_the_keys(tmp_path):
    keys.make_keys(["anna"], tmp_path)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (keys.PLAIN, keys.HASHED)}
    assert modes == {0o600}


def test_the_command_makes_keys_of_a_class_list(tmp_path):
    students = tmp_path / "class list ä.txt"
    students.write_text("\ufeffAnna\n\n# the teacher is no student\n ben@school.example \n", "utf-8")
    done = course("keys", students, "--to", tmp_path / "out")
    assert done.exit_code == 0 and "2 new keys" in done.output
    assert set(keys.read_plain(tmp_path / "out" / keys.PLAIN)) == {"anna", "ben@school.example"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"anna\n=cmd()\n", "line 2: '=cmd()' is no name"),
        (b"anna\nAnna\n", "line 2: 'anna' is there twice"),
        (b"../anna\n", "line 1"),
        (b"a" * 65, "line 1"),
        (b"\n# nobody\n", "holds no names"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_list_that_is_none_is_refused_in_words(tmp_path, content, words):
    students = tmp_path / "students.txt"
    students.write_bytes(content)
    done = course("keys", students, "--to", tmp_path / "out")
    assert done.exit_code == 2 and words in done.output
    assert not (tmp_path / "out").exists()


def test_a_place_for_keys_that_is_none_is_named_in_words(tmp_path):
    (tmp_path / "students.txt").write_text("anna", "utf-8")
    done = course("keys", tmp_path / "students.txt", "--to", tmp_path / "students.txt")
    assert done.exit_code == 1 and "students.txt can't be written to" in done.output


def test_a_damaged_file_of_keys_is_not_overwritten(tmp_path):
    (tmp_path / keys.PLAIN).write_text("anna\n", "utf-8")
    with pytest.raises(ValueError, match="begins with the line student,key"):
        keys.make_keys(["anna"], tmp_path)
    assert (tmp_path / keys.PLAIN).read_text("utf-8") == "anna\n"


# --- what students' servers get -------------------------------------------------------------------------


class Settings(SimpleNamespace):
    """Stands in for JupyterHub's `c`: a section for each name."""

    def __getattr__(self, name):
        section = SimpleNamespace(environment={}, allowed_users=set())
        setattr(self, name, section)
        return section


@pytest.fixture
def configured(monkeypatch):
    """Run a file of the hub's configuration with the variables given; `c` as it leaves it."""

    def configure(file, **variables):
        for name in ("CACHE", "MODELS", "KEYS", "TIER", "THREADS", "TEACHER"):
            monkeypatch.delenv(f"COURSE_HUB_{name}", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(f"COURSE_HUB_{name}", str(value))
        c = Settings()

        def load(path):
            names = {"c": c, "load_subconfig": load, "__file__": path}
            exec(compile(Path(path).read_text("utf-8"), path, "exec"), names)

        load(str(HUB / file))
        return c

    return configure


def spawner(name):
    said = []
    log = SimpleNamespace(warning=lambda text, *values: said.append(text % values))
    return SimpleNamespace(user=SimpleNamespace(name=name), environment={"KEPT": "1"}, log=log, said=said)


def test_a_student_gets_the_own_key_and_the_servers_address(configured, tmp_path):
    keys.make_keys(["anna", "ben"], tmp_path)
    c = configured("students.py", KEYS=tmp_path / keys.PLAIN, MODELS="http://127.0.0.1:8010/v1")
    anna = spawner("anna")
    c.Spawner.pre_spawn_hook(anna)
    key = keys.read_plain(tmp_path / keys.PLAIN)["anna"]
    assert anna.environment == {"KEPT": "1", "OPENAI_BASE_URL": "http://127.0.0.1:8010/v1", "OPENAI_API_KEY": key}
    assert c.Authenticator.allowed_users == {"anna", "ben"}
    assert c.Authenticator.allow_existing_users is False


def test_a_student_without_a_key_has_a_server_all_the_same_and_the_hub_says_so(configured, tmp_path):
    keys.make_keys(["anna"], tmp_path)
    c = configured("students.py", KEYS=tmp_path / keys.PLAIN, MODELS="http://127.0.0.1:8010/v1")
    carl = spawner("carl")
    c.Spawner.pre_spawn_hook(carl)
    assert carl.environment == {"KEPT": "1"} and "carl has no key" in carl.said[0]


def test_without_any_variable_the_bundled_models_are_used(configured):
    c = configured("students.py")
    assert c.Spawner.environment["COURSE_TIER"] == "bundled" and c.Spawner.environment["OMP_NUM_THREADS"] == "2"
    anna = spawner("anna")
    c.Spawner.pre_spawn_hook(anna)
    assert anna.environment == {"KEPT": "1"} and not anna.said


def test_the_shared_cache_is_where_the_course_looks_for_models(configured, monkeypatch):
    from course_utils.models import hardware

    c = configured("students.py", CACHE="/srv/models")
    monkeypatch.setenv("HF_HUB_CACHE", c.Spawner.environment["HF_HUB_CACHE"])
    assert hardware.hub_cache() == Path("/srv/models")


def test_the_hub_of_a_small_room_listens_on_loopback_and_admits_the_list(configured, tmp_path):
    keys.make_keys(["anna"], tmp_path)
    c = configured("jupyterhub_config.py", KEYS=tmp_path / keys.PLAIN, TEACHER="tina")
    addresses = (c.JupyterHub.bind_url, c.ConfigurableHTTPProxy.api_url)
    assert all(address.startswith("http://127.0.0.1:") for address in addresses)
    assert c.JupyterHub.hub_ip == c.Spawner.ip == "127.0.0.1"
    assert c.Authenticator.allowed_users == {"anna"} and c.Authenticator.admin_users == {"tina"}
    assert not getattr(c.Authenticator, "allow_all", False)
    assert c.JupyterHub.active_server_limit >= 1


# --- files ----------------------------------------------------------------------------------------------


def read(name):
    return yaml.safe_load((HUB / name).read_text("utf-8"))


def test_memory_limits_hold_the_largest_notebook_and_agree():
    values, tljh = read("values.yaml")["singleuser"], read("tljh.yaml")["limits"]
    assert values["memory"] == {"guarantee": "2G", "limit": "3G"} and tljh["memory"] == "3G"
    assert values["cpu"]["limit"] == tljh["cpu"] == 2
    peaks = re.findall(r"\| ([\d.]+) GiB \|", (ROOT / "README.md").read_text("utf-8"))
    assert peaks and max(map(float, peaks)) * 2**30 < 3e9


def test_idle_servers_are_stopped_on_every_hub(configured, monkeypatch):
    assert read("values.yaml")["cull"]["enabled"] and read("values.yaml")["cull"]["timeout"] == 3600
    assert read("tljh.yaml")["services"]["cull"]["timeout"] == 3600
    services = configured("jupyterhub_config.py").JupyterHub.services
    assert services[0]["command"][1:] == ["-m", "jupyterhub_idle_culler", "--timeout=3600"]


def test_nothing_is_reached_from_outside_until_somebody_opens_it():
    assert read("values.yaml")["proxy"]["service"]["type"] == "ClusterIP"
    assert read("tljh.yaml")["http"]["address"] == "127.0.0.1"
    services = [one for one in documents() if one["kind"] == "Service"]
    assert services and all("type" not in one["spec"] for one in services)


def documents():
    return list(yaml.safe_load_all((HUB / "model-server.yaml").read_text("utf-8")))


def test_the_model_servers_parts_find_each_other():
    found = documents()
    pods = [one["spec"]["template"] for one in found if one["kind"] == "Deployment"]
    labels = [pod["metadata"]["labels"] for pod in pods]
    ports = {port["name"] for pod in pods for one in pod["spec"]["containers"] for port in one["ports"]}
    for service in (one for one in found if one["kind"] == "Service"):
        assert service["spec"]["selector"] in labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    egress = read("values.yaml")["singleuser"]["networkPolicy"]["egress"][0]
    assert egress["to"][0]["podSelector"]["matchLabels"] in labels
    names = {one["metadata"]["name"] for one in found if one["kind"] == "Service"}
    address = read("values.yaml")["hub"]["extraEnv"]["COURSE_HUB_MODELS"]
    assert httpx.URL(address).host in names


def test_every_variable_of_the_kubernetes_hub_is_one_that_students_py_reads():
    text = (HUB / "students.py").read_text("utf-8")
    assert all(name in text for name in read("values.yaml")["hub"]["extraEnv"])


def instructions(path):
    """A Dockerfile's instructions: the word, and the rest of the line with its continuations."""
    text = re.sub(r"^#.*\n", "", path.read_text("utf-8"), flags=re.M)
    joined = text.replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_as_a_user_and_takes_only_what_is_there(path):
    lines = instructions(path)
    assert {word for word, _ in lines} <= WORDS and lines[0][0] == "FROM" and lines[-1][0] == "CMD"
    assert [rest for word, rest in lines if word == "USER"][-1] != "root"
    place = ROOT if path.name == "Dockerfile" else HUB
    sources = [one for word, rest in lines if word == "COPY" for one in rest.split()[:-1]]
    assert sources and all((place / source).exists() for source in sources)


def test_the_volume_lies_where_the_image_has_its_home():
    home = read("values.yaml")["singleuser"]["storage"]["homeMountPath"]
    assert ["WORKDIR", home] in instructions(HUB / "Dockerfile")


def test_the_image_takes_what_it_copies_and_nothing_else():
    kept = (HUB / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert kept[1] == "*"
    allowed = {line[1:] for line in kept if line.startswith("!")}
    lines = instructions(HUB / "Dockerfile")
    sources = {one.split("/")[0] for word, rest in lines if word == "COPY" for one in rest.split()[:-1]}
    assert sources == allowed


def test_versions_are_in_step():
    image = dict(re.findall(r"^ARG (\w+)=(\S+)$", (HUB / "Dockerfile").read_text("utf-8"), flags=re.M))
    gateway = dict(re.findall(r"^ARG (\w+)=(\S+)$", (HUB / "gateway.Dockerfile").read_text("utf-8"), flags=re.M))
    guide = (HUB / "README.md").read_text("utf-8")
    assert set(re.findall(r"jupyterhub==([\d.]+)", guide)) == {image["JUPYTERHUB"]}
    assert set(re.findall(r"nbgitpuller==([\d.]+)", guide)) == {image["NBGITPULLER"]}
    assert set(re.findall(r"LiteLLM (\d[\d.]*\d)", guide)) == {gateway["LITELLM"]}
    assert f"JupyterHub {image['JUPYTERHUB']}" in (HUB / "values.yaml").read_text("utf-8")
    python = re.search(r"FROM python:(\d+\.\d+)", (HUB / "Dockerfile").read_text("utf-8"))[1]
    wanted = re.search(r'requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"))[1]
    assert Requirement(f"python{wanted}").specifier.contains(f"{python}.0")


def test_no_secret_stands_in_the_files():
    for path in FILES:
        text = path.read_text("utf-8")
        assert not re.search(r"\b(sk-|ghp_|hf_)[A-Za-z0-9]{8,}", text), path.name
        assert not re.search(r"\b[0-9a-f]{32,}\b", text), path.name


def test_the_gateway_reads_its_secrets_from_the_environment():
    config = read("litellm.yaml")
    model = config["model_list"][0]["litellm_params"]
    secret = [model["api_key"], config["general_settings"]["master_key"]]
    assert all(value.startswith("os.environ/") for value in secret)
    assert (HUB / config["general_settings"]["custom_auth"].replace(".student", ".py")).exists()


# --- the shared server ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """llama.cpp with prisma-lm behind the class's gate: its address, the keys, the usage file."""
    pytest.importorskip("xllamacpp")
    folder = tmp_path_factory.mktemp("shared")
    file = gguf_file.write_gguf(MODELS / "prisma-lm", folder / "prisma.gguf")
    own = {name: f"the-key-of-{name}" for name in ("greedy", "anna", "ben", "cleo")}
    names = {hashed(key.encode()): name for name, key in own.items()}
    usage = folder / "usage.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent))  # no `llama-server` of this machine
        with lifecycle.serve(file, backend="llama.cpp", users=2) as engine:
            gate = sharing.gate_for(engine, names, places=2, per_minute=20, usage=usage)
            with balancer.in_thread(gate) as url:
                yield url, own, usage


def client_of(shared, name):
    url, own, _ = shared
    return lifecycle.client(url, own[name], timeout=60)


def written_rows(usage):
    """The rows of the usage file; an answer's row is written a moment after the answer was sent."""
    deadline = time.monotonic() + 20
    while not (rows := read_usage(usage)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return rows


HELLO = [{"role": "user", "content": "where is my order 4711?"}]


def test_a_student_asks_with_the_openai_client_and_is_counted_by_name(shared):
    reply = client_of(shared, "anna").chat.completions.create(model="prisma", messages=HELLO, max_tokens=8)
    assert reply.choices[0].message.content
    rows = written_rows(shared[2])
    assert rows[-1]["client"] == "anna" and "4711" not in json.dumps(rows)


def test_an_answer_is_streamed_through_the_gate(shared):
    asked = {"model": "prisma", "messages": HELLO, "max_tokens": 8, "temperature": 0}
    whole = client_of(shared, "anna").chat.completions.create(**asked).choices[0].message.content
    events = client_of(shared, "anna").chat.completions.create(**asked, stream=True)
    pieces = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(pieces) == whole and len(pieces) > 2


def test_a_greedy_student_is_told_and_the_others_are_served(shared):
    """Thirty questions at once from one, one each from two others: these are answered, nobody meets a silent error."""
    url, own, _ = shared
    body = {"messages": HELLO, "max_tokens": 24, "temperature": 0}

    async def one(web, name):
        return await web.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {own[name]}"})

    async def crowd():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as web:
            much = [one(web, "greedy") for _ in range(30)]
            return await asyncio.gather(*much, one(web, "ben"), one(web, "cleo"))

    *greedy, ben, cleo = asyncio.run(crowd())
    assert ben.status_code == cleo.status_code == 200
    statuses = [reply.status_code for reply in greedy]
    assert set(statuses) == {200, 429} and statuses.count(200) <= 20
    refused = [reply for reply in greedy if reply.status_code == 429]
    assert all("retry-after" in reply.headers and reply.json()["error"]["message"] for reply in refused)


def test_sharing_refuses_what_cannot_work_in_words(tmp_path):
    keys.make_keys(["anna"], tmp_path)
    listed = tmp_path / keys.HASHED
    missing = course("share", tmp_path / "no.gguf", "--keys", listed, "--port", lifecycle.free_port())
    assert missing.exit_code == 2 and "There is no model at" in missing.output
    strange = course("share", tmp_path / "no.gguf", "--keys", tmp_path / keys.PLAIN)
    assert strange.exit_code == 2 and "no file of keys" in strange.output
    no_place = course("share", tmp_path / "no.gguf", "--keys", listed, "--usage", tmp_path / "nowhere" / "a.jsonl")
    assert no_place.exit_code == 2 and "nowhere" in no_place.output
    none = course("share", tmp_path / "no.gguf", "--keys", listed, "--per-minute", 0)
    assert none.exit_code == 2 and "per_minute is 0" in none.output


def test_the_list_of_keys_is_plain_csv(tmp_path):
    keys.make_keys(["anna"], tmp_path)
    with (tmp_path / keys.PLAIN).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows[0].keys() == {"student", "key"}

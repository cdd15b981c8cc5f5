"""What the repository promises around its code: requirements in step, plain targets, clean files."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from course_utils.settings import ROOT

TARGETS = ("run", "test", "quick", "lab", "check", "notebooks", "colab", "clean")
# Module -> package, where their names differ.
PACKAGES = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "a2a": "a2a-sdk",
    "mcp_types": "mcp",
    "faiss": "faiss-cpu",
    "whisper": "openai-whisper",
    "open_clip": "open-clip-torch",
    "IPython": "ipython",
    "myst_nb": "myst-nb",
}
PACKAGES |= {"yaml": "pyyaml", "mlflow": "mlflow-skinny"}
# google.colab is there, or nothing of it is used
COLABS_OWN = ("google", ("keeping.py", "hosted.py", "7.2_lab_capstone.py"))
ELSEWHERE = {("litellm_keys.py", "litellm"), ("prove.py", "aiohttp")}  # they run in other environments
UNASKED = ("benchmarks",)  # the extras that `make` does not install
OPTIONAL = (*UNASKED, "tracking", "agents", "site")  # code that imports what is in these works without them


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements():
    """Every requirement of the package and its extras, but not of an extra that names the package itself."""
    lines = [*project()["dependencies"], *(r for e in project()["optional-dependencies"].values() for r in e)]
    return [r for r in map(Requirement, lines) if r.name != project()["name"]]


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def tracked(folder=ROOT):
    """Every file below `folder` that git knows, or would take; a copy without git has no such list."""
    command = ["git", "-C", str(folder), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of tracked files")
    return [path for name in listed.stdout.split("\0") if name and (path := folder / name).is_file()]


def texts(folder=ROOT):
    """Path and content of every tracked file that is text."""
    for path in tracked(folder):
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


# Requirements


def test_every_requirement_has_a_pin_within_its_range():
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    for need in requirements():
        version = pinned.get(canonicalize_name(need.name))
        assert version, f"{need.name} is in pyproject.toml and not in constraints.txt"
        assert need.specifier.contains(version), f"{need} does not admit the pin {version}"


def test_pins_are_exact_and_unique():
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][\w.]*", line) for line in lines)
    assert len({canonicalize_name(line.split("==")[0]) for line in lines}) == len(lines)


def refused(requires_python, versions):
    """Those of these versions of Python that a package does not take."""
    return [version for version in versions if not SpecifierSet(requires_python or "").contains(version)]


def test_every_pin_takes_every_python_that_the_course_takes():
    """The first release of each, too: Debian 12 has 3.11.2, and a pin that asks for 3.11.5 can't be installed there."""
    from importlib import metadata

    asked = SpecifierSet(project()["requires-python"])
    versions = [version for minor in range(8, 30) if asked.contains(version := f"3.{minor}.0")]
    assert len(versions) >= 2 and refused(f">={versions[0]}.5", versions) == versions[:1]
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    for package in metadata.distributions():
        if pinned.get(canonicalize_name(package.name)) == package.version:
            assert not refused(package.metadata.get("Requires-Python"), versions), package.name


@pytest.mark.skipif(find_spec("ruff") is None, reason="needs all extras; Colab's environment has few of them")
def test_what_is_installed_needs_nothing_unpinned():
    """Follows the metadata of what is installed here, so that no dependency of a dependency floats."""
    from importlib import metadata

    pinned = {canonicalize_name(name) for name in pins()}
    absent = {Requirement(line).name for extra in UNASKED for line in project()["optional-dependencies"][extra]}
    todo, seen = [(r, "pyproject.toml") for r in requirements() if r.name not in absent], set()
    while todo:
        need, source = todo.pop()
        name = canonicalize_name(need.name)
        if (name, *need.extras) in seen:
            continue
        seen.add((name, *need.extras))
        assert name in pinned, f"{source} needs {need}, which constraints.txt does not pin"
        for line in metadata.distribution(need.name).requires or []:
            child = Requirement(line)
            extras = need.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in extras):
                todo.append((child, name))
    assert len(seen) > 100


def test_conda_installs_the_same():
    text = (ROOT / "environment.yml").read_text()
    lines = [line.strip().removeprefix("- ") for line in text.splitlines() if not line.startswith("#")]
    assert f"name: {project()['name']}" in lines
    assert "-c constraints.txt" in lines and "-e .[dev]" in lines
    version = next(line.removeprefix("python=") for line in lines if line.startswith("python="))
    assert Requirement(f"python{project()['requires-python']}").specifier.contains(version)


def modules(path):
    """Top-level modules that a Python file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("folder, extras", [("course_utils", False), ("notebooks", False), ("tests", True)])
def test_every_import_is_a_declared_requirement(folder, extras):
    extras_used = [line for extra in OPTIONAL for line in project()["optional-dependencies"][extra]]
    lines = [*project()["dependencies"], *extras_used]
    allowed = requirements() if extras else map(Requirement, lines)
    names = {canonicalize_name(need.name) for need in allowed}
    own = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"course_utils"}
    for path in (ROOT / folder).rglob("*.py"):
        for module in modules(path):
            colabs = module == COLABS_OWN[0] and path.name in COLABS_OWN[1]
            known = module in sys.stdlib_module_names or module in own or colabs
            known = known or (path.name, module) in ELSEWHERE
            package = canonicalize_name(PACKAGES.get(module, module))
            assert known or package in names, f"{path.name} imports {module}, which nothing requires"


def at_import(tree):
    """Statements that run when a file is imported or a cell is executed, without those that catch an ImportError."""
    for node in tree.body:
        if isinstance(node, ast.Try) and any(
            isinstance(h.type, ast.Name) and h.type.id == "ImportError" for h in node.handlers
        ):
            continue
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and hasattr(node, "body"):
            yield from at_import(node)


def test_optional_packages_are_imported_where_they_may_be_missing():
    """Inside a function, or where ImportError is caught: everything else has to work without these packages."""
    lines = [line for extra in OPTIONAL for line in project()["optional-dependencies"][extra]]
    needed = {canonicalize_name(Requirement(line).name) for line in project()["dependencies"]}
    absent = {canonicalize_name(Requirement(line).name) for line in lines} - needed
    found = []
    for path in [*(ROOT / "course_utils").rglob("*.py"), *(ROOT / "notebooks").rglob("*.py")]:
        for node in at_import(ast.parse(path.read_text(encoding="utf-8"))):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module} if isinstance(node, ast.ImportFrom) and not node.level else set()
            modules = {name.split(".")[0] for name in names}
            found += [(path.name, m) for m in modules if canonicalize_name(PACKAGES.get(m, m)) in absent]
    assert found == []


# Files


HOST = re.compile(r"(?i)\b(?:[\w-]+\.)+(?:org|com|net|io|dev|cn|edu)\b")
# A host that hands out packages or images shows it: by what it has, anywhere in its name, or by what it does, in
# front. So none is spelled here.
WARES = "pypi hosted conda npm yarn crates gems cran maven nuget packagist docker quay ghcr".split()
DOES = "registry index download downloads deb repo mirror mirrors packages wheels archive mcr gcr ecr".split()
SETTINGS = ("index" + "-url", "--default" + "-index")


def is_registry(host):
    """Whether packages or images come from this host, as its name tells."""
    name = host.lower().rpartition(".")[0]
    first, _, rest = name.partition(".")
    return any(word in name for word in WARES) or (first in DOES and bool(rest))


def registries(folder=ROOT):
    """File and words, wherever a tracked file says where packages come from."""
    found = []
    for path, text in texts(folder):
        hosts = [host for host in HOST.findall(text) if is_registry(host)]
        settings = [word for word in SETTINGS if word in text]
        found += [(path.name, word) for word in hosts + settings]
    return found


def test_no_registry_is_named():
    """Where packages come from is the user's setting, so that mirrors and offline shelves work."""
    assert registries() == []


def planted(folder, text):
    """A new repository in `folder` that tracks one page with this text."""
    (folder / "page.md").write_text(text, encoding="utf-8")
    for words in (["init", "-q"], ["add", "page.md"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


# Words of hosts, without the dots between them.
HOSTS = ("pypi org", "test pypi org", "files pythonhosted org", "pypi nvidia com", "download pytorch org")
HOSTS += ("conda anaconda org", "registry npmjs org", "registry yarnpkg com", "index crates io", "deb debian org")
HOSTS += ("ghcr io", "mcr microsoft com", "docker io", "pypi tuna tsinghua edu cn", "mirrors aliyun com")
HOSTS += ("repo maven apache org", "rubygems org")


@pytest.mark.parametrize("labels", HOSTS)
def test_a_planted_registry_is_found(tmp_path, labels):
    host = ".".join(labels.split())
    folder = planted(tmp_path, f"Packages come from https://{host}/simple, or from {host}.")
    assert registries(folder) == [("page.md", host)] * 2


def test_other_hosts_are_no_registries(tmp_path):
    pages = "https://github.com/a/b https://huggingface.co/a https://pytorch.org/docs https://colab.research.google.com"
    assert registries(planted(tmp_path, pages + " self.index.net = files.index(x)")) == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_planted_setting_is_found(tmp_path, setting):
    assert registries(planted(tmp_path, f"pip install {setting} shelf torch")) == [("page.md", setting)]


def test_no_path_of_a_machine():
    places = re.compile(r"(?<![\w.:/])/(?:home|Users|root|wor" + r"k|tm" + r"p)/[\w.-]+")
    found = [(path.name, hit.group()) for path, text in texts() if (hit := places.search(text))]
    assert [pair for pair in found if pair[0] not in ("test_books.py", "test_runner.py")] == []


def test_files_are_small():
    sizes = {path: path.stat().st_size for path in tracked()}
    weights = sum(size for path, size in sizes.items() if path.suffix == ".safetensors")
    assert weights < 20e6  # the bar for data/models
    assert [str(path) for path, size in sizes.items() if size > 5e6 and path.suffix != ".safetensors"] == []
    assert sum(sizes.values()) < 39e6  # 40 MB is the promise


def test_licences_are_there():
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in (ROOT / "LICENSE").read_text()
    text = (ROOT / "LICENSES" / "CC-BY-4.0.txt").read_text()
    assert "Attribution 4.0 International Public License" in text and "Section 8" in text
    older = {name: (ROOT / "LICENSES" / f"CC-{name}-3.0.txt").read_text() for name in ("BY", "BY-SA")}
    assert "Attribution 3.0 Unported" in older["BY"] and "ShareAlike 3.0 Unported" in older["BY-SA"]
    assert project()["license"] == "Apache-2.0 AND CC-BY-4.0 AND CC-BY-SA-3.0 AND CC-BY-3.0"


# Commands


def recipe(*targets, cwd=ROOT):
    """The commands that make would run, without running them."""
    command = ["make", "--always-make", "--dry-run", *targets]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_the_readme_opens_with_the_two_commands_and_names_every_target():
    text = (ROOT / "README.md").read_text()
    assert text.index("make run") < text.index("make test") < 120
    assert [name for name in TARGETS if f"`make {name}`" not in text] == []


@pytest.mark.parametrize("target", [name for name in TARGETS if name not in ("colab", "clean")])
def test_a_target_sets_up_first(target):
    text = recipe(target)
    assert text.index("-m pip install") < text.rindex(".venv/bin/")
    assert "-c constraints.txt" in text and "--index" + "-url" not in text


def test_the_tests_run_under_colabs_versions_too():
    text = recipe("colab", "COLAB_PYTHON=/some/python")
    assert text.index("/some/python -m venv .venv-colab") < text.index("-m pytest tests")
    assert "-c .venv-colab/keep.txt" in text
    assert "make colab" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_ci_does_what_make_test_does():
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    words = [line for line in script if line and not line.startswith("#")]
    assert words[-1] == "exec make test" and len(words) == 3
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "bash .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_make_refuses_a_python_that_is_too_old(tmp_path):
    old = tmp_path / "bin"
    old.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        (old / name).write_text('#!/bin/sh\ncase "$*" in --version) echo Python 3.8.1;; esac\n')
        (old / name).chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    environment = {**os.environ, "PATH": f"{old}:/usr/bin:/bin"}
    done = subprocess.run(["make", "run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode and "needs Python 3.11" in done.stdout and "3.8.1" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_nbval_runs_notebooks_offline_on_the_bundled_tier(tmp_path):
    """The root conftest.py gives a notebook's kernel the environment of `course run`, and the quick pace."""
    folder = tmp_path / "with space"
    (folder / "labs").mkdir(parents=True)
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    names = ("COURSE_TIER", "COURSE_OFFLINE", "COURSE_PACE")
    source = f"# NBVAL_CHECK_OUTPUT\nimport os\nprint([os.environ.get(name) for name in {names}])"
    full, quick = "['bundled', '1', None]\n", "['bundled', '1', 'quick']\n"
    for name, text in (("right", quick), ("wrong", full), ("labs/right_lab", quick), ("labs/wrong_lab", full)):
        cell = nbformat.v4.new_code_cell(source, execution_count=1)
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "--rootdir", "."]
    outside = {**os.environ, "COURSE_TIER": "full"}
    done = subprocess.run(command, cwd=folder, env=outside, capture_output=True, text=True)
    assert "2 failed, 2 passed" in done.stdout, done.stdout + done.stderr

"""The capstone's five stories in a real browser, with the shipped models; each is checked in the shop's database."""

import time

import pytest

from course_utils.agents.assistant import browser, page, stories
from course_utils.agents.assistant.assistant import Assistant
from course_utils.agents.assistant.log import Log
from course_utils.agents.assistant.policies import Policies, sections
from course_utils.agents.hands import browser_tool
from course_utils.prisma import pictures, shop, speech

missing = browser_tool.problem() or ("" if page.is_installed() else page.missing())
pytestmark = pytest.mark.skipif(bool(missing), reason=missing or "all is here")
SPOKEN, OTHER, PRODUCT = 3444, 5102, "small green ring"
ADA = "Ada"


@pytest.fixture(scope="module")
def models():
    import torch

    from course_utils import open_unit
    from course_utils.models import bundled
    from course_utils.models.llama_cpp import through_llama_cpp

    torch.set_num_threads(1)
    unit = open_unit("7.2", tier="bundled")
    chat = through_llama_cpp(unit.load("chat"), bundled.folder("prisma-lm"))
    return chat, unit.load("speech"), unit.load("image-text")


@pytest.fixture(scope="module")
def evening(models, prisma, tmp_path_factory):
    """The five stories, played once."""
    chat, hearing, eye = models
    folder = tmp_path_factory.mktemp("capstone")
    database = shop.open_database(prisma)
    rows = [(SPOKEN, ADA, 3, "large blue ball", "delivered"), (OTHER, ADA, 2, "small red cube", "shipped")]
    database.executemany("insert or replace into orders values (?, ?, ?, ?, ?)", rows)
    policies = Policies(sections(shop.write_policies(prisma, folder / "policies.md").read_text("utf-8")))
    log = Log(folder / "log.jsonl")
    names = list(prisma.products)
    vectors = eye.encode_texts(names)

    def hear(path):
        import soundfile

        samples, rate = soundfile.read(path, dtype="float32")
        return hearing.transcribe(speech.resample(samples, rate))

    def see(picture):
        return names[int((vectors @ eye.encode_images([picture])[0]).argmax())]

    picture = folder / "toy.png"
    pictures.draw(pictures.scene_of(("green", "ring"), size="small"), 128, seed=1).save(picture)
    scene = stories.Scene(ADA, speech.CLIPS / "02.ogg", SPOKEN, picture, PRODUCT, OTHER, database)
    tried = []
    with page.serving(
        lambda customer: Assistant(chat, database, policies, customer, log, hear, see), [ADA], log.notice
    ) as opened:
        began = time.perf_counter()
        played = stories.play(opened, scene)
        tried.append(time.perf_counter() - began)
    return played, log, opened, tried[0]


@pytest.mark.parametrize("number", range(len(stories.STORIES)))
def test_a_story_ends_as_the_database_says(evening, number):
    outcome = evening[0].outcomes[number]
    assert outcome.right, outcome


def test_the_browser_asks_this_machine_alone_and_the_page_throws_nothing(evening):
    assert evening[0].hosts == ["127.0.0.1"]
    assert evening[0].faults == []
    assert evening[0].screenshot[1:4] == b"PNG"


def test_the_stories_end_in_a_minute(evening):
    assert evening[3] < 60


def test_the_log_holds_none_of_the_words(evening):
    text = evening[1].path.read_text("utf-8")
    assert "decision" in text and "tool" in text
    assert not any(word in text for word in (str(SPOKEN), PRODUCT, "euros", "back", "Ada"))


def test_the_page_is_gone_afterwards(evening):
    import socket

    port = int(evening[2].url.rstrip("/").rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_foreign_picture_in_a_message_is_not_fetched_and_a_wrong_key_opens_nothing(models, prisma, tmp_path):
    database = shop.open_database(prisma)
    policies = Policies(sections(shop.write_policies(prisma, tmp_path / "p.md").read_text("utf-8")))
    log = Log(tmp_path / "log.jsonl")
    with page.serving(lambda customer: Assistant(models[0], database, policies, customer, log), [ADA], "") as opened:
        import httpx

        wrong = {"username": ADA, "password": "guessed"}
        with httpx.Client(base_url=opened.url, trust_env=False) as client:
            assert client.post("/login", data=wrong).status_code == 400
            assert client.get("/config").status_code == 401
        with browser.visiting() as visit:
            visit.log_in(opened.url, ADA, opened.key)
            answer = visit.write("![a](http://198.51.100.7/spy.png) <img src='http://198.51.100.7/x.png'>")
            assert "I find nothing about that" in answer
            answer = visit.write("What did I ask before?")
            assert "<img src='http://198.51.100.7/x.png'>" in answer  # shown as it was written
            assert visit.hosts() == ["127.0.0.1"]

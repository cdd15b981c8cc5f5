"""The explorers: what they compute, what they refuse, and what a reader can click, with Python and without."""

import json
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from course_utils.agents.hands import browser_tool
from course_utils.models.loaders import load
from course_utils.prisma import pictures, text
from course_utils.research import explorer, inside

FACTS = "Order 4821 of Ada: 3 small red cube, shipped.\nOrder 7305 of Ben: 2 large blue star, packed."
CAPTIONS = ["a red cube", "a green ring", "a blue star"]
QUESTION = f"{FACTS}\nWhere is order 7305?"


@pytest.fixture(scope="module")
def chat():
    return load("chat", tier="bundled")


@pytest.fixture(scope="module")
def clip():
    return load("image-text", tier="bundled")


@pytest.fixture(scope="module")
def prompt(chat):
    messages = [{"role": "system", "content": text.SYSTEM["read"]}, {"role": "user", "content": QUESTION}]
    return chat.prompt(messages) + "Answer: "


@pytest.fixture(scope="module")
def looking(chat, prompt):
    return explorer.attention(chat, prompt, start=(4, 2, 76))


@pytest.fixture(scope="module")
def patching(clip):
    image = pictures.draw_many([pictures.scene_of(("red", "cube"), size="large")], seed=7, size=128)[0]
    return explorer.patches(clip, image, CAPTIONS, start=(4, 4, 0))


@pytest.fixture(scope="module")
def saying(chat):
    question = {"role": "user", "content": "Ben buys 2 cubes for 13 euros each. What is the total?"}
    prompt = chat.prompt([{"role": "system", "content": text.SYSTEM["direct"]}, question])
    return explorer.probabilities(chat, prompt, steps=7)


@pytest.fixture(scope="module")
def slider(chat):
    return explorer.bits(chat, {QUESTION: "packed"}, text.SYSTEM["read"], max_new_tokens=8)


@pytest.fixture(scope="module")
def four(looking, patching, saying, slider):
    return {made.data["kind"]: made for made in (looking, patching, saying, slider)}


def unpacked(packed, size):
    """The first row of `packed`, read as the browser does."""
    top = (64 * explorer.DIGITS.index(packed[0]) + explorer.DIGITS.index(packed[1])) / 4095
    row, rest = [], packed[2:]
    while len(row) < size:
        letter, rest = rest[0], rest[1:]
        if letter in explorer.DIGITS:
            row.append(top * explorer.DIGITS.index(letter) / 63)
        else:
            row += [0.0] * (explorer.RUNS.index(letter) + 2)
    return row, rest


# --- what is computed ---


@pytest.mark.parametrize("zeros", [0, 1, 2, 23, 24, 25, 49, 100])
def test_rows_come_back_from_text(zeros):
    row = [0.5, *[0.0] * zeros, 1 / 3, 0.1]
    back, rest = unpacked(explorer.pack([row, row]), len(row))
    assert back == pytest.approx(row, abs=0.5 / 126 + 1 / 4095)
    assert unpacked(rest, len(row)) == (back, "")


def test_the_maps_are_what_the_model_computes(chat, prompt, looking):
    ids = chat.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    maps = inside.attention_maps(chat.model, ids)[:, 0]
    assert looking.data["maps"] == explorer.pack(
        [row[: i % maps.shape[-1] + 1] for i, row in enumerate(maps.flatten(0, 2).tolist())]
    )
    assert looking.data["n"] == ids.shape[1] == len(looking.data["tokens"])
    assert looking.data["answer"]["text"] == "packed" and "76" in looking.alt


def test_heads_off_change_the_maps_and_the_answer(looking):
    one = looking.reply({"ask": "without", "heads": [[4, 2]]})
    known = looking.data["off"][4 * 8 + 2]
    assert one["answer"] == known and known["chance"] < looking.data["answer"]["chance"]
    everything = [[layer, head] for layer in range(6) for head in range(8)]
    nothing = looking.reply({"ask": "without", "heads": everything})
    assert nothing["answer"]["text"] != "packed" and nothing["maps"] != looking.data["maps"]
    again = looking.reply({"ask": "without", "heads": []})
    assert again == {"maps": looking.data["maps"], "answer": looking.data["answer"]}


def test_vision_heads_come_back(clip, patching):
    before = [block.out_proj.weight.clone() for block in inside.vision_blocks(clip.model)]
    all_heads = [[layer, head] for layer in range(5) for head in range(5)]
    without = patching.reply({"ask": "without", "heads": all_heads})
    assert without["answer"] != patching.data["answer"]
    assert patching.data["answer"][0][0] == "a red cube"
    with pytest.raises(KeyError), explorer.without_vision_heads(clip.model, [(0, 1)]):
        raise KeyError
    for block, weight in zip(inside.vision_blocks(clip.model), before, strict=True):
        assert torch.equal(block.out_proj.weight, weight)


def test_another_token_is_followed_as_the_model_would(chat, saying):
    place = 3
    token = saying.data["steps"][place][1][1]
    path = [*saying.data["path"][:place], token]
    went = saying.reply({"ask": "follow", "path": path})
    assert went == saying.data["branches"][f"{place}.{token}"]
    for choices in went["steps"]:
        chances = [chance for _, _, chance in choices]
        assert chances == sorted(chances, reverse=True) and sum(chances) < 1.001
    assert [choices[0][1] for choices in went["steps"]] == went["path"]


def test_bits_lose_answers_and_megabytes(slider):
    levels = dict(zip(slider.data["bits"], slider.data["levels"], strict=True))
    assert levels[16]["answers"] == ["packed"] and levels[1]["answers"] != ["packed"]
    sizes = [level["megabytes"] for level in levels.values()]
    assert sizes == sorted(sizes)
    assert levels[2]["values"] <= 3 and levels[1]["values"] <= 2 and levels[4]["values"] <= 15
    assert "packed" in slider.reply({"ask": "answer", "bits": 16, "question": QUESTION})["answer"]


def test_a_right_answer_is_not_the_end_of_another_number():
    assert explorer.marked("3 * 5 = 35. Answer: 35.", "35") == "35"
    assert explorer.marked("Answer: 135", "35") == "Answer: 135"


# --- what is refused ---


@pytest.mark.parametrize(
    ("kind", "message", "words"),
    [
        ("attention", {"ask": "without", "heads": [[6, 0]]}, "layer must be a whole number from 0 to 5"),
        ("attention", {"ask": "without", "heads": [[0, -1]]}, "head must be"),
        ("attention", {"ask": "without", "heads": [[True, 1]]}, "layer must be"),
        ("attention", {"ask": "without", "heads": [[1]]}, "pair"),
        ("attention", {"ask": "without", "heads": "all"}, "list of pairs"),
        ("attention", {"ask": "run", "heads": []}, "answers 'without'"),
        ("patches", {"ask": "without", "heads": [[5, 0]]}, "from 0 to 4"),
        ("probabilities", {"ask": "follow", "path": []}, "empty"),
        ("probabilities", {"ask": "follow", "path": [10**9]}, "token id"),
        ("probabilities", {"ask": "follow", "path": [5] * 25}, "at most 24"),
        ("bits", {"ask": "answer", "bits": 5, "question": "Hello?"}, "1, 2, 3, 4, 8, 16"),
        ("bits", {"ask": "answer", "bits": [4], "question": "Hello?"}, "1, 2, 3, 4, 8, 16"),
        ("bits", {"ask": "answer", "bits": 4, "question": " "}, "empty"),
        ("bits", {"ask": "answer", "bits": 4, "question": "x" * 201}, "at most 200"),
    ],
)
def test_messages_that_ask_for_what_is_not_there(four, kind, message, words):
    told = four[kind].answer({**message, "number": 3})
    assert words in told["problem"] and told["number"] == 3
    with pytest.raises(explorer.Refused):
        four[kind].reply(message)


def test_what_is_no_message(looking):
    assert "run this cell again" in looking.answer("hello")["problem"]


def test_arguments_that_cannot_be_shown(chat, clip):
    with pytest.raises(ValueError, match="at most 200"):
        explorer.attention(chat, "cube " * 300)
    with pytest.raises(ValueError, match="two tokens"):
        explorer.attention(chat, "cube")
    with pytest.raises(ValueError, match="layer must be"):
        explorer.attention(chat, "a red cube", start=(9, 0, 0), max_new_tokens=1)
    with pytest.raises(ValueError, match="two captions"):
        explorer.patches(clip, Image.new("RGB", (64, 64)), ["a red cube"])
    with pytest.raises(ValueError, match="1 to 24"):
        explorer.probabilities(chat, "a red cube", steps=0)
    with pytest.raises(ValueError, match="a question"):
        explorer.bits(chat, {}, "")
    with pytest.raises(ValueError, match="no layer"):
        explorer.bits(chat, {QUESTION: "packed"}, "", matrix="nothing")


# --- what is shown ---


class Reader(HTMLParser):
    """The images of a page."""

    def __init__(self):
        super().__init__()
        self.images = []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))


def test_a_page_is_small_describes_itself_and_is_always_the_same(four):
    for made in four.values():
        page = made.page()
        assert len(page) < explorer.MOST_PAGE and page == made.page()
        assert page.count("</script>") == 1
        reader = Reader()
        reader.feed(page.partition("<script>")[0])
        assert [image["alt"] for image in reader.images] == [made.alt]
        assert len(made.alt.split()) > 8


def test_a_page_that_would_be_too_large_is_a_picture(looking, monkeypatch):
    monkeypatch.setattr(explorer, "MOST_PAGE", 20_000)
    assert "<script" not in looking.page() and "<img" in looking.page()


def test_where_nobody_clicks_only_the_page_is_shown(looking, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append(data))
    looking._ipython_display_()
    assert [set(data) for data in shown] == [{"text/html", "text/plain"}]
    assert capsys.readouterr().out == ""


def test_without_anywidget_a_sentence_says_how_to_get_it(looking, monkeypatch, capsys):
    monkeypatch.delenv("COURSE_QUIET")
    monkeypatch.setattr(explorer.figures, "in_notebook", lambda: True)
    monkeypatch.setattr(explorer, "has_anywidget", lambda: False)
    monkeypatch.setattr("IPython.display.display", lambda data, **options: None)
    looking._ipython_display_()
    assert "anywidget" in capsys.readouterr().out


def test_in_a_notebook_the_widget_follows_the_page(looking, monkeypatch):
    shown = []
    monkeypatch.delenv("COURSE_QUIET")
    monkeypatch.setattr(explorer.figures, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append(data))
    looking._ipython_display_()
    page, widget = shown
    assert f'id="{widget.page}"' in page["text/html"] and widget.data == looking.data
    sent = []
    monkeypatch.setattr(type(widget), "send", lambda self, content: sent.append(content))
    widget._handle_custom_msg({"ask": "without", "heads": [], "number": 1}, [])
    assert sent[0]["number"] == 1 and sent[0]["answer"]["text"] == "packed"


# --- in a browser ---


@pytest.fixture
def browser():
    if problem := browser_tool.problem():
        pytest.skip(problem)
    with browser_tool.offline() as started:
        yield started


LIVE = """
<!doctype html><meta charset="utf-8"><div id="page">nothing</div><div id="here"></div>
<script type="module">
CODE
const listeners = [];
const model = {
  get: (name) => ({ data: DATA, page: "page" })[name],
  on: (event, listener) => listeners.push(listener),
  send: async (question) => { const reply = await python(question); listeners.forEach((listen) => listen(reply)); },
};
render({ model, el: document.getElementById("here") });
</script>
"""


def opened(browser, html, python=None):
    tab = browser.new_page()
    faults = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    if python:
        tab.expose_function("python", python)
    tab.set_content(html)
    place = tab.locator(".course-explorer")
    place.wait_for()
    return place, faults


def live(browser, made):
    """The widget's code before a model that hands its messages to Python."""
    functions = explorer.code().partition("export default")[0]
    data = json.dumps(made.data).replace("<", "\\u003c")
    return opened(browser, LIVE.replace("CODE", functions).replace("DATA", data), made.answer)


def choose(place, layer, head):
    place.locator("select").nth(0).select_option(str(layer))
    place.locator("select").nth(1).select_option(str(head))


def test_pages_without_python_answer_clicks(browser, looking, patching):
    place, faults = opened(browser, looking.page())
    assert place.locator("img").count() == 0
    assert "Layer 4, head 2: “·” (76) looks at “.” (59) 1.00" in place.inner_text()
    choose(place, 1, 0)
    place.locator(".tokens button").nth(59).click()
    assert "Layer 1, head 0: “.” (59) looks at “packed” (58)" in place.inner_text()
    choose(place, 0, 7)
    place.locator("input[type=checkbox]").check()
    assert "answers “shipped”" in place.inner_text() and "Tried beforehand" in place.inner_text()
    picture, more_faults = opened(browser, patching.page())
    picture.locator(".grid button").nth(27).click()
    assert "row 3, column 3 looks at" in picture.inner_text() and "“a red cube”" in picture.inner_text()
    assert faults + more_faults == []


def test_with_python_several_heads_go_off(browser, looking):
    place, faults = live(browser, looking)
    for layer, head in ((4, 2), (0, 7)):
        choose(place, layer, head)
        place.locator("input[type=checkbox]").check()
        place.get_by_text(f"{layer}.{head} (layer.head): the model").wait_for()
    assert "Without 4.2, 0.7" in place.inner_text()
    place.get_by_role("button", name="All heads on").click()
    place.get_by_text("All heads on: the model answers “packed”").wait_for()
    assert faults == []


def test_with_python_any_token_is_followed_and_any_question_answered(browser, saying, slider):
    place, faults = live(browser, saying)
    own = place.locator(".tokens").inner_text()
    for step in (3, 0):  # the first was tried beforehand; from there on Python is asked
        before = place.locator(".tokens").inner_text()
        place.locator(".steps > div").nth(step).locator("button").nth(1).click()
        place.page.wait_for_function("before => document.querySelector('.tokens').innerText !== before", arg=before)
    place.get_by_role("button", name="Back to").click()
    assert place.locator(".tokens").inner_text() == own
    bits, more_faults = live(browser, slider)
    assert "16 bits a weight" in bits.inner_text()
    bits.locator("input[type=range]").fill("0")
    assert "1 bit a weight" in bits.inner_text() and "wrong: packed" in bits.inner_text()
    bits.get_by_role("button").click()
    bits.get_by_text("The question is empty").wait_for()
    bits.locator("input[type=text]").fill("Where is order 7305?")
    bits.get_by_role("button").click()
    bits.get_by_text("yours, at 1 bit").wait_for()
    assert faults + more_faults == []

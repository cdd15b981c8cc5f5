"""GET with a list of hosts and limits, and a form filled in by a real browser or without one."""

import time

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from course_utils.agents.hands import browser_tool, shop_site, web_tool
from course_utils.agents.hands.web_tool import Refused, Web
from course_utils.prisma.tools import failed
from course_utils.serving import balancer


@pytest.fixture(scope="module")
def served(prisma, toolbox):
    """The site, its host with its port, and its address."""
    site = shop_site.Site(toolbox)
    with balancer.in_thread(site.application()) as url:
        yield site, url.removeprefix("http://"), url


def number_of(prisma):
    return str(next(iter(prisma.orders)))


def test_what_is_on_the_list_is_read(served, prisma, toolbox):
    _, host, url = served
    web = Web((), local=[host])
    assert "Look up" in web.get(url)
    assert "Look up" in web.get(f"{url}/to/{url}/to//")  # two redirects that stay there
    box = web_tool.ShopApi(toolbox, web, url)
    assert box("orders", number_of(prisma)).text == toolbox("orders", number_of(prisma)).text
    assert box("catalogue", "small red cube").text == toolbox("catalogue", "small red cube").text
    assert not box("orders", "../../secret").ok and not box("orders", "0000").ok
    assert box("policy", "fee") == toolbox("policy", "fee")
    assert web("post", url) == failed("no tool post")


WAYS = [
    ("{url}@evil.example/", "user name"),
    ("http://evil.example/", "not on the list"),
    ("http://127.0.0.1/secret", "not on the list"),
    ("http://localhost:{port}/secret", "not on the list"),
    ("http://[::1]:{port}/secret", "not on the list"),
    ("http://2130706433:{port}/secret", "not on the list"),
    ("http://0x7f.1:{port}/secret", "not on the list"),
    ("http://127.1:{port}/secret", "not on the list"),
    ("http://169.254.169.254/latest/meta-data/", "not on the list"),
    ("http://good.example.evil.example/", "not on the list"),
    ("http://inside.example/", "not public"),
    ("http://mapped.example/", "not public"),
    ("http://mixed.example/", "not public"),
    ("file:///etc/passwd", "file is not fetched"),
    ("ftp://good.example/", "ftp is not fetched"),
    ("gopher://good.example/", "gopher is not fetched"),
    ("//good.example/", "without http"),
    ("http://good.example:99999/", "no address"),
    ("http://good.example\\@evil.example/", "plain letters"),
    ("http://good.example/\r\nHost: evil.example", "plain letters"),
    ("{url}/to/http://127.0.0.1:1/secret", "not on the list"),
    ("{url}/to/http://inside.example/", "not public"),
    ("{url}/to/file:///etc/passwd", "file is not fetched"),
    ("{url}/large", "at most 50000 bytes"),
    ("{url}/film", "video/mp4 is not read"),
    ("{url}/order?number=0", "the answer is 404"),
]
NAMES = {
    "good.example": ["93.184.216.34"],
    "inside.example": ["10.0.0.7"],
    "mapped.example": ["::ffff:169.254.169.254"],
    "mixed.example": ["93.184.216.34", "fd00::1"],
    "127.0.0.1": ["127.0.0.1"],
}


@pytest.mark.parametrize(("way", "said"), WAYS)
def test_no_way_leads_elsewhere(served, way, said):
    site, host, url = served
    names = ["good.example", "inside.example", "mapped.example", "mixed.example"]
    web = Web(names, local=[host], resolve=lambda name, port: NAMES[name])
    before = site.asked.count("/secret")
    with pytest.raises(Refused, match=said):
        web.get(way.format(url=url, port=host.partition(":")[2]))
    assert site.asked.count("/secret") == before


def test_a_page_that_never_ends_is_given_up(served, monkeypatch):
    _, host, url = served
    monkeypatch.setattr(web_tool, "PATIENCE", 0.5)
    began = time.monotonic()
    with pytest.raises(Refused, match="within"):
        Web((), local=[host]).get(f"{url}/slow")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "without a type"),
        ({"location": "http://[x"}, "no address"),
        ({"location": "/" + "x" * 3000}, "at most 2000"),
    ],
)
def test_a_redirect_to_nowhere_is_refused(headers, said):
    site = FastAPI()
    site.add_api_route("/", lambda: Response(status_code=302, headers=headers))
    with balancer.in_thread(site) as url, pytest.raises(Refused, match=said):
        Web((), local=[url.removeprefix("http://")]).get(url)


def test_an_address_without_an_end_is_refused():
    with pytest.raises(Refused, match="at most 2000 characters"):
        Web(["good.example"]).get("http://good.example/" + "x" * 70_000)


def test_the_real_browser_follows_no_redirect_to_another_port():
    """Not as a page and not as a picture: playwright asks nobody about redirects, so the browser's own rule has to."""
    if browser_tool.find() is None:
        pytest.skip("needs playwright and a Chromium")
    asked = []
    other, site = FastAPI(), FastAPI()
    other.add_api_route("/{path:path}", lambda path: asked.append(path))
    with balancer.in_thread(other) as elsewhere:
        site.add_api_route("/away", lambda: RedirectResponse(f"{elsewhere}/page"))
        site.add_api_route("/", lambda: HTMLResponse("<p>hello</p><img src=/away>"))
        with balancer.in_thread(site) as url:
            browser = browser_tool.RealBrowser(browser_tool.find(), [url.removeprefix("http://")])
            with browser:
                browser.open(url)
                assert browser.text() == "hello"
                with pytest.raises(Exception, match="ERR_"):
                    browser.open(f"{url}/away")
    assert not asked


def test_a_ring_of_redirects_ends(served, monkeypatch):
    _, host, url = served
    around = f"{url}/to/" * 6 + "/"
    with pytest.raises(Refused, match="more than 3 redirects"):
        Web((), local=[host]).get(around)


@pytest.mark.parametrize("real", [True, False])
def test_a_form_is_found_filled_in_and_sent(served, prisma, toolbox, real):
    site, host, url = served
    if real and browser_tool.find() is None:
        pytest.skip("needs playwright and a Chromium")
    number = number_of(prisma)
    browser = browser_tool.RealBrowser(browser_tool.find(), [host]) if real else browser_tool.PlainBrowser([host])
    with browser:
        browser.open(url)
        browser.fill("Order number", number)
        browser.press("Look up")
        assert toolbox("orders", number).text in browser.text()
        browser.fill("Reason", "it is <b>broken</b>")
        browser.press("Send it back")
        assert f"Return of order {number} is filed." in browser.text()
        with pytest.raises(browser_tool.Refused, match="not on the list"):
            browser.open("http://evil.example/")
        picture = browser.shown("the page with the return")
        assert real == hasattr(picture, "data")
        if real:
            assert {blocked.split("/")[2] for blocked in browser.blocked} == {"tracker.example"}
    assert site.returns[-1] == (number, "it is <b>broken</b>")


def test_without_a_browser_the_reader_learns_what_is_missing(monkeypatch):
    monkeypatch.setattr(browser_tool, "find_spec", lambda name: None)
    said = []
    with browser_tool.start(["127.0.0.1:1"], said.append) as browser:
        assert isinstance(browser, browser_tool.PlainBrowser)
    assert "playwright" in said[0] and "no scripts run" in said[0]
    monkeypatch.setattr(browser_tool, "find_spec", lambda name: True)
    monkeypatch.setattr(browser_tool.shutil, "which", lambda name: None)
    monkeypatch.delenv("COURSE_BROWSER", raising=False)
    assert browser_tool.find() is None and "COURSE_BROWSER" in browser_tool.missing()
    monkeypatch.setenv("COURSE_BROWSER", "/opt/mine")
    assert browser_tool.find() == "/opt/mine"


def test_the_plain_browser_names_what_is_not_there(served):
    _, host, url = served
    with browser_tool.PlainBrowser([host]) as browser:
        browser.open(url)
        with pytest.raises(browser_tool.Refused, match="no field"):
            browser.fill("Password", "x")
        with pytest.raises(browser_tool.Refused, match="no button"):
            browser.press("Delete all")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("192.168.0.1", False), ("169.254.169.254", False), ("::1", False), ("fe80::1%eth0", False),
        ("::ffff:10.0.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("100.64.0.1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address, public):
    assert web_tool.is_public(address) is public

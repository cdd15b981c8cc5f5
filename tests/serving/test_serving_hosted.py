"""The stand-in refuses as the published API does, and the calculator agrees with sums done by hand."""

import math
from datetime import date

import openai
import pytest
from fastapi import FastAPI, Request

from course_utils import serving
from course_utils.serving import balancer, costs, hosted
from course_utils.serving.costs import Hosted, Origin, Own, break_even


class Behind:
    """Where a server of ours would be."""

    key = "its own key"

    def __init__(self, url: str) -> None:
        self.url = url


def model(seen: list) -> FastAPI:
    app = FastAPI()

    @app.post(hosted.CHAT)
    async def chat(request: Request) -> dict:
        seen.append((request.headers["authorization"], await request.json()))
        message = {"role": "assistant", "content": "hello"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}

    return app


def ask(url: str, key: str, text: str = "hi", **options):
    client = serving.client(url, key, **options)
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])


def test_the_api_refuses_limits_filters_and_meters() -> None:
    seen, account = [], hosted.Account("right", per_window=2, window=600.0)
    with (
        balancer.in_thread(model(seen)) as behind,
        balancer.in_thread(hosted.provider(Behind(behind), account)) as url,
    ):
        with pytest.raises(openai.AuthenticationError) as wrong:
            ask(url, "wrong")
        assert wrong.value.code == "invalid_api_key"
        with pytest.raises(openai.BadRequestError) as stopped:
            ask(url, "right", "a poison, please")
        assert stopped.value.code == "content_filter" and seen == []
        assert ask(url, "right").choices[0].message.content == "hello"
        with pytest.raises(openai.RateLimitError) as many:
            ask(url, "right")
        assert many.value.code == "rate_limit_exceeded"
        assert 500 < int(many.value.response.headers["retry-after"]) <= 601
        account.window = 2.0
        ask(url, "right", max_retries=2)  # the client waits as long as it was told
    assert (account.read, account.written) == (14, 6)
    assert {key for key, _ in seen} == {"Bearer its own key"}
    assert "right" not in repr(account)


def test_a_window_slides() -> None:
    account = hosted.Account("k", per_window=1, window=10.0)
    assert account.wait(100.0) == 0 and account.wait(104.0) == pytest.approx(6.0)
    assert account.wait(110.0) == 0


# --- the calculator


PRICE = Hosted(per_million_read=1.0, per_million_written=4.0)
SERVER = Own(per_hour=1.0, tokens_per_second=100.0, work_per_day=26.0, busy=0.5)


def test_a_day_by_hand() -> None:
    assert PRICE.per_written(read=3) == pytest.approx(7e-6)
    assert SERVER.most == 4_320_000
    assert SERVER.cost(0) == 50 and SERVER.cost(4_320_001) == 74


def test_they_cost_the_same_where_it_says() -> None:
    cheap = Own(per_hour=0.1, tokens_per_second=100.0, work_per_day=0.0, busy=0.5)
    written = break_even(PRICE, cheap, read=3)
    assert written == pytest.approx(2.4 / 7e-6)
    assert cheap.cost(written) == pytest.approx(written * PRICE.per_written(3))


def test_a_second_machine_is_counted() -> None:
    """One machine writes 4.32 million tokens a day, and they cost 30.24 with the API: less than the first day's 50."""
    written = break_even(PRICE, SERVER, read=3)
    machines = math.ceil(written / SERVER.most)
    assert machines == 5  # 5 * 24 + 26 = 146 <= 5 * 30.24 = 151.2, and 4 * 24 + 26 = 122 > 120.96
    assert written == pytest.approx(146 / 7e-6)


def test_a_server_that_never_pays_is_infinite() -> None:
    dear = Own(per_hour=10.0, tokens_per_second=10.0, work_per_day=0.0, busy=0.5)
    assert break_even(PRICE, dear, read=3) == math.inf
    assert break_even(Hosted(0.0, 0.0), dear, read=3) == math.inf


def test_a_price_names_its_source_and_day() -> None:
    assert str(Origin()) == costs.EXAMPLE
    assert str(Origin("the provider's price page", date(2026, 11, 1))) == "the provider's price page, 2026-11-01"
    for wrong in ({"source": "a page"}, {"read_on": date(2026, 11, 1)}):
        with pytest.raises(ValueError, match="source and the day"):
            Origin(**wrong)


@pytest.mark.parametrize("wrong", [{"tokens_per_second": 0.0}, {"busy": 0.0}, {"busy": 1.1}, {"per_hour": -1.0}])
def test_a_server_that_cannot_be_is_refused(wrong: dict) -> None:
    right = {"per_hour": 1.0, "tokens_per_second": 1.0, "work_per_day": 0.0, "busy": 0.5}
    with pytest.raises(ValueError, match="A server needs"):
        Own(**right | wrong)

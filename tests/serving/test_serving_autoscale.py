"""The simulation against queueing theory, and policies that do what their names say."""

import numpy as np
import pytest

from course_utils.serving import autoscale
from course_utils.serving.autoscale import Curve, Reactive, Timetable, draw, fixed, simulate


def steady(rate: float):
    return lambda t: np.full(np.shape(t), rate)


def test_a_curve_is_read_between_its_points() -> None:
    curve = Curve.measured({1: 1.0, 2: 1.2, 4: 2.0})
    assert curve.seconds == pytest.approx((1.0, 1.2, 1.6, 2.0))
    assert curve.most == 4 and curve.capacity == pytest.approx(2.0)


@pytest.mark.parametrize("points", [{}, {2: 1.0}, {1: 0.0}])
def test_a_curve_that_is_none_is_refused(points: dict) -> None:
    with pytest.raises(ValueError, match="service curve"):
        Curve.measured(points)


def test_one_server_waits_as_queueing_theory_says() -> None:
    """M/D/1: mean wait = load * s / (2 * (1 - load)), from Pollaczek and Khinchine."""
    service, load = 1.0, 0.6
    arrivals = draw(steady(load / service), 40_000, load / service, seed=1)
    day = simulate(arrivals, Curve((service,)), fixed(1), cold_start=0.0, start=1)
    waited = day.seconds.mean() - service
    assert waited == pytest.approx(load * service / (2 * (1 - load)), rel=0.08)


def test_every_request_is_answered_and_every_replica_is_paid() -> None:
    arrivals = draw(steady(5.0), 200, 5.0, seed=2)
    day = simulate(arrivals, Curve((0.4, 0.5)), fixed(3), cold_start=9.0, start=3)
    assert len(day.seconds) == len(arrivals)
    assert day.replica_seconds == pytest.approx(3 * 200, rel=0.03)
    assert {size for _, size in day.sizes} == {3}


def test_a_burst_waits_for_the_cold_start() -> None:
    arrivals = np.concatenate([[0.0], np.linspace(60.0, 120.0, 600)])
    answers = {}
    for cold in (5.0, 40.0):
        policy = Reactive(target=2, lowest=1, highest=8, patience=30)
        answers[cold] = simulate(arrivals, Curve((1.0, 1.0)), policy, cold, start=1)
    assert answers[40.0].quantile(0.95) > answers[5.0].quantile(0.95) + 10
    assert max(size for _, size in answers[5.0].sizes) > 1


def test_reactive_goes_up_at_once_and_down_late() -> None:
    policy = Reactive(target=4, lowest=1, highest=5, patience=10)
    assert policy(0.0, 9, 1) == 3
    assert policy(5.0, 100, 3) == 5
    assert policy(10.0, 0, 5) == 5
    assert policy(16.0, 0, 5) == 1


def test_a_timetable_orders_before_the_need() -> None:
    policy = Timetable(lambda t: np.where(np.asarray(t) >= 100, 7.0, 1.0), capacity=1.0, ahead=20, busy=0.7)
    assert policy(50.0, 0, 2) == 2
    assert policy(81.0, 0, 2) == 10


def test_what_leaves_finishes_its_work() -> None:
    arrivals = np.array([0.0, 0.1, 0.2, 30.0])
    day = simulate(arrivals, Curve((20.0,)), lambda now, waiting, size: 3 if now < 5 else 1, 0.0, start=3)
    assert len(day.seconds) == 4 and day.seconds.max() == pytest.approx(20.0)
    assert day.replica_seconds == pytest.approx(3 * 20 + 30, abs=1.0)


def test_arrivals_follow_the_rate() -> None:
    times = draw(lambda t: np.where(t < 500, 2.0, 6.0), 1000, 6.0, seed=3)
    early = (times < 500).sum()
    assert early == pytest.approx(1000, rel=0.12) and len(times) - early == pytest.approx(3000, rel=0.08)
    assert np.all(np.diff(times) >= 0)
    assert np.array_equal(times, draw(lambda t: np.where(t < 500, 2.0, 6.0), 1000, 6.0, seed=3))
    with pytest.raises(ValueError, match="more than `highest`"):
        draw(steady(2.0), 100, 1.0, seed=0)


def test_nothing_to_simulate_is_said() -> None:
    with pytest.raises(ValueError, match="arrivals"):
        simulate([], Curve((1.0,)), fixed(1), 0.0, 1)
    with pytest.raises(ValueError, match="at least one replica"):
        simulate([1.0], Curve((1.0,)), fixed(1), 0.0, 0)
    assert autoscale.LOOK > 0

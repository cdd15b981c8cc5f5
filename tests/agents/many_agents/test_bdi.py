"""The hall and its agents: deterministic days, shortest ways, and policies that differ as they should."""

import pytest

from course_utils.agents.many_agents import bdi


def test_the_same_seed_gives_the_same_day():
    days = [bdi.run(hall, bdi.BDI(hall, bdi.alert), 1) for hall in (bdi.draw_hall(3, 2), bdi.draw_hall(3, 2))]
    assert days[0] == days[1] and 0 < days[0].effectiveness <= 1


def test_a_hall_needs_a_speed():
    with pytest.raises(ValueError, match="above 0"):
        bdi.draw_hall(1, 0)


def test_every_step_of_a_day_is_one_cell_and_enters_no_shelf():
    hall = bdi.draw_hall(1, 4)
    for agent in (bdi.Reactive(hall), bdi.Deliberative(hall), bdi.BDI(hall, bdi.bold)):
        way = bdi.run(hall, agent, 0).way
        assert not hall.shelves.intersection(way)
        assert all(bdi.air_line(a, b) <= 1 for a, b in zip(way, way[1:], strict=False))


def test_orders_come_and_go():
    order = bdi.Order((0, 3), 5, born=2, dies=4)
    hall = bdi.Hall(5, frozenset(), (order,))
    assert [bool(hall.open_at(now)) for now in range(6)] == [False, False, True, True, False, False]


def test_a_bold_agent_walks_on_and_an_alert_one_notices():
    order = bdi.Order((0, 5), 5, born=0, dies=2)
    hall = bdi.Hall(6, frozenset(), (order, bdi.Order((5, 0), 1, born=3, dies=30)))
    bold, alert = bdi.BDI(hall, bdi.bold), bdi.BDI(hall, bdi.alert)
    for agent in (bold, alert):
        agent.think((0, 0), hall.open_at(0))
    assert not bold.wants_to_think((0, 2), hall.open_at(3))
    assert alert.wants_to_think((0, 2), hall.open_at(3))


def test_caution_pays_only_where_thinking_is_free():
    def mean(policy, thinking):
        halls = [bdi.draw_hall(seed, 2) for seed in range(5)]
        return sum(bdi.run(hall, bdi.BDI(hall, policy), thinking).effectiveness for hall in halls) / 5

    assert mean(bdi.cautious, 4) < mean(bdi.bold, 4) - 0.2
    assert mean(bdi.cautious, 0) > mean(bdi.cautious, 4) + 0.3

"""Reactive, deliberative and BDI agents on one task, in a hall that changes while they work.

A robot fetches orders from a hall with shelves. Orders appear, and are cancelled if nobody comes; thinking takes time,
and the hall does not wait. After Tileworld (Pollack and Ringuette, AAAI 1990) and the experiments of Kinny and Georgeff
(IJCAI 1991) on how firmly an agent should hold on to what it intends. Everything is drawn from a seed.
"""

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

Cell = tuple[int, int]  # row, column
SIDES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
SIGHT = 3  # steps that the reactive robot sees
GAP, LIFE = 12, 60  # ticks between two orders, and until an order is cancelled, in a hall of speed 1


@dataclass(frozen=True)
class Order:
    """Something to fetch at `cell` from tick `born` on, before tick `dies`, worth `value` points."""

    cell: Cell
    value: int
    born: int
    dies: int


@dataclass(frozen=True)
class Hall:
    """A square hall: its side in cells, the cells with shelves, and all orders of the day."""

    size: int
    shelves: frozenset[Cell]
    orders: tuple[Order, ...]

    @property
    def closes(self) -> int:
        """The tick at which the last order dies."""
        return max(order.dies for order in self.orders)

    def open_at(self, now: int) -> frozenset[Order]:
        """The orders that wait at tick `now`."""
        times, open_then = self._timetable
        return open_then[bisect_right(times, now)]

    @cached_property
    def _timetable(self) -> tuple[list[int], list[frozenset[Order]]]:
        """The ticks at which an order comes or goes, and what is open before the first, from the first on, ..."""
        times = sorted({tick for order in self.orders for tick in (order.born, order.dies)})
        open_then = [frozenset()]
        for tick in times:
            waiting = [order for order in self.orders if order.born <= tick < order.dies]
            open_then.append(frozenset(waiting))
        return times, open_then

    def around(self, cell: Cell) -> Iterator[Cell]:
        """The neighbours of a cell that a robot can enter."""
        for down, right in SIDES:
            near = cell[0] + down, cell[1] + right
            if min(near) >= 0 and max(near) < self.size and near not in self.shelves:
                yield near

    def distances(self, goal: Cell) -> dict[Cell, int]:
        """The steps from every cell that is connected with `goal`: breadth-first search, kept once it is known."""
        if goal not in self._known:
            self._known[goal] = self._search(goal)
        return self._known[goal]

    @cached_property
    def _known(self) -> dict[Cell, dict[Cell, int]]:
        return {}

    def _search(self, goal: Cell) -> dict[Cell, int]:
        steps = {goal: 0}
        waiting = deque([goal])
        while waiting:
            cell = waiting.popleft()
            for near in self.around(cell):
                if near not in steps:
                    steps[near] = steps[cell] + 1
                    waiting.append(near)
        return steps


def draw_hall(seed: int, speed: float, size: int = 12, orders: int = 40) -> Hall:
    """A hall in which things happen `speed` times as fast: orders come and go. ValueError for no speed.

    The same seed gives the same shelves and the same orders at every speed.
    """
    if speed <= 0:
        raise ValueError(f"speed is {speed}: it has to be above 0. For a hall that hardly changes take 0.05.")
    rng = random.Random(seed)
    shelves = _shelves(size)
    floor = [(row, column) for row in range(size) for column in range(size) if (row, column) not in shelves]
    drawn = []
    for number in range(orders):
        cell, value = rng.choice(floor), rng.randint(1, 9)
        born = GAP * (number + rng.random())
        life = LIFE * rng.uniform(0.5, 1.5)
        first, last = int(born / speed), int((born + life) / speed)
        drawn.append(Order(cell, value, first, max(last, first + 1)))
    return Hall(size, shelves, tuple(drawn))


def _shelves(size: int) -> frozenset[Cell]:
    """Rows of shelves with an aisle at both ends and a gap in the middle: the straight way often ends at a shelf."""
    rows = range(2, size - 1, 3)
    columns = range(1, size - 1)
    return frozenset((row, column) for row in rows for column in columns if column != size // 2)


# ---------------------------------------------------------------- the agents


class Agent(Protocol):
    """What `run` asks of an agent: whether it wants to think now, to think, and to make its next step."""

    def wants_to_think(self, at: Cell, seen: frozenset[Order]) -> bool: ...

    def think(self, at: Cell, seen: frozenset[Order]) -> None: ...

    def move(self, at: Cell, seen: frozenset[Order]) -> Cell: ...


def toward(hall: Hall, at: Cell, goal: Cell) -> Cell:
    """The next cell on a shortest way from `at` to `goal`."""
    steps = hall.distances(goal)
    return min(hall.around(at), key=lambda cell: steps[cell]) if at != goal else at


def best(hall: Hall, at: Cell, orders: Sequence[Order] | frozenset[Order]) -> Order:
    """The order with the most points for each step on the way; of equal ones the oldest."""
    ranked = sorted(orders, key=lambda order: (order.born, order.cell))
    return max(ranked, key=lambda order: order.value / (hall.distances(order.cell)[at] + 1))


def air_line(a: Cell, b: Cell) -> int:
    """Steps between two cells if there were no shelves."""
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


class Reactive:
    """No map, no memory, no plan: rules from what is in sight to a step (after Brooks 1986). It never thinks."""

    def __init__(self, hall: Hall, seed: int = 0) -> None:
        self.hall, self.rng = hall, random.Random(seed)

    def wants_to_think(self, at: Cell, seen: frozenset[Order]) -> bool:
        return False

    def think(self, at: Cell, seen: frozenset[Order]) -> None:
        raise NotImplementedError("a reactive agent never thinks")

    def move(self, at: Cell, seen: frozenset[Order]) -> Cell:
        """Towards the nearest order in sight if a free cell is nearer to it; else anywhere."""
        free = list(self.hall.around(at))
        near = [order.cell for order in seen if air_line(at, order.cell) <= SIGHT]
        if near:
            goal = min(near, key=lambda cell: (air_line(at, cell), cell))
            step = min(free, key=lambda cell: air_line(cell, goal))
            if air_line(step, goal) < air_line(at, goal):
                return step
        return self.rng.choice(free)


class Deliberative:
    """Sense, plan, act: it plans a tour over all orders that it sees and does all of it before it looks again."""

    def __init__(self, hall: Hall) -> None:
        self.hall = hall
        self.tour: list[Order] = []

    def wants_to_think(self, at: Cell, seen: frozenset[Order]) -> bool:
        self.tour = [order for order in self.tour if order.cell != at]
        return bool(seen) and not self.tour

    def think(self, at: Cell, seen: frozenset[Order]) -> None:
        left = set(seen)
        while left:
            order = best(self.hall, at, frozenset(left))
            self.tour.append(order)
            left.remove(order)
            at = order.cell

    def move(self, at: Cell, seen: frozenset[Order]) -> Cell:
        return toward(self.hall, at, self.tour[0].cell) if self.tour else at


@dataclass
class BDI:
    """Beliefs, desires, intention (Bratman 1987; Rao and Georgeff 1995).

    `beliefs` are the orders as it last looked at them; its desires are to fetch each of them;
    `intention` is the one that it has chosen and holds on to, until `reconsider` says that it
    should think again.
    """

    hall: Hall
    reconsider: "Policy"
    beliefs: frozenset[Order] = frozenset()
    intention: Order | None = None

    def wants_to_think(self, at: Cell, seen: frozenset[Order]) -> bool:
        if self.intention and self.intention.cell == at:
            self.intention = None  # reached, whether or not the order was still there
        if not self.intention:
            return bool(seen)
        return self.reconsider(self, at, seen)

    def think(self, at: Cell, seen: frozenset[Order]) -> None:
        self.beliefs = seen
        desires = self.beliefs
        self.intention = best(self.hall, at, desires) if desires else None

    def move(self, at: Cell, seen: frozenset[Order]) -> Cell:
        return toward(self.hall, at, self.intention.cell) if self.intention else at


Policy = Callable[[BDI, Cell, frozenset[Order]], bool]


def bold(agent: BDI, at: Cell, seen: frozenset[Order]) -> bool:
    """Think again only when the intention has been reached."""
    return False


def cautious(agent: BDI, at: Cell, seen: frozenset[Order]) -> bool:
    """Think again before every step."""
    return True


def alert(agent: BDI, at: Cell, seen: frozenset[Order]) -> bool:
    """Think again when the intended order is gone, or a new one is nearer: glances cost no time."""
    if agent.intention not in seen:
        return True
    there = air_line(at, agent.intention.cell)
    return any(air_line(at, order.cell) < there for order in seen - agent.beliefs)


# ---------------------------------------------------------------- a day in the hall


@dataclass
class Day:
    """What became of one day: points of the orders that were fetched and of all, thoughts, steps, and the way."""

    points: int = 0
    possible: int = 0
    thoughts: int = 0
    steps: int = 0
    way: list[Cell] = field(default_factory=list)

    @property
    def effectiveness(self) -> float:
        """The share of all points that were fetched, 0 to 1, as in Kinny and Georgeff."""
        return self.points / self.possible


def run(hall: Hall, agent: Agent, thinking: int, start: Cell = (0, 0)) -> Day:
    """Let an agent work until the last order is gone; each thought takes `thinking` ticks, each step one."""
    day = Day(possible=sum(order.value for order in hall.orders), way=[start])
    at, now, fetched = start, 0, set()
    while now < hall.closes:
        seen = hall.open_at(now) - fetched
        if agent.wants_to_think(at, seen):
            agent.think(at, seen)
            day.thoughts += 1
            now += thinking  # the hall does not wait
        there = agent.move(at, seen)
        day.steps += there != at
        at, now = there, now + 1
        day.way.append(at)
        here = [order for order in hall.open_at(now) if order.cell == at and order not in fetched]
        day.points += sum(order.value for order in here)
        fetched.update(here)
    return day

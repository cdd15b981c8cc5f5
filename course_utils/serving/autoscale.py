"""Autoscaling by simulation: a day's requests, replicas that answer as fast as one was measured, and a policy.

Discrete events: a request arrives, an answer is ready, the policy looks. Simplified: an answer's time is set when
its work begins, by how many are then in work at its replica; requests wait in one queue, first come, first served.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

LOOK = 5.0  # seconds between two looks of a policy

# What a policy sees: the time, requests waiting or in work, replicas that are ready or starting; what it wants.
Policy = Callable[[float, int, int], int]


@dataclass(frozen=True)
class Curve:
    """Seconds an answer takes with 1, 2, 3 ... requests in work at one replica."""

    seconds: tuple[float, ...]

    @classmethod
    def measured(cls, points: Mapping[int, float]) -> "Curve":
        """From measured points, with straight lines between them. ValueError without a point for 1."""
        if not points or min(points) != 1 or min(points.values()) <= 0:
            raise ValueError("A service curve needs seconds above 0, the first for one request at a time.")
        levels = sorted(points)
        values = np.interp(range(1, levels[-1] + 1), levels, [points[level] for level in levels])
        return cls(tuple(values.tolist()))

    @property
    def most(self) -> int:
        """Requests that a replica takes at once."""
        return len(self.seconds)

    @property
    def capacity(self) -> float:
        """Answers a second of one replica that is always full."""
        return self.most / self.seconds[-1]


@dataclass
class Replica:
    """A server of the simulation."""

    ordered: float
    ready: float
    in_work: int = 0
    leaves: bool = False  # takes nothing new, and ends when its last answer is ready


@dataclass(frozen=True)
class Day:
    """What came of it: seconds from arrival to answer of each request, what was paid, and how many replicas when."""

    seconds: np.ndarray  # (requests,)
    replica_seconds: float
    sizes: tuple[tuple[float, int], ...]  # (time, replicas that are paid for)

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the requests was answered."""
        return float(np.quantile(self.seconds, share))

    def late(self, limit: float) -> float:
        """The share of the requests that took longer than `limit` seconds."""
        return float((self.seconds > limit).mean())


@dataclass
class Fleet:
    """All replicas of a simulation, and the requests that wait for a place."""

    curve: Curve
    cold_start: float  # seconds from the order of a replica until it takes requests
    replicas: list[Replica] = field(default_factory=list)
    queue: deque[float] = field(default_factory=deque)  # times of arrival
    paid: float = 0.0

    @property
    def staying(self) -> list[Replica]:
        return [replica for replica in self.replicas if not replica.leaves]

    @property
    def in_system(self) -> int:
        """Requests waiting or in work."""
        return len(self.queue) + sum(replica.in_work for replica in self.replicas)

    def order(self, now: float, wanted: int) -> list[Replica]:
        """Start or send away replicas until `wanted` stay; those that were started."""
        staying = self.staying
        new = [Replica(now, now + self.cold_start) for _ in range(wanted - len(staying))]
        self.replicas += new
        surplus = max(0, len(staying) - wanted)
        idlest = sorted(staying, key=lambda replica: (replica.ready <= now, replica.in_work))
        for replica in idlest[:surplus]:
            replica.leaves = True
            self.let_go(now, replica)
        return new

    def let_go(self, now: float, replica: Replica) -> None:
        """End a replica that leaves and has no work left."""
        if replica.leaves and replica.in_work == 0:
            self.replicas.remove(replica)
            self.paid += now - replica.ordered

    def place(self, now: float) -> Replica | None:
        """The ready replica with the fewest requests in work, None if all are full."""
        ready = [replica for replica in self.staying if replica.ready <= now]
        free = [replica for replica in ready if replica.in_work < self.curve.most]
        return min(free, key=lambda replica: replica.in_work, default=None)


def simulate(arrivals: Sequence[float], curve: Curve, policy: Policy, cold_start: float, start: int) -> Day:
    """Run through `arrivals` (sorted, seconds) with `start` replicas that are ready at 0, and a policy.

    ValueError for no arrival or no replica at the start.
    """
    if len(arrivals) == 0 or start < 1:
        raise ValueError("A simulation needs arrivals and at least one replica at the start.")
    fleet = Fleet(curve, cold_start, [Replica(0.0, 0.0) for _ in range(start)])
    order = count()  # of events at the same time
    events: list[tuple] = [(float(at), next(order), "arrival", None) for at in arrivals]
    last = events[-1][0]
    looks = np.arange(0.0, last, LOOK)
    events += [(float(at), next(order), "look", None) for at in looks]
    heapq.heapify(events)
    seconds, sizes, now = [], [(0.0, start)], 0.0
    while events:
        now, _, kind, subject = heapq.heappop(events)
        if kind == "arrival":
            fleet.queue.append(now)
        elif kind == "answer":
            replica, arrived = subject
            replica.in_work -= 1
            seconds.append(now - arrived)
            fleet.let_go(now, replica)
        elif kind == "look":
            wanted = policy(now, fleet.in_system, len(fleet.staying))
            for replica in fleet.order(now, max(1, wanted)):
                heapq.heappush(events, (replica.ready, next(order), "ready", None))
            sizes.append((now, len(fleet.replicas)))
        while fleet.queue and (replica := fleet.place(now)):
            replica.in_work += 1
            done = now + curve.seconds[replica.in_work - 1]
            heapq.heappush(events, (done, next(order), "answer", (replica, fleet.queue.popleft())))
    for replica in fleet.replicas:
        fleet.paid += now - replica.ordered
    return Day(np.array(seconds), fleet.paid, tuple(sizes))


# --- a day's requests -----------------------------------------------------------------------------------


def draw(rate: Callable[[np.ndarray], np.ndarray], length: float, highest: float, seed: int) -> np.ndarray:
    """Times of arrival, sorted: a Poisson process with `rate(t)` requests a second, which never passes `highest`.

    By thinning (Lewis and Shedler, 1979): draw at the highest rate, and keep each with probability rate / highest.
    ValueError if the rate does pass it.
    """
    rng = np.random.default_rng(seed)
    number = rng.poisson(highest * length)
    times = np.sort(rng.uniform(0, length, number))
    chance = rate(times) / highest
    if chance.size and chance.max() > 1 + 1e-9:
        raise ValueError(f"The rate reaches {chance.max() * highest:.1f} a second, more than `highest`, {highest:.1f}.")
    return times[rng.uniform(size=number) < chance]


# --- policies -------------------------------------------------------------------------------------------


def fixed(replicas: int) -> Policy:
    """Always so many."""
    return lambda now, in_system, size: replicas


@dataclass
class Reactive:
    """As many as the requests of this moment ask for: `target` each, rounded up, between `lowest` and `highest`.

    It goes down only to the most that it wanted in the last `patience` seconds. So does Kubernetes' autoscaler, whose
    stabilisation window is 300 s unless told otherwise.
    """

    target: float
    lowest: int
    highest: int
    patience: float
    wishes: deque[tuple[float, int]] = field(default_factory=deque)

    def __call__(self, now: float, in_system: int, size: int) -> int:
        needed = math.ceil(in_system / self.target)
        wish = min(self.highest, max(self.lowest, needed))
        self.wishes.append((now, wish))
        while self.wishes[0][0] < now - self.patience:
            self.wishes.popleft()
        recent = max(one for _, one in self.wishes)
        return max(wish, min(size, recent))


@dataclass(frozen=True)
class Timetable:
    """As many as the known rate of a day will need when a replica that is ordered now is ready."""

    rate: Callable[[np.ndarray], np.ndarray]
    capacity: float  # answers a second of one replica
    ahead: float  # seconds
    busy: float = 0.7  # of the capacity, so that the queue stays short

    def __call__(self, now: float, in_system: int, size: int) -> int:
        coming = self.rate(np.linspace(now, now + self.ahead, 8))
        return math.ceil(float(coming.max()) / (self.busy * self.capacity))

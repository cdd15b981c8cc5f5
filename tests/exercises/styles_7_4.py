"""Right answers to the exercises of Unit 7.4 in many styles. All of them have to pass."""

import heapq
import math
import operator
import re
import unicodedata
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial, reduce
from itertools import accumulate, count, takewhile

import torch
from torch import Tensor

# --- kv_cache_bytes


def cache_plain(layers, heads, kv_heads, head_dim, tokens, users, bits):
    return 2 * layers * kv_heads * head_dim * tokens * users * bits / 8


def cache_whole(layers, heads, kv_heads, head_dim, tokens, users, bits):
    return 2 * layers * kv_heads * head_dim * tokens * users * bits // 8


def cache_prod(layers, heads, kv_heads, head_dim, tokens, users, bits):
    return math.prod([2, layers, kv_heads, head_dim, tokens, users]) * (bits / 8)


def cache_loop(layers, heads, kv_heads, head_dim, tokens, users, bits):
    total = 0.0
    for _ in range(layers):
        for _ in ("keys", "values"):
            total += users * tokens * kv_heads * head_dim * bits / 8
    return total


def cache_reduce(layers: int, heads: int, kv_heads: int, head_dim: int, tokens: int, users: int, bits: int) -> float:
    factors = (layers, kv_heads, head_dim, tokens, users, bits)
    return reduce(operator.mul, factors) / 4


def cache_tensor(layers, heads, kv_heads, head_dim, tokens, users, bits):
    shape = (2, layers, users, kv_heads, tokens, head_dim)
    return torch.empty(shape, device="meta").numel() * bits / 8


def cache_width(layers, heads, kv_heads, head_dim, tokens, users, bits):
    hidden = heads * head_dim
    width = hidden * kv_heads // heads
    return 2 * width * layers * tokens * users * bits / 8


def cache_fraction(layers, heads, kv_heads, head_dim, tokens, users, bits):
    return float(Fraction(bits, 8) * 2 * layers * kv_heads * head_dim * tokens * users)


@dataclass
class Cache:
    factor: int = 2

    def __call__(self, layers, heads, kv_heads, head_dim, tokens, users, bits):
        a_token = self.factor * layers * kv_heads * head_dim
        return a_token * tokens * users * bits * 0.125


# --- token_bucket


def bucket_plain(times, rate, burst):
    tokens = burst
    last = None
    result = []
    for now in times:
        if last is not None:
            tokens = min(burst, tokens + (now - last) * rate)
        last = now
        if tokens >= 1:
            tokens -= 1
            result.append(True)
        else:
            result.append(False)
    return result


class Bucket:
    def __init__(self, rate, burst):
        self.rate, self.burst, self.level, self.last = rate, burst, float(burst), 0.0

    def allow(self, now):
        self.level = min(self.burst, self.level + self.rate * (now - self.last))
        self.last = now
        passes = self.level >= 1
        self.level -= passes
        return passes


def bucket_class(times: Sequence[float], rate: float, burst: int) -> list[bool]:
    limiter = Bucket(rate, burst)
    return [limiter.allow(time) for time in times]


def bucket_leaky(times, rate, burst):
    """The other way round: a level that runs out, and may not pass `burst`."""
    level, last, result = 0.0, -math.inf, []
    for time in times:
        level = max(0.0, level - rate * (time - last)) if last > -math.inf else 0.0
        last = time
        result.append(level + 1 <= burst)
        level += result[-1]
    return result


def bucket_gcra(times, rate, burst):
    """The generic cell rate algorithm, which keeps one time: when the bucket will be full again."""
    full, result = Fraction(0), []
    for time in map(Fraction, times):
        after = max(full, time) + 1 / Fraction(rate)
        result.append(after - time <= burst / Fraction(rate))
        if result[-1]:
            full = after
    return result


def bucket_generator(times, rate, burst):
    def decide():
        tokens, last = burst, 0
        for time in times:
            tokens, last = min(burst, tokens + rate * (time - last)), time
            passes = tokens >= 1
            tokens -= int(passes)
            yield passes

    return list(decide())


def bucket_recursive(times, rate, burst, tokens=None, last=0):
    if not times:
        return []
    now, *later = times
    tokens = burst if tokens is None else min(burst, tokens + rate * (now - last))
    passes = tokens >= 1
    return [passes, *bucket_recursive(later, rate, burst, tokens - passes, now)]


def bucket_accumulate(times, rate, burst):
    def look(state, time):
        tokens, last, _ = state
        tokens = min(burst, tokens + rate * (time - last))
        return (tokens - 1, time, True) if tokens >= 1 else (tokens, time, False)

    states = accumulate(times, look, initial=(burst, 0.0, None))
    return [passed for _, _, passed in states][1:]


def bucket_decimal(times, rate, burst):
    tokens, last, result = Decimal(burst), Decimal(0), []
    for time in times:
        now = Decimal(time)
        tokens = min(Decimal(burst), tokens + Decimal(rate) * (now - last))
        last = now
        result.append(bool(tokens >= 1))
        tokens -= result[-1]
    return result


def bucket_numbers(times, rate, burst):
    """Ones and zeros are as good as True and False."""
    return [int(passes) for passes in bucket_plain(times, rate, burst)]


# --- schedule


def schedule_heap(requests, slots):
    free = [0] * slots
    ends = [0] * len(requests)
    for arrival, place, tokens in sorted((a, i, t) for i, (a, t) in enumerate(requests)):
        start = max(arrival, heapq.heappop(free))
        ends[place] = start + tokens - 1
        heapq.heappush(free, start + tokens)
    return ends


def schedule_steps(requests, slots):
    left = [tokens for _, tokens in requests]
    ends: list[int | None] = [None] * len(requests)
    order = sorted(range(len(requests)), key=lambda i: requests[i][0])
    running: list[int] = []
    for step in count():
        if None not in ends:
            return ends
        waiting = [i for i in order if ends[i] is None and i not in running and requests[i][0] <= step]
        running += waiting[: slots - len(running)]
        for i in running:
            left[i] -= 1
            if not left[i]:
                ends[i] = step
        running = [i for i in running if ends[i] is None]


def schedule_deque(requests: Sequence[tuple[int, int]], slots: int) -> list[int]:
    queue = deque(sorted(enumerate(requests), key=lambda item: item[1][0]))
    batch: dict[int, int] = {}
    ends, step = {}, 0
    while queue or batch:
        while queue and queue[0][1][0] <= step and len(batch) < slots:
            place, (_, tokens) = queue.popleft()
            batch[place] = tokens
        batch = {place: tokens - 1 for place, tokens in batch.items()}
        ends |= {place: step for place, tokens in batch.items() if tokens == 0}
        batch = {place: tokens for place, tokens in batch.items() if tokens > 0}
        step += 1
    return [ends[place] for place in range(len(requests))]


def schedule_slots(requests, slots):
    free = [0] * slots
    ends = {}
    for place, (arrival, tokens) in sorted(enumerate(requests), key=lambda item: (item[1][0], item[0])):
        slot = min(range(slots), key=free.__getitem__)
        free[slot] = max(free[slot], arrival) + tokens
        ends[place] = free[slot] - 1
    return [ends[i] for i in sorted(ends)]


def schedule_occupancy(requests, slots):
    """Counts who runs in each step, and looks for the first step from which a slot is free."""
    horizon = max(a for a, _ in requests) + sum(t for _, t in requests) + 1
    used, ends, first = [0] * horizon, [0] * len(requests), 0
    for i in sorted(range(len(requests)), key=lambda i: requests[i][0]):
        arrival, tokens = requests[i]
        first = max(first, arrival)
        while used[first] >= slots:
            first += 1
        for step in range(first, first + tokens):
            used[step] += 1
        ends[i] = first + tokens - 1
    return ends


class Engine:
    def __init__(self, requests, slots):
        self.waiting = sorted(([a, i, t] for i, (a, t) in enumerate(requests)), reverse=True)
        self.slots, self.running, self.ends = [None] * slots, 0, [0] * len(requests)

    def step(self, now):
        for k, request in enumerate(self.slots):
            if request is None and self.waiting and self.waiting[-1][0] <= now:
                self.slots[k] = self.waiting.pop()
        for k, request in enumerate(self.slots):
            if request is None:
                continue
            request[2] -= 1
            if request[2] == 0:
                self.ends[request[1]], self.slots[k] = now, None

    def run(self):
        now = 0
        while self.waiting or any(self.slots):
            self.step(now)
            now += 1
        return self.ends


def schedule_engine(requests, slots):
    return Engine(requests, slots).run()


def schedule_tensor(requests, slots):
    free = torch.zeros(slots, dtype=torch.long)
    arrivals = torch.tensor([a for a, _ in requests])
    ends = torch.empty(len(requests), dtype=torch.long)
    for i in arrivals.argsort(stable=True).tolist():
        slot = free.argmin()
        free[slot] = torch.maximum(free[slot], arrivals[i]) + requests[i][1]
        ends[i] = free[slot] - 1
    return ends.tolist()


def schedule_recursive(requests, slots):
    order = sorted(range(len(requests)), key=lambda i: requests[i][0])

    def place(rest, free):
        if not rest:
            return {}
        i, *later = rest
        soonest, *others = sorted(free)
        after = max(soonest, requests[i][0]) + requests[i][1]
        return {i: after - 1} | place(later, [*others, after])

    ends = place(order, [0] * slots)
    return [ends[i] for i in range(len(requests))]


# --- gptq


def gptq_plain(weight, hessian, bits, group):
    U = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    W = weight.clone()
    Q = torch.zeros_like(W)
    top = 2**bits - 1
    for j in range(W.shape[1]):
        if j % group == 0:
            low = W[:, j : j + group].min(dim=1).values
            step = (W[:, j : j + group].max(dim=1).values - low) / top
        code = torch.clamp(torch.round((W[:, j] - low) / step), 0, top)
        Q[:, j] = low + step * code
        error = (W[:, j] - Q[:, j]) / U[j, j]
        for i in range(j + 1, W.shape[1]):
            W[:, i] -= error * U[j, i]
    return Q


def gptq_original(weight, hessian, bits, group):
    """As the paper's own code gets the factor; the update includes column j itself."""
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    W, top = weight.clone(), 2**bits - 1
    Q = torch.zeros_like(W)
    for start in range(0, W.shape[1], group):
        block = W[:, start : start + group]
        low, high = block.amin(1), block.amax(1)
        scale = (high - low) / top
        for j in range(start, start + group):
            w = W[:, j]
            Q[:, j] = ((w - low) / scale).round().clamp(0, top) * scale + low
            error = (w - Q[:, j]) / U[j, j]
            W[:, j:] -= error.unsqueeze(1).matmul(U[j, j:].unsqueeze(0))
    return Q


def gptq_outer(weight: Tensor, hessian: Tensor, bits: int, group: int) -> Tensor:
    L = torch.linalg.cholesky(torch.linalg.inv(hessian))
    weight, columns = weight.detach().clone(), []
    for j in range(weight.size(1)):
        if j % group == 0:
            low, high = weight[:, j : j + group].aminmax(dim=1)
            levels = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, 2**bits)  # (d, levels)
        nearest = (weight[:, j, None] - levels).abs().argmin(1, keepdim=True)
        columns.append(levels.gather(1, nearest)[:, 0])
        error = (weight[:, j] - columns[j]) / L[j, j]
        weight = weight - torch.outer(error, L[:, j]) * (torch.arange(weight.size(1)) > j)
    return torch.stack(columns, dim=1)


def gptq_double(weight, hessian, bits, group):
    result = gptq_plain(weight.double(), hessian.double(), bits, group)
    return result.float()


def gptq_obq(weight, hessian, bits, group):
    """Optimal brain quantisation, of which GPTQ is the fast form: the inverse loses a row and column each time."""
    W, Q, top = weight.double(), torch.zeros_like(weight, dtype=torch.float64), 2**bits - 1
    inverse = torch.linalg.inv(hessian.double())
    for j in range(W.shape[1]):
        if j % group == 0:
            low, high = W[:, j : j + group].aminmax(dim=1)
        Q[:, j] = low + (high - low) / top * ((W[:, j] - low) / (high - low) * top).round().clamp(0, top)
        W = W - torch.outer((W[:, j] - Q[:, j]) / inverse[j, j], inverse[j])
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return Q.to(weight.dtype)


def gptq_lazy(weight, hessian, bits, group):
    """The update behind a group in one product, as the paper does it in blocks."""
    U = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    W, top, done = weight.clone(), 2**bits - 1, []
    for start in range(0, W.shape[1], group):
        end = start + group
        block, errors = W[:, start:end].clone(), []
        low, high = block.aminmax(dim=1)
        step = (high - low) / top
        for k in range(group):
            q = low + step * ((block[:, k] - low) / step).round().clamp(0, top)
            errors.append((block[:, k] - q) / U[start + k, start + k])
            block[:, k + 1 :] -= errors[k][:, None] * U[start + k, start + k + 1 : end]
            done.append(q)
        W[:, end:] -= torch.stack(errors, 1) @ U[start:end, end:]
    return torch.stack(done, 1)


def gptq_rows(weight, hessian, bits, group):
    """Rows know nothing of each other."""
    return torch.cat([gptq_plain(row[None], hessian, bits, group) for row in weight])


@torch.no_grad()
def gptq_solve(weight, hessian, bits, group):
    """Each column by itself: the later columns answer the errors so far by solving with their part of the Hessian."""
    Q, k, top = weight.clone().double(), weight.shape[1], 2**bits - 1
    W, H = weight.double(), hessian.double()
    for j in range(k):
        done = slice(0, j)
        if j:
            moved = torch.linalg.solve(H[j:, j:], H[j:, done] @ (weight.double() - Q)[:, done].T).T
            W = torch.cat([Q[:, done], weight.double()[:, j:] + moved], 1)
        if j % group == 0:
            low, high = W[:, j : j + group].aminmax(dim=1)
            step = (high - low) / top
        Q[:, j] = low + step * ((W[:, j] - low) / step).round().clamp(0, top)
    return Q.float()


# --- percentile


def percentile_plain(bounds, counts, q):
    total = counts[-1]
    if total == 0:
        return float("nan")
    rank = q * total
    for i in range(len(counts)):
        if counts[i] >= rank:
            break
    if i == len(counts) - 1:
        return bounds[-2]
    start = bounds[i - 1] if i > 0 else 0
    before = counts[i - 1] if i > 0 else 0
    return start + (bounds[i] - start) * (rank - before) / (counts[i] - before)


def percentile_bisect(bounds: Sequence[float], counts: Sequence[int], q: float) -> float:
    if not counts[-1]:
        return math.nan
    rank = q * counts[-1]
    i = bisect_left(counts, rank)
    if math.isinf(bounds[i]):
        return bounds[i - 1]
    low, high = (0, *bounds)[i : i + 2]
    before, upto = (0, *counts)[i : i + 2]
    return low + (high - low) * ((rank - before) / (upto - before))


def percentile_zip(bounds, counts, q):
    if sum(counts) == 0:
        return math.nan
    start = before = 0
    for end, upto in zip(bounds, counts, strict=True):
        if upto >= q * counts[-1]:
            if end == math.inf:
                return start
            share = (q * counts[-1] - before) / (upto - before)
            return (1 - share) * start + share * end
        start, before = end, upto


def percentile_next(bounds, counts, q):
    rank = q * counts[-1]
    if rank == 0:
        return math.nan
    starts, earlier = [0, *bounds[:-1]], [0, *counts[:-1]]
    rows = zip(starts, bounds, earlier, counts, strict=True)
    start, end, before, upto = next(row for row in rows if row[3] >= rank)
    return start if math.isinf(end) else start + (rank - before) / (upto - before) * (end - start)


def percentile_tensor(bounds, counts, q):
    edges = torch.tensor([0.0, *bounds], dtype=torch.float64)
    sums = torch.tensor([0, *counts], dtype=torch.float64)
    if sums[-1] == 0:
        return math.nan
    i = int(torch.searchsorted(sums[1:], q * sums[-1]))
    if i == len(bounds) - 1:
        return edges[i].item()
    share = (q * sums[-1] - sums[i]) / (sums[i + 1] - sums[i])
    return torch.lerp(edges[i], edges[i + 1], share).item()


def percentile_expanded(bounds, counts, q):
    """Every bucket as a number of observations, taken away one bucket after the other."""
    single = [counts[0], *(b - a for a, b in zip(counts, counts[1:], strict=False))]
    if not any(single):
        return math.nan
    rest, start = q * sum(single), 0.0
    for width_end, held in zip(bounds, single, strict=True):
        if rest <= held:
            return start + rest / held * (width_end - start) if width_end < math.inf else start
        rest, start = rest - held, width_end


def percentile_division(bounds, counts, q):
    """Lets Python find out that there is nothing."""
    try:
        shares = [count / counts[-1] for count in counts]
    except ZeroDivisionError:
        return math.nan
    i = len(list(takewhile(lambda count: count < q * counts[-1], counts)))
    if i == len(bounds) - 1:
        return max(bounds[:-1])
    before, start = (shares[i - 1], bounds[i - 1]) if i else (0.0, 0.0)
    return start + (q - before) / (shares[i] - before) * (bounds[i] - start)


@dataclass
class Histogram:
    floor: float = 0.0

    def __call__(self, bounds, counts, q):
        if counts[-1] == 0:
            return math.nan
        i = min(i for i, upto in enumerate(counts) if upto >= q * counts[-1])
        start, before = (bounds[i - 1], counts[i - 1]) if i else (self.floor, 0)
        if bounds[i] == float("inf"):
            return start
        slope = (bounds[i] - start) / (counts[i] - before)
        return start + slope * (q * counts[-1] - before)


# --- backoff


def backoff_plain(asked, base, cap, budget, draw):
    waits = []
    used = 0
    for i in range(len(asked)):
        limit = min(cap, base * 2**i)
        wait = draw(0, limit)
        if asked[i] is not None:
            wait += asked[i]
        if used + wait > budget:
            return waits
        used += wait
        waits.append(wait)
    return waits


def backoff_doubling(asked, base, cap, budget, draw):
    waits, limit = [], base
    for wish in asked:
        wait = (0 if wish is None else wish) + draw(0, min(limit, cap))
        budget -= wait
        if budget < 0:
            break
        waits.append(wait)
        limit *= 2
    return waits


def backoff_generator(asked: Sequence[float | None], base, cap, budget, draw: Callable) -> list[float]:
    def endless():
        for i, wish in enumerate(asked):
            yield draw(0.0, min(cap, base * 2.0**i)) + (wish or 0.0)

    def affordable():
        left = budget
        for wait in endless():
            left -= wait
            if left < 0:
                return
            yield wait

    return list(affordable())


def backoff_takewhile(asked, base, cap, budget, draw):
    waits = [(wish or 0) + draw(0, min(cap, base * 2**i)) for i, wish in enumerate(asked)]
    totals = accumulate(waits)
    fitting = list(takewhile(lambda total: total <= budget, totals))
    return waits[: len(fitting)]


def backoff_recursive(asked, base, cap, budget, draw):
    if not asked:
        return []
    wait = (asked[0] or 0) + draw(0, min(base, cap))
    if wait > budget:
        return []
    return [wait, *backoff_recursive(asked[1:], 2 * base, cap, budget - wait, draw)]


def backoff_capped_first(asked, base, cap, budget, draw):
    limits = accumulate(asked[1:], lambda limit, _: min(cap, 2 * limit), initial=min(cap, base))
    result = []
    for wish, limit in zip(asked, limits, strict=True):
        wait = sum(filter(None, (wish, draw(0, limit))))
        if math.fsum([*result, wait]) > budget:
            break
        result += [wait]
    return result


def backoff_shifted(asked, base, cap, budget, draw):
    """Draws from the wish on, which is the same."""
    waits = []
    for i, wish in enumerate(asked):
        earliest = wish or 0
        wait = draw(earliest, earliest + min(cap, base * 2**i))
        if not sum(waits) + wait <= budget:
            break
        waits.append(wait)
    return waits


class Retrier:
    def __init__(self):
        self.spent = 0

    def __call__(self, asked, base, cap, budget, draw):
        self.spent, waits = 0, []
        for failure, wish in enumerate(asked):
            wait = self.wait(failure, wish, base, cap, draw)
            self.spent += wait
            if self.spent > budget:
                break
            waits.append(wait)
        return waits

    def wait(self, failure, wish, base, cap, draw):
        return (wish if wish else 0) + draw(0, min(base * pow(2, failure), cap))


# --- injection_filter

ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"


def filter_plain(calls, allowed, phrases):
    result = []
    for action, text in calls:
        text = unicodedata.normalize("NFKC", text)
        for character in ZERO_WIDTH:
            text = text.replace(character, "")
        text = text.lower()
        words = "".join(letter if letter.isalnum() else " " for letter in text).split()
        joined = " " + " ".join(words) + " "
        bad = False
        for phrase in phrases:
            if " " + phrase + " " in joined:
                bad = True
        result.append(action in allowed and not bad)
    return result


def filter_boundaries(calls, allowed, phrases):
    def clean(text):
        text = unicodedata.normalize("NFKC", text).translate(dict.fromkeys(map(ord, ZERO_WIDTH)))
        return re.sub(r"[\W_]+", " ", text.casefold())

    pattern = re.compile("|".join(rf"\b{re.escape(phrase)}\b" for phrase in phrases))
    return [action in set(allowed) and not pattern.search(clean(text)) for action, text in calls]


def word_list(text: str) -> list[str]:
    normal = re.sub(f"[{ZERO_WIDTH}]", "", unicodedata.normalize("NFKC", text))
    return re.findall(r"\w+", normal.lower())


def has_run(words: list[str], run: list[str]) -> bool:
    return any(words[i : i + len(run)] == run for i in range(len(words) - len(run) + 1))


def filter_runs(calls: Sequence[tuple[str, str]], allowed: Sequence[str], phrases: Sequence[str]) -> list[bool]:
    runs = [phrase.split() for phrase in phrases]
    return [action in allowed and not any(has_run(word_list(text), run) for run in runs) for action, text in calls]


def filter_category(calls, allowed, phrases):
    """Takes out everything that Unicode calls a format character."""

    def tidy(text):
        shown = [c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf"]
        kept = [c.lower() if unicodedata.category(c)[0] in "LNM" else " " for c in shown]
        return f" {' '.join(''.join(kept).split())} "

    return [a in allowed and all(f" {p} " not in tidy(t) for p in phrases) for a, t in calls]


def filter_early(calls, allowed, phrases):
    """Does not even read the text of an action that is not allowed."""
    decisions = [False] * len(calls)
    for i, (action, text) in enumerate(calls):
        if action not in allowed:
            continue
        words = word_list(text)
        decisions[i] = True
        for phrase in phrases:
            if has_run(words, phrase.split()):
                decisions[i] = False
                break
    return decisions


def filter_between(calls, allowed, phrases):
    """One regular expression in which anything but letters may stand between two words."""
    patterns = [r"(?<![^\W_])" + r"[\W_]+".join(phrase.split()) + r"(?![^\W_])" for phrase in phrases]

    def strip(text):
        text = unicodedata.normalize("NFKC", text.translate({ord(c): None for c in ZERO_WIDTH}))
        return text.lower()

    return [
        allowed.count(action) > 0 and not any(re.search(pattern, strip(text)) for pattern in patterns)
        for action, text in calls
    ]


@dataclass
class Guard:
    form: str = "NFKC"

    def words(self, text):
        text = unicodedata.normalize(self.form, text)
        text = "".join(filter(lambda c: c not in ZERO_WIDTH, text))
        return tuple(re.split(r"[\W_]+", text.lower()))

    def windows(self, text, size):
        words = self.words(text)
        return {words[i : i + size] for i in range(len(words))}

    def __call__(self, calls, allowed, phrases):
        wanted = [tuple(phrase.split()) for phrase in phrases]
        decisions = []
        for action, text in calls:
            hits = [run in self.windows(text, len(run)) for run in wanted]
            decisions.append(action in allowed and not any(hits))
        return decisions


def filter_map(calls, allowed, phrases):
    harmless = partial(without, phrases)
    return list(map(lambda call: call[0] in allowed and harmless(call[1]), calls))


def without(phrases, text):
    joined = f"|{'|'.join(word_list(text))}|"
    return not any(f"|{phrase.replace(' ', '|')}|" in joined for phrase in phrases)


STYLES = {
    "7.4.kv_cache_bytes": [
        cache_plain,
        cache_whole,
        cache_prod,
        cache_loop,
        cache_reduce,
        cache_tensor,
        cache_width,
        cache_fraction,
        Cache(),
        lambda n, h, k, d, t, u, b: n * k * d * t * u * b / 4,
    ],
    "7.4.token_bucket": [
        bucket_plain,
        bucket_class,
        bucket_leaky,
        bucket_gcra,
        bucket_generator,
        bucket_recursive,
        bucket_accumulate,
        bucket_decimal,
        bucket_numbers,
    ],
    "7.4.schedule": [
        schedule_heap,
        schedule_steps,
        schedule_deque,
        schedule_slots,
        schedule_occupancy,
        schedule_engine,
        schedule_tensor,
        schedule_recursive,
    ],
    "7.4.gptq": [
        gptq_plain,
        gptq_original,
        gptq_outer,
        gptq_double,
        gptq_obq,
        gptq_lazy,
        gptq_rows,
        gptq_solve,
    ],
    "7.4.percentile": [
        percentile_plain,
        percentile_bisect,
        percentile_zip,
        percentile_next,
        percentile_tensor,
        percentile_expanded,
        percentile_division,
        Histogram(),
    ],
    "7.4.backoff": [
        backoff_plain,
        backoff_doubling,
        backoff_generator,
        backoff_takewhile,
        backoff_recursive,
        backoff_capped_first,
        backoff_shifted,
        Retrier(),
    ],
    "7.4.injection_filter": [
        filter_plain,
        filter_boundaries,
        filter_runs,
        filter_category,
        filter_early,
        filter_between,
        Guard(),
        filter_map,
    ],
}

"""Wrong answers to the exercises of Unit 7.4, each with words of the diagnosis that the student should read."""

import math
import random
import re
import unicodedata

import torch

# --- the cache


def cache(layers, heads, kv_heads, head_dim, tokens, users, bits):
    """Right."""
    return 2 * layers * kv_heads * head_dim * tokens * users * bits / 8


# --- the bucket


def bucket(times, rate, burst, start=None, most=None, enough=1.0, refused=lambda tokens: tokens, gain=None):
    tokens, last, result = burst if start is None else start, times[0] if times else 0, []
    for time in times:
        gained = (time - last) * rate if gain is None else gain(time - last)
        tokens, last = min(most or burst, tokens + gained), time
        result.append(tokens >= enough)
        tokens = tokens - 1 if result[-1] else refused(tokens)
    return result


def each_second(times, rate, burst):
    counts, result = {}, []
    for time in times:
        window = math.floor(time)
        counts[window] = counts.get(window, 0) + 1
        result.append(counts[window] <= burst)
    return result


def sliding(times, rate, burst):
    passed, result = [], []
    for time in times:
        passed = [t for t in passed if t > time - 1]
        result.append(len(passed) < burst)
        passed += [time] if result[-1] else []
    return result


def looks_when_passing(times, rate, burst):
    tokens, last, result = burst, 0, []
    for time in times:
        tokens = min(burst, tokens + rate * (time - last))
        result.append(tokens >= 1)
        if result[-1]:
            tokens, last = tokens - 1, time
    return result


def sorts_in_place(times, rate, burst):
    times.append(0.0)
    return bucket(times[:-1], rate, burst)


# --- the schedule


def slotwise(requests, slots, key=None, gap=1, arrive=lambda arrival, free: max(arrival, free)):
    free, ends = [0] * slots, [0] * len(requests)
    for i in sorted(range(len(requests)), key=key or (lambda i: requests[i][0])):
        slot = free.index(min(free))
        ends[i] = arrive(requests[i][0], free[slot]) + requests[i][1] - 1
        free[slot] = ends[i] + gap
    return ends


def in_batches(requests, slots, together=False):
    waiting, ends, step = sorted(range(len(requests)), key=lambda i: requests[i][0]), [0] * len(requests), 0
    while waiting:
        step = max(step, requests[waiting[0]][0])
        batch = [i for i in waiting if requests[i][0] <= step][:slots]
        longest = max(requests[i][1] for i in batch)
        for i in batch:
            ends[i] = step + (longest if together else requests[i][1]) - 1
        waiting = [i for i in waiting if i not in batch]
        step += longest
    return ends


def by_arrival(requests, slots):
    ends = slotwise(requests, slots)
    return [ends[i] for i in sorted(range(len(requests)), key=lambda i: requests[i][0])]


def starts(requests, slots):
    return [end - tokens + 1 for end, (_, tokens) in zip(slotwise(requests, slots), requests, strict=True)]


def lasting(requests, slots, more=0):
    return [end - arrival + more for end, (arrival, _) in zip(slotwise(requests, slots), requests, strict=True)]


# --- GPTQ


def upper(hessian):
    return torch.linalg.cholesky(torch.linalg.inv(hessian)).T


def lower(hessian):
    return torch.linalg.cholesky(torch.linalg.inv(hessian))


def on_grid(columns, low, step, top, code=torch.round):
    return low + step * code((columns - low) / step).clamp(0, top)


def swept(
    weight, hessian, bits, group, factor=upper, sign=1, power=1, row=None, clamp=True, code=torch.round, more=0,
    local=False, fixed=False, moved=False, reach=None,
):  # fmt: skip
    U, W, Q, top = factor(hessian), weight.clone(), weight.clone(), 2**bits - 1
    for j in range(W.shape[1]):
        if j % group == 0:
            block = (weight if fixed else W)[:, j : j + group]
            low, step = block.amin(1), (block.amax(1) - block.amin(1)) / (top + more)
        Q[:, j] = on_grid(W[:, j], low, step, top if clamp else 10**6, code) if clamp else (
            low + step * ((W[:, j] - low) / step).round()
        )  # fmt: skip
        error = sign * (W[:, j] - Q[:, j]) / U[j, j] ** power
        end = W.shape[1] if not local else j - j % group + group
        end = end if reach is None else j + 1 + reach
        W[:, j + 1 : end] -= torch.outer(error, U[j if row is None else row, j + 1 : end])
    return W if moved else Q


def one_grid_for_all_rows(weight, hessian, bits, group):
    step = (weight.max() - weight.min()) / (2**bits - 1)
    return weight.min() + step * ((weight - weight.min()) / step).round()


def symmetric(weight, hessian, bits, group):
    largest = weight.abs().amax(1, keepdim=True)
    step = 2 * largest / (2**bits - 1)
    return ((weight + largest) / step).round() * step - largest


def codes(weight, hessian, bits, group):
    low = weight.amin(1, keepdim=True)
    return ((weight - low) / (weight.amax(1, keepdim=True) - low) * (2**bits - 1)).round()


def moves_the_weight(weight, hessian, bits, group):
    weight -= 1
    return weight


# --- the percentile


def even(start, end, before, count, rank):
    return start + (end - start) * (rank - before) / (count - before)


def quantile(bounds, counts, q, inside=even):
    if counts[-1] == 0:
        return math.nan
    rank, start, before = q * counts[-1], 0.0, 0
    for end, count in zip(bounds, counts, strict=True):
        if count >= rank:
            return start if math.isinf(end) else inside(start, end, before, count, rank)
        start, before = end, count
    return None


def zero_for_nothing(bounds, counts, q):
    return quantile(bounds, counts, q) if counts[-1] else 0.0


def no_first(bounds, counts, q):
    return bounds[0] if q * counts[-1] <= counts[0] and counts[-1] else quantile(bounds, counts, q)


def beyond(bounds, counts, q):
    at = next((i for i, count in enumerate(counts) if count > q * counts[-1]), len(counts) - 1)
    if not at or at == len(counts) - 1:
        return quantile(bounds, counts, q)
    share = (q * counts[-1] - counts[at - 1]) / (counts[at] - counts[at - 1])
    return bounds[at - 1] + share * (bounds[at] - bounds[at - 1])


def endless(bounds, counts, q):
    return bounds[-1] if q * counts[-1] > counts[-2] else quantile(bounds, counts, q)


def of_single_buckets(bounds, counts, q):
    sums = [sum(counts[: i + 1]) for i in range(len(counts))]
    return quantile(bounds, sums, q)


# --- waits


def waits(asked, base, cap, budget, draw, limit=None, together=lambda wish, wait: (wish or 0) + wait):
    result = []
    for i, wish in enumerate(asked):
        drawn = draw(0, min(cap, base * 2**i)) if limit is None else limit(i, base, cap, draw)
        wait = together(wish, drawn)
        if sum(result) + wait > budget:
            return result
        result.append(wait)
    return result


def jittered(limit):
    return lambda a, base, cap, budget, draw: waits(a, base, cap, budget, draw, limit)


def joined(together):
    return lambda a, base, cap, budget, draw: waits(a, base, cap, budget, draw, together=together)


def skipping(asked, base, cap, budget, draw):
    result = []
    for wait in waits(asked, base, cap, math.inf, draw):
        result += [wait] if sum(result) + wait <= budget else []
    return result


def one_too_many(asked, base, cap, budget, draw):
    result = []
    for wait in waits(asked, base, cap, math.inf, draw):
        if sum(result) > budget:
            break
        result.append(wait)
    return result


def shortened(asked, base, cap, budget, draw):
    result = []
    for wait in waits(asked, base, cap, math.inf, draw):
        result.append(min(wait, budget - sum(result)))
        if sum(result) >= budget:
            break
    return result


def strictly(asked, base, cap, budget, draw):
    return waits(asked, base, cap, budget - 1e-9, draw)


def all_or_nothing(asked, base, cap, budget, draw):
    result = waits(asked, base, cap, math.inf, draw)
    return result if sum(result) <= budget else waits(asked, base, cap, budget, draw) * (None not in asked[1:3])


def by_wishless(asked, base, cap, budget, draw):
    result, failures = [], 0
    for wish in asked:
        wait = (wish or 0) + draw(0, min(cap, base * 2**failures))
        failures += wish is None
        if sum(result) + wait > budget:
            break
        result.append(wait)
    return result


# --- the filter

INVISIBLE = dict.fromkeys([0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF])


def normal(text, form="NFKC", invisible=INVISIBLE, lower=True):
    text = unicodedata.normalize(form, text).translate(invisible)
    return text.lower() if lower else text


def in_words(text):
    return " " + " ".join(re.findall(r"[^\W_]+", text)) + " "


def suspicious(text, phrases):
    return any(f" {phrase} " in in_words(text) for phrase in phrases)


def filtered(prepare=normal, may=lambda action, allowed: action in allowed, found=suspicious, join=all):
    def decide(calls, allowed, phrases):
        return [join([may(action, allowed), not found(prepare(text), phrases)]) for action, text in calls]

    return decide


def plain_substring(text, phrases):
    return any(phrase in text for phrase in phrases)


def split_only(text, phrases):
    return any(f" {phrase} " in f" {' '.join(text.split())} " for phrase in phrases)


def words_anywhere(text, phrases):
    return any(set(phrase.split()) <= set(in_words(text).split()) for phrase in phrases)


def first_words(text, phrases):
    return suspicious(text, [phrase.split()[0] for phrase in phrases])


def only_runs(calls, allowed, phrases):
    return [call for call, may in zip(calls, filtered()(calls, allowed, phrases), strict=True) if may]


def told_by_the_text(calls, allowed, phrases):
    decisions = filtered()(calls, allowed, phrases)
    said = [any(name in text for name in allowed) for _, text in calls]
    return [one or other for one, other in zip(decisions, said, strict=True)]


PLANTED = {
    "7.4.kv_cache_bytes": [
        (lambda n, h, k, d, t, u, b: cache(n, h, h, d, t, u, b), "You count the heads that ask"),
        (lambda n, h, k, d, t, u, b: cache(n, h, k, d, t, u, b) / 2, "You count the keys alone"),
        (lambda n, h, k, d, t, u, b: n * (h + 2 * k) * d * t * u * b / 8, "keys, queries and values"),
        (lambda n, h, k, d, t, u, b: cache(n, h, k, d, t, 1, b), "forget the users"),
        (lambda n, h, k, d, t, u, b: cache(1, h, k, d, t, u, b), "forget the layers"),
        (lambda n, h, k, d, t, u, b: cache(n, h, k, d, 1, u, b), "forget the tokens"),
        (lambda n, h, k, d, t, u, b: cache(n, h, 1, d, t, u, b), "one set of keys and values a layer"),
        (lambda n, h, k, d, t, u, b: cache(n, h, k, 1, t, u, b), "one number a key"),
        (lambda n, h, k, d, t, u, b: cache(n, h, k, d, t * t, u, b), "square of the tokens"),
        (lambda n, h, k, d, t, u, b: cache(n, h, k, d, t, u, b * 8), "returns bits"),
        (lambda n, h, k, d, t, u, b: cache(n, h, k, d, t, u, b * 64), "multiply by 8"),
        (lambda n, h, k, d, t, u, b: cache(n, h, k, d, t, u, 8), "how many numbers"),
        (lambda n, h, k, d, t, u, b: cache(n, h, k, d, t, u, b) / 2**30, "returns GiB"),
        (lambda n, h, k, d, t, u, b: cache(n, h, k, d, t, u, b) / 1e9, "returns GB"),
        (lambda n, h, k, d, t, u, b: 2 * n * k * d * t * u * (b // 8), "`bits // 8` throws the half byte away"),
        (lambda n, h, k, d, t, u, b: torch.tensor(cache(n, h, k, d, t, u, b)), "A plain number is wanted"),
    ],
    "7.4.token_bucket": [
        (lambda t, r, b: bucket(t, r, b, start=0), "starts empty"),
        (lambda t, r, b: bucket(t, r, b, start=1), "starts with one token"),
        (lambda t, r, b: bucket(t, r, b, most=10**9), "fills up above `burst`"),
        (lambda t, r, b: bucket(t, r, 1), "never holds more than one token"),
        (lambda t, r, b: bucket(t, r, b, refused=lambda tokens: tokens - 1), "Requests that are refused pay"),
        (lambda t, r, b: bucket(t, r, b, refused=lambda tokens: 0), "empties your bucket"),
        (lambda t, r, b: bucket(t, r, b, gain=lambda seconds: int(seconds * r)), "throw away parts of a token"),
        (lambda t, r, b: bucket(t, 0, b), "never filled again"),
        (lambda t, r, b: bucket(t, 1 / r, b), "divide by `rate`"),
        (lambda t, r, b: bucket(t, r, b, enough=1e-12), "Less than a whole token"),
        (lambda t, r, b: bucket(t, r, b, enough=1.0000001), "Exactly one token"),
        (each_second, "in each second of the clock"),
        (sliding, "requests of the last second"),
        (looks_when_passing, "count the seconds before a refused one twice"),
        (lambda t, r, b: [not one for one in bucket(t, r, b)], "which are refused"),
        (lambda t, r, b: [x for x, one in zip(t, bucket(t, r, b), strict=True) if one], "returns the times"),
        (lambda t, r, b: [i for i, one in enumerate(bucket(t, r, b)) if one], "returns the places"),
        (lambda t, r, b: [True] * len(t), "Every request passes"),
        (lambda t, r, b: sum(bucket(t, r, b)), "returns an int. A list is wanted"),
        (lambda t, r, b: bucket(t, r, b) if t else t[0], "stopped with IndexError"),
        (sorts_in_place, "changes its input `times`"),
    ],
    "7.4.schedule": [
        (in_batches, "until its longest request is done before new ones join"),
        (lambda q, n: in_batches(q, n, together=True), "all end with it"),
        (lambda q, n: slotwise(q, 1), "one request after the other"),
        (lambda q, n: slotwise(q, 99), "overlook `slots`"),
        (lambda q, n: slotwise(q, n, gap=2), "a slot stays empty for a step"),
        (lambda q, n: slotwise(q, n, gap=0), "in the same step in which another"),
        (lambda q, n: slotwise(q, n, arrive=lambda a, f: max(a + 1, f)), "one step too late"),
        (lambda q, n: [end + 1 for end in slotwise(q, n)], "one step too late"),
        (lambda q, n: slotwise(q, n, key=lambda i: i), "in the order of the list"),
        (lambda q, n: slotwise(q, n, key=lambda i: q[i][1]), "the shortest go first"),
        (lambda q, n: slotwise(q, n, arrive=lambda a, f: f), "before they arrive"),
        (by_arrival, "in the order of arrival. Keep"),
        (lambda q, n: sorted(slotwise(q, n)), "Your ends are sorted"),
        (lambda q, n: lasting(q, n), "how long each request took"),
        (lambda q, n: lasting(q, n, 1), "how many steps each request took"),
        (starts, "in which requests start"),
        (lambda q, n: tuple(slotwise(q, n)), "returns a tuple. A list is wanted"),
        (lambda q, n: q.sort() or slotwise(q, n), "changes its input `requests`"),
    ],
    "7.4.gptq": [
        (lambda w, h, b, g: w.clone(), "returns the weights as they are"),
        (codes, "returns codes"),
        (lambda w, h, b, g: swept(w, h, b, g) - w.amin(1, keepdim=True), "forget to add the smallest weight"),
        (lambda w, h, b, g: swept(w, h, b, g, code=torch.floor), "You round down"),
        (lambda w, h, b, g: swept(w, h, b, g, code=torch.ceil), "You round up"),
        (lambda w, h, b, g: swept(w, h, b, g, more=1, clamp=False), "2**bits steps"),
        (symmetric, "symmetric around 0"),
        (one_grid_for_all_rows, "one grid for all rows"),
        (lambda w, h, b, g: one_grid_for_all_rows(w, h, b, g).T, "has the shape (4, 3)"),
        (lambda w, h, b, g: swept(w, torch.eye(len(h)), b, g), "no error reaches the later ones"),
        (lambda w, h, b, g: swept(w, h, b, g, factor=lower), "no error reaches the later ones"),
        (lambda w, h, b, g: swept(w, h, b, g, sign=-1), "wrong sign"),
        (lambda w, h, b, g: swept(w, h, b, g, power=0), "forget to divide the error"),
        (lambda w, h, b, g: swept(w, h, b, g, power=-1), "multiply the error by U[j, j]"),
        (lambda w, h, b, g: swept(w, h, b, g, power=2), "square of U[j, j]"),
        (lambda w, h, b, g: swept(w, h, b, g, row=0), "row 0 of U"),
        (lambda w, h, b, g: swept(w, h, b, g, factor=lambda x: torch.linalg.cholesky(x).T), "factor of the Hessian"),
        (lambda w, h, b, g: swept(w, h, b, g, factor=lambda x: x), "the Hessian itself"),
        (lambda w, h, b, g: swept(w, h, b, g, factor=torch.linalg.inv), "the inverse Hessian itself"),
        (lambda w, h, b, g: swept(w, h, b, g, reach=1), "to the next column"),
        (lambda w, h, b, g: swept(w, h, b, g, clamp=False), "Clamp the codes"),
        (lambda w, h, b, g: swept(w, h, b, w.shape[1]), "one grid for the whole row"),
        (lambda w, h, b, g: swept(w, h, b, g, fixed=True), "as they were at the start"),
        (lambda w, h, b, g: swept(w, h, b, g, local=True), "stops at the end of the group"),
        (moves_the_weight, "changes its input `weight`"),
    ],
    "7.4.percentile": [
        (lambda b, c, q: quantile(b, c, q, lambda s, e, f, n, r: e), "returns the end of the bucket"),
        (lambda b, c, q: quantile(b, c, q, lambda s, e, f, n, r: s), "returns the start of the bucket"),
        (lambda b, c, q: quantile(b, c, q, lambda s, e, f, n, r: (s + e) / 2), "returns the middle"),
        (lambda b, c, q: quantile(b, c, q, lambda s, e, f, n, r: s + (e - s) * r / n), "divide the rank by all"),
        (lambda b, c, q: quantile(b, c, q, lambda s, e, f, n, r: s + (e - s) * (r - f) / n), "forget it below"),
        (lambda b, c, q: quantile(b, c, q, lambda s, e, f, n, r: e - (e - s) * (r - f) / (n - f)), "back"),
        (lambda b, c, q: quantile(b, c, q, lambda s, e, f, n, r: e * (r - f) / (n - f)), "from 0 to the end"),
        (lambda b, c, q: quantile(b, c, q, lambda s, e, f, n, r: s + q * (e - s)), "`q` itself"),
        (lambda b, c, q: quantile(b, c, q, lambda s, e, f, n, r: r), "returns the rank"),
        (lambda b, c, q: quantile(b, c, q / 100), "in per cent"),
        (lambda b, c, q: quantile(b, c, 1 - q), "the other side"),
        (of_single_buckets, "those of single buckets"),
        (no_first, "In the first bucket you don't interpolate"),
        (beyond, "exactly at the end of a bucket"),
        (endless, "your answer is infinite"),
        (zero_for_nothing, "return `math.nan`, as Prometheus does. Yours: 0.0"),
        (lambda b, c, q: quantile(b, c, q) if c[-1] else None, "Yours: None"),
    ],
    "7.4.backoff": [
        (jittered(lambda i, base, cap, draw: min(cap, base * 2**i)), "the limits themselves"),
        (jittered(lambda i, base, cap, draw: draw(min(cap, base * 2**i) / 2, min(cap, base * 2**i))), "half the limit"),
        (jittered(lambda i, base, cap, draw: 1.75 * min(cap, base * 2**i)), "add the random part to the limit"),
        (jittered(lambda i, base, cap, draw: draw(base, min(cap, base * 2**i))), "between `base` and the limit"),
        (jittered(lambda i, base, cap, draw: draw(0, base)), "does not grow"),
        (jittered(lambda i, base, cap, draw: draw(0, min(cap, base * (i + 1)))), "by the same amount"),
        (jittered(lambda i, base, cap, draw: draw(0, min(cap, base * (i + 1) ** 2))), "square of the failures"),
        (jittered(lambda i, base, cap, draw: draw(0, min(cap, base * 2 ** (i + 1)))), "twice `base`"),
        (jittered(lambda i, base, cap, draw: draw(0, base * 2**i)), "grows for ever"),
        (jittered(lambda i, base, cap, draw: min(cap, draw(0, base * 2**i))), "cap the wait after drawing"),
        (jittered(lambda i, base, cap, draw: random.uniform(0, min(cap, base * 2**i))), "draw with `random` yourself"),
        (lambda *x: [sum(waits(*x)[: i + 1]) for i in range(len(waits(*x)))], "times since the start"),
        (lambda *x: waits(x[0][:-1], *x[1:]), "one wait too few"),
        (joined(lambda wish, wait: wait), "overlook what the server asked"),
        (joined(lambda wish, wait: wish or wait), "exactly as long as the server asked"),
        (joined(lambda wish, wait: max(wish or 0, wait)), "the larger of the two"),
        (joined(lambda wish, wait: min(6.0, wish or 0) + wait), "`cap` shortens what the server asked for"),
        (joined(lambda wish, wait: min(6.0, (wish or 0) + wait)), "`cap` shortens the sum"),
        (joined(lambda wish, wait: 0.75 * wish if wish else wait), "It is a lower bound"),
        (by_wishless, "does not count with you"),
        (lambda a, base, cap, budget, draw: waits(a, base, cap, 1e9, draw), "You overlook `budget`"),
        (one_too_many, "notice too late"),
        (skipping, "leave out the wait that is too long and go on"),
        (shortened, "shorten the last wait"),
        (strictly, "although the wait still fits"),
        (lambda a, base, cap, budget, draw: waits(a, base, cap, budget, lambda: 1), "stopped with TypeError"),
    ],
    "7.4.injection_filter": [
        (filtered(found=lambda text, phrases: False), "look at the action alone"),
        (filtered(may=lambda action, allowed: True), "look at the text alone"),
        (filtered(join=any), "One yes is enough"),
        (lambda *x: [not one for one in filtered()(*x)], "which calls are refused"),
        (filtered(found=first_words), "You refuse the honest customer"),
        (only_runs, "returns the calls that may run"),
        (lambda c, a, p: [action for action, _ in only_runs(c, a, p)], "returns the actions that may run"),
        (lambda c, a, p: [True] * len(c), "Every call may run"),
        (lambda c, a, p: [False] * len(c), "No call may run"),
        (filtered(str.lower, found=plain_substring), "compare in lower case and do no more"),
        (filtered(str, found=plain_substring), "in the text as it is"),
        (filtered(found=lambda text, phrases: plain_substring(in_words(text), phrases)), "inside of longer words"),
        (filtered(lambda text: text.translate(INVISIBLE).lower()), "do not take the normal form NFKC"),
        (filtered(lambda text: normal(text, form="NFC")), "do not take the normal form NFKC"),
        (filtered(lambda text: normal(text.lower(), lower=False)), "small before NFKC"),
        (filtered(lambda text: normal(text, lower=False)), "Capital letters count"),
        (filtered(lambda text: normal(text, invisible={})), "Zero-width characters split"),
        (filtered(found=split_only), "Commas and brackets"),
        (filtered(found=words_anywhere), "have to stand in a row"),
        (filtered(found=lambda text, phrases: suspicious(text, phrases[:1])), "the first phrase only"),
        (filtered(may=lambda action, allowed: any(one in action for one in allowed)), "inside of the name"),
        (filtered(may=lambda action, allowed: action.startswith(tuple(allowed))), "the beginning of the name"),
        (filtered(may=lambda action, allowed: action in " ".join(allowed)), "inside of the allowed ones"),
        (filtered(may=lambda action, allowed: normal(action) in allowed), "You normalise the action"),
        (filtered(may=lambda action, allowed: action.lower() in allowed), "the action's letters small"),
        (told_by_the_text, "allows an action with you"),
    ],
}  # fmt: skip

"""Unit 7.4's exercises and quizzes: what is asked. The solutions are in solutions.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from course_utils.exercises.registry import Answer, Exercise, Quiz

if TYPE_CHECKING:
    from torch import Tensor

# --- stubs: what stands in the student's cells ----------------------------------------------------------


def kv_cache_bytes(
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    tokens: int,
    users: int,
    bits: int,
) -> float:
    """The bytes of a KV cache: the keys and values of all tokens of all users.

    In each of the `layers`, `heads` heads ask, and `kv_heads` sets of keys and values answer them.
    A key has `head_dim` numbers for each token, and a value has as many. Every user has a
    conversation of `tokens` tokens. A number is stored in `bits` bits.
    """
    # Your code here
    raise NotImplementedError


def token_bucket(times: Sequence[float], rate: float, burst: int) -> list[bool]:
    """Which requests a rate limit lets through: True or False for each.

    `times` are the seconds at which they come; no time is smaller than the one before. A bucket
    holds at most `burst` tokens, and is full when the first request comes. Each second brings
    `rate` tokens, evenly, parts of a token too; what does not fit is lost. A request that finds a
    whole token takes it and passes. One that finds less is refused and takes nothing.
    """
    # Your code here
    raise NotImplementedError


def schedule(requests: Sequence[tuple[int, int]], slots: int) -> list[int]:
    """The step in which each request writes its last token, under continuous batching.

    A request is (arrival, tokens): it may run from the step `arrival` on, and writes one token in
    each step in which it runs. At most `slots` run in a step. Before each step the free slots go to
    those who wait: first to those who arrived first, and of those to the first in the list. A slot
    is free in the step after the last token of its request. Reading a prompt takes no time here.
    Steps count from 0. Keep the order of `requests`, which need not be that of arrival.
    """
    # Your code here
    raise NotImplementedError


def gptq(weight: Tensor, hessian: Tensor, bits: int, group: int) -> Tensor:
    """`weight` (d, k) rounded to `bits` bits, column by column (arXiv 2210.17323): (d, k).

    The grid: a row has one for each `group` columns. It is 2**bits numbers at even distances, from
    the smallest to the largest of these weights, as they are when the first of the columns is
    reached. A weight takes the nearest; one that has moved outside takes the end.
    The update: the error of column j is (weight - rounded) / U[j, j]. That times U[j, i] is
    subtracted from each later column i. U (k, k) is the upper Cholesky factor of the inverse of
    `hessian` (k, k). The result holds the rounded weights, not their codes.
    """
    # Your code here
    raise NotImplementedError


def percentile(bounds: Sequence[float], counts: Sequence[int], q: float) -> float:
    """The value that a share `q` of all observations does not pass, from a histogram's buckets.

    As in Prometheus: counts[i] is the number of all observations up to bounds[i], so counts never
    fall, and the last bound is infinite. As its histogram_quantile does it: the rank is q times the
    number of observations. Take the first bucket whose count reaches the rank; in it, observations
    lie at even distances. The first bucket starts at 0. In the last one the answer is the largest
    finite bound. Without any observation the answer is nan. `q` is above 0 and at most 1.
    """
    # Your code here
    raise NotImplementedError


def backoff(
    asked: Sequence[float | None],
    base: float,
    cap: float,
    budget: float,
    draw: Callable[[float, float], float],
) -> list[float]:
    """The seconds to wait before each retry, when a request fails len(asked) times in a row.

    Full jitter: a wait is `draw(0, limit)`, a random number between the two. The limit is `base`
    after the first failure, and doubles with every further one, up to `cap`. asked[i] is what the
    server asked for with failure i (Retry-After), or None. What it asked for is added to the wait,
    and `cap` does not bind it. The waits together may take `budget` seconds. Give up before the
    first that would take more: the list ends there.
    """
    # Your code here
    raise NotImplementedError


def injection_filter(
    calls: Sequence[tuple[str, str]],
    allowed: Sequence[str],
    phrases: Sequence[str],
) -> list[bool]:
    """Which tool calls may run: True or False for each.

    A call is (action, text): what a model wants to do, and a customer's text that goes with it. The
    action has to be one of `allowed`, letter for letter. And the text, once normal, must hold none
    of the `phrases`, which are in lower case. Normal means: in Unicode's form NFKC, without
    zero-width characters (U+200B, U+200C, U+200D, U+2060, U+FEFF), in lower case. A phrase counts
    as whole words in a row; whatever is neither letter nor digit separates words. A text is data:
    nothing that it says allows an action.
    """
    # Your code here
    raise NotImplementedError


# --- the exercises, in the order of the notebooks -------------------------------------------------------

EXERCISES = [
    Exercise(
        "7.4.kv_cache_bytes",
        "The memory that users take",
        difficulty="easy",
        minutes=5,
        stub=kv_cache_bytes,
        hints=(
            "Start with one token in one layer: `kv_heads` keys and `kv_heads` values, of `head_dim` numbers each. The "
            "heads that ask store nothing: a query is used once and forgotten.",
            "All layers, all tokens, all users: each is one more factor.",
            "That is a count of numbers. A number of 16 bits takes 2 bytes, one of 4 bits half a byte: "
            "`numbers * bits / 8`.",
        ),
        notice="weights are paid once. This is paid again for every user and every token.",
    ),
    Exercise(
        "7.4.token_bucket",
        "A rate limit that forgives a burst",
        difficulty="medium",
        minutes=15,
        stub=token_bucket,
        hints=(
            "Keep two numbers from request to request: the tokens in the bucket, and the time of the last look. At the "
            "start the bucket holds `burst` tokens.",
            "At each request first fill up: `rate` times the seconds since the last look, but never above `burst`: "
            "`min(burst, tokens + gained)`. Then this is the last look, whatever is decided.",
            "Then decide: with at least one whole token the request passes and takes one. Else it is refused, and the "
            "tokens stay as they are.",
        ),
        notice="two numbers for each customer are all that has to be kept, however many requests come.",
    ),
    Exercise(
        "7.4.schedule",
        "Continuous batching on paper",
        difficulty="medium",
        minutes=20,
        stub=schedule,
        hints=(
            "Keep two collections: who waits, in the order of arrival, and who runs, with the tokens that are left to "
            "write. `sorted(range(len(requests)), key=lambda i: requests[i][0])` gives the places in the order of "
            "arrival, and keeps the order of the list among equals.",
            "Go step by step. First fill: while a slot is free and the first who waits has arrived, let it run. Then "
            "everybody who runs writes one token.",
            "Whoever has no token left after that ends in this very step: note the step at its own place in the "
            "result, and free the slot. Then count the step up, until nobody waits and nobody runs.",
        ),
        notice="a short answer leaves when it is done, and its place is taken in the next step.",
    ),
    Exercise(
        "7.4.gptq",
        "Rounding that repairs its own errors",
        difficulty="hard",
        minutes=30,
        stub=gptq,
        hints=(
            "First the rounding alone. For a group of columns and each row: `low = columns.amin(1)`, "
            "`step = (columns.amax(1) - low) / (2**bits - 1)`. The code of a weight is `((w - low) / step).round()`, "
            "clamped to 0 ... 2**bits - 1, and it stands for `low + step * code`.",
            "The factor: `U = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)`. Work on "
            "`weight.clone()`, because it changes on the way, and go through the columns from left to right. At the "
            "first column of a group fix its grid.",
            "After rounding column j: `error = (weight[:, j] - rounded[:, j]) / U[j, j]`, and then "
            "`weight[:, j + 1 :] -= error[:, None] * U[j, j + 1 :]`. The columns to the left are done and stay.",
        ),
        notice="the weights end farther from the old ones than plain rounding would leave them, and the layer's "
        "answers end nearer.",
    ),
    Exercise(
        "7.4.percentile",
        "The slowest answers, from counters",
        difficulty="medium",
        minutes=15,
        stub=percentile,
        hints=(
            "`counts[-1]` is the number of all observations. If it is 0, return `math.nan`. The rank is `q * "
            "counts[-1]`.",
            "Go through the buckets until `counts[i] >= rank`. If that is the infinite one, return `bounds[-2]`: "
            "nobody knows how far its observations reach.",
            "Bucket i reaches from bounds[i - 1] (from 0 for the first) to bounds[i], and holds "
            "`counts[i] - counts[i - 1]` observations. Of these, `rank - counts[i - 1]` are needed: go that share of "
            "the way.",
        ),
        notice="the answer is as exact as the buckets are narrow. Choose bounds around what you promise.",
    ),
    Exercise(
        "7.4.backoff",
        "Retries that do not make it worse",
        difficulty="medium",
        minutes=15,
        stub=backoff,
        hints=(
            "Failure i (from 0) has the limit `min(cap, base * 2**i)`. The wait is drawn between 0 and the limit, so "
            "`cap` acts before the draw.",
            "What the server asked for comes on top: `asked[i]`, or 0 for None. It is a lower bound, and the draw "
            "behind it keeps all who were told the same from coming back in the same moment.",
            "Keep the sum of the waits. If the next one would bring it above `budget`, stop there, and append neither "
            "this nor a later one.",
        ),
        notice="randomness spreads the clients, doubling gives the server air, and the budget ends it for the user.",
    ),
    Exercise(
        "7.4.injection_filter",
        "What a customer's text may not do",
        difficulty="medium",
        minutes=20,
        stub=injection_filter,
        hints=(
            "Two questions, and both need a yes. The first does not look at the text: `action in allowed`. Do not "
            "normalise the action: what is not on the list letter for letter is not allowed.",
            'For the text, in this order: `unicodedata.normalize("NFKC", text)`, replace each zero-width character '
            'with "" (nothing, not a blank), then `.lower()`.',
            'Whole words: `re.findall(r"[^\\W_]+", normal)` gives the words. Join them with one blank, put a blank '
            'before and behind, and look for `f" {phrase} "`.',
        ),
        notice="the filter stops the phrases that somebody thought of. The list of allowed actions stops the rest.",
        also=("spaced_words",),
    ),
]

# --- quizzes --------------------------------------------------------------------------------------------

QUIZZES = [
    Quiz(
        "7.4.cache_grows",
        "A 7B model in 16 bits fits on your card and answers you alone. With forty users it stops: out of memory. Why?",
        (
            Answer(
                "Each user needs a copy of the weights.",
                "The weights are held once and read by all. What is held for each user is something else.",
            ),
            Answer(
                "The keys and values of every token of every user are kept, and forty conversations are kept at once.",
                "The cache grows with users times tokens. A server that survives sets a limit for it: it lets new "
                "requests wait, or puts some off and reads them again later.",
                right=True,
            ),
            Answer(
                "Forty users load forty tokenizers.",
                "One is enough, and it takes megabytes.",
            ),
            Answer(
                "Memory leaks: restart the server every night.",
                "Nothing has leaked. The memory would come back if the conversations ended.",
            ),
        ),
    ),
    Quiz(
        "7.4.continuous_batching",
        "Why does continuous batching give more tokens per second than one request after the other?",
        (
            Answer(
                "It uses a smaller model for short answers.",
                "It is the same model with the same weights. Another one would give other answers.",
            ),
            Answer(
                "It leaves out tokens that nobody reads.",
                "Every token is computed, or the next one would be wrong.",
            ),
            Answer(
                "A step reads all weights from memory, and one reading serves everybody who runs in that step.",
                "Writing one token is limited by memory traffic more than by arithmetic. New requests may join at each "
                "step, so the slots stay in use (Orca, OSDI 2022).",
                right=True,
            ),
            Answer(
                "Each user gets the answer sooner than alone.",
                "No: a single user waits longer than alone. The server as a whole gives more.",
            ),
        ),
    ),
    Quiz(
        "7.4.four_answers",
        "You send the same question four times to a server on your machine and get four different answers. Why?",
        (
            Answer(
                "The server draws the next token by its probability, because the request names no temperature.",
                "Defaults differ from server to server and from model to model, and many draw. Send `temperature: 0` "
                "for the likeliest token each time, and say so whenever you compare.",
                right=True,
            ),
            Answer(
                "The model learns from each question.",
                "A server's weights do not change. It does not even know that the question came before.",
            ),
            Answer(
                "The numbers are rounded differently each time.",
                "Rounding can turn a near tie, as batching shows now and then. It does not give four different "
                "answers to a plain question.",
            ),
        ),
    ),
    Quiz(
        "7.4.loopback",
        "Your server listens on 127.0.0.1. Does it still need a key?",
        (
            Answer(
                "No: nobody outside the machine can reach it.",
                "Everybody and everything inside can: other users of the machine, and any program that runs there.",
            ),
            Answer(
                "No, as long as the port is a secret.",
                "There are 65,535 ports, and a program tries them all in seconds.",
            ),
            Answer(
                "Yes, and then it may just as well listen on 0.0.0.0.",
                "That opens it to the whole network, with one secret between it and everybody. The two walls are "
                "worth more than one.",
            ),
            Answer(
                "Yes: loopback keeps other machines out, and the key keeps out other users and programs of this one.",
                "A page in your browser is such a program, too. Each wall stops what the other does not.",
                right=True,
            ),
        ),
    ),
    Quiz(
        "7.4.why_p95",
        "The mean answer takes 0.8 s, and customers complain about waiting. Which number do you look at?",
        (
            Answer(
                "The mean over a longer time.",
                "Then even more quick answers hide the slow ones.",
            ),
            Answer(
                "The slowest answer of all.",
                "One broken connection decides it. It says nothing about what customers live with.",
            ),
            Answer(
                "The 95th percentile: one answer in twenty takes longer than that.",
                "Whoever asks twenty times a day meets it about daily. Report it beside the median, over a stated "
                "time, with the number of requests.",
                right=True,
            ),
            Answer(
                "The mean of the 95th percentiles of all servers.",
                "Percentiles can't be averaged: a server with three requests would count like one with a million. "
                "Histograms can be added up, and the percentile be taken of the sum.",
            ),
        ),
    ),
    Quiz(
        "7.4.file_formats",
        "The same model is offered as safetensors and as GGUF. What is the difference?",
        (
            Answer(
                "safetensors is safe; a GGUF file can run code when it is loaded.",
                "Neither holds Python's pickles. Both are numbers with a header. (A chat template is a small program "
                "in either case, and a parser can have faults.)",
            ),
            Answer(
                "A GGUF file holds weights, tokenizer and settings in one, often quantised in blocks, for llama.cpp; "
                "safetensors holds tensors alone, with the rest in files beside it.",
                "So Ollama and llama.cpp take one file, and transformers and vLLM take a folder.",
                right=True,
            ),
            Answer(
                "GGUF is always 4 bits, safetensors always 16.",
                "Both can hold either. The type stands with each tensor.",
            ),
        ),
    ),
    Quiz(
        "7.4.price_of_bits",
        "You store a model in 4 bits instead of 16. What do you know without measuring?",
        (
            Answer(
                "It is four times as fast.",
                "Only if memory traffic was all that limited it, and the library has code for these blocks. "
                "bitsandbytes on a CPU can be slower than 16 bits.",
            ),
            Answer(
                "Its answers are as good as before.",
                "Nobody knows that for your task. Published tables tell about other models and other questions.",
            ),
            Answer(
                "It is useless for arithmetic.",
                "It may have lost something there, or nothing that shows. That is what you measure.",
            ),
            Answer(
                "Its weights take about a quarter of the memory; quality and speed have to be measured.",
                "A little more than a quarter: scales need room, and some matrices often stay in 16 bits. The cache "
                "stays as large as it was.",
                right=True,
            ),
        ),
    ),
    Quiz(
        "7.4.retry_storm",
        "A server is overloaded for a moment. All its clients retry after exactly one second. What happens?",
        (
            Answer(
                "They all come back in the same moment, on top of the new requests, and overload it again.",
                "That is a retry storm. Random waits spread them, doubling thins them out, and a budget lets them give "
                "up (AWS Architecture Blog, 2015, Exponential Backoff And Jitter).",
                right=True,
            ),
            Answer(
                "One second is enough for any server to recover.",
                "It might be, if nobody came in the meantime. But everybody comes back at its end.",
            ),
            Answer(
                "The operating system spreads them over the second.",
                "It wakes each of them when its second is over. They failed together, so they wake together.",
            ),
        ),
    ),
    Quiz(
        "7.4.canary",
        "A new model is better on your test. How do you bring it to the customers?",
        (
            Answer(
                "Replace the old one at night, when nobody looks.",
                "Then nobody looks when it fails, either, and all customers have it.",
            ),
            Answer(
                "Give it a small share of the requests, compare errors, waits and answers with the old one, and keep "
                "the way back.",
                "That is a canary. A test holds the questions that you thought of; customers have others. The old "
                "model stays loaded until the new one has proved itself.",
                right=True,
            ),
            Answer(
                "Let both answer every customer and show the nicer answer.",
                "It costs twice, and who says which is nicer? (Asking both and showing the old one's answer is a "
                "shadow run: a good first step.)",
            ),
            Answer(
                "Test it longer.",
                "More of the same questions do not bring the customers' ones.",
            ),
        ),
    ),
]

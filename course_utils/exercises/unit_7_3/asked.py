"""Unit 7.3's exercises and quizzes: what is asked. The solutions are in solutions.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from course_utils.exercises.registry import Answer, Exercise, Quiz

if TYPE_CHECKING:
    from torch import Tensor

# --- stubs: what stands in the student's cells ----------------------------------------------------------


def rotary(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """x with rotary positions, as Llama has them (RoFormer, arXiv 2104.09864).

    x is (..., n, d), queries or keys; `positions` (n,) are the places of the n tokens in the text,
    which need not begin at 0. Number i of the first half of x and number i of the second half are
    a pair, a point in a plane. Turn it by the angle position x base^(-2 i / d), in radians. A point
    (a, b), turned by an angle t, becomes (a cos t - b sin t, b cos t + a sin t). Same shape as x.
    """
    # Your code here
    raise NotImplementedError


def alibi(heads: int, n: int) -> Tensor:
    """What ALiBi adds to the scores of n tokens, with the causal mask (arXiv 2108.12409).

    The result is (heads, n, n). At [h, i, j] stands what head h adds when query i looks at key j:
    its slope times (j - i), which is 0 for the token itself and falls with the distance. A later
    key, j > i, gets minus infinity. Head h, counted from 0, has the slope 2^(-8 (h + 1) / heads).
    """
    # Your code here
    raise NotImplementedError


def kv_cache_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of one new token with a KV cache. Returns (result, keys, values).

    The new token's query and key are (heads, d), its value is (heads, e). The cache holds what
    came before: keys (heads, t, d) and values (heads, t, e); t may be 0. The new token sees all of
    them and itself. The result is (heads, e). The keys and values that you return have the new
    token at their end: (heads, t + 1, d) and (heads, t + 1, e).
    """
    # Your code here
    raise NotImplementedError


def induction(maps: Tensor, period: int) -> Tensor:
    """The induction score of every head: (layers, heads) (Olsson et al. 2022, arXiv 2209.11895).

    `maps` (layers, heads, n, n) are attention weights [query, key] for a row of `period` tokens
    that stands there twice: n = 2 period. An induction head looks, from a token of the second
    copy, at the token that came behind the same token in the first. The score is that weight, the
    mean over the `period` queries of the second copy. (The last of them looks at the beginning of
    the second copy.)
    """
    # Your code here
    raise NotImplementedError


def majority_vote(answers: Sequence[str]) -> str:
    """The answer that most samples gave (self-consistency, arXiv 2203.11171).

    `answers` are the final answers of several samples, in the order in which they were drawn. ""
    is a sample without an answer: it does not vote. If several answers have most votes, take the
    one of them that was given first. "" if nobody votes.
    """
    # Your code here
    raise NotImplementedError


def beam_over_thoughts(
    start: str,
    propose: Callable[[str], list[str]],
    value: Callable[[str], float],
    width: int,
    depth: int,
) -> list[str]:
    """Tree of thoughts, searched breadth first (arXiv 2305.10601): the last beam, the best first.

    A state is a text. The beam begins with `start` alone. `depth` times: propose(state) gives the
    states that can follow each state of the beam; if it gives none, the state is complete and
    stays as it is. Of all these together, equal ones counted once, the `width` with the highest
    value(state) are the new beam. Equally good ones stay in the order in which they came.
    """
    # Your code here
    raise NotImplementedError


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    alpha: float,
) -> Tensor:
    """What a student learns from a teacher and from labels (arXiv 1503.02531, section 2).

    `student` and `teacher` are logits (n, classes), `labels` (n,) the right classes. The soft part
    is the Kullback-Leibler divergence KL(teacher | student) of both distributions at
    `temperature` (logits divided by it), times the temperature squared. The hard part is the
    cross-entropy of the student with the labels, at temperature 1. Both are means over the n
    examples. The loss is alpha x soft + (1 - alpha) x hard. No gradient flows into the teacher.
    """
    # Your code here
    raise NotImplementedError


def blockwise_softmax(
    top: Tensor,
    total: Tensor,
    result: Tensor,
    scores: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One block of keys more for n queries (FlashAttention, arXiv 2205.14135).

    Carried along for each query: `top` (n,), the largest score so far; `total` (n,), the sum of
    exp(score - top) so far; `result` (n, e), the sum of exp(score - top) x value so far. At the
    start they are minus infinity, 0 and 0. The new block has `scores` (n, block) and `values`
    (block, e). Return the new (top, total, result). After the last block, result / total is what
    softmax(all scores) @ all values would be. A row of `scores` may be minus infinity throughout,
    even in the first block: it changes nothing.
    """
    # Your code here
    raise NotImplementedError


def nucleus(logits: Tensor, p: float) -> Tensor:
    """The probabilities (vocabulary,) of top-p sampling (Holtzman et al., arXiv 1904.09751).

    Of the tokens, the likeliest first, keep as few as have a probability of at least p together.
    The others get 0. What is kept is divided by its sum, so that it adds up to 1 again.
    `logits` are (vocabulary,), and 0 < p < 1.
    """
    # Your code here
    raise NotImplementedError


def speculative_accept(
    draft: Tensor,
    target: Tensor,
    drafted: Tensor,
    chances: Tensor,
) -> tuple[int, Tensor]:
    """How many drafted tokens stay, and the distribution of the next token (arXiv 2211.17192).

    A draft model has drawn the tokens `drafted` (k,), each from its row of probabilities in
    `draft` (k, vocabulary). The large model's probabilities for the same places are `target`
    (k + 1, vocabulary): one row more, for what follows. Token i stays if chances[i], a random
    number between 0 and 1, is less than target[i, token] / draft[i, token]. The first that does
    not stay ends the draft: return how many stayed before it, and max(0, target - draft) of its
    place, divided by its sum. If all stay: k, and the last row of `target`.
    """
    # Your code here
    raise NotImplementedError


# --- the exercises, in the order of the notebooks -------------------------------------------------------

EXERCISES = [
    Exercise(
        "7.3.rotary",
        "Rotary positions",
        difficulty="medium",
        minutes=20,
        stub=rotary,
        hints=(
            "The angles are a table (n, d/2): `positions[:, None]` times the speeds of the pairs. "
            "`torch.arange(half) / half` is 2i / d for every pair, with `half = x.shape[-1] // 2`.",
            "The speeds are `base ** -exponents`. The two halves are `x[..., :half]` and `x[..., half:]`; they fit the "
            "table in their last two dimensions.",
            "Turn all pairs at once: `first * cos - second * sin` and `second * cos + first * sin`, and join them with "
            "`torch.cat(..., dim=-1)`.",
        ),
        notice="the product of a turned query and a turned key depends on the distance of their places alone. Shift "
        "both, and nothing changes.",
    ),
    Exercise(
        "7.3.alibi",
        "ALiBi's bias",
        difficulty="easy",
        minutes=15,
        stub=alibi,
        hints=(
            "`places - places[:, None]` with `places = torch.arange(n)` is the table of j - i.",
            "The slopes are `2.0 ** -(torch.arange(1, heads + 1) * 8 / heads)`. `slopes[:, None, None]` times the "
            "table is (heads, n, n).",
            '`masked_fill(distances > 0, float("-inf"))` closes the future.',
        ),
        notice="nothing here is learned, and no position is added to a token. So it also works for a text that is "
        "longer than any in the training.",
    ),
    Exercise(
        "7.3.kv_cache_step",
        "One token more, with a cache",
        difficulty="medium",
        minutes=20,
        stub=kv_cache_step,
        hints=(
            "First put the new key and value into the cache: `torch.cat([keys, k[:, None]], dim=1)`.",
            "Scores: the query of each head against all keys of its head. `keys @ q[:, :, None]` is (heads, t + 1, 1). "
            "Divide by the root of d, softmax over the tokens.",
            "`(weights * values).sum(dim=1)` is (heads, e). Return all three.",
        ),
        notice="no mask is needed: the newest token may see everything that there is.",
    ),
    Exercise(
        "7.3.induction",
        "Which head says what came next?",
        difficulty="medium",
        minutes=15,
        stub=induction,
        hints=(
            "The queries are `torch.arange(period, 2 * period)`. The same token stands `period` places before, its "
            "follower one place nearer.",
            "`maps[..., queries, keys]` with two lists of equal length takes one weight for each pair: (layers, heads, "
            "period).",
            "The mean over the last dimension is left.",
        ),
        notice="the row is random: no grammar and no meaning can help a head. Only copying can.",
    ),
    Exercise(
        "7.3.majority_vote",
        "Let the samples vote",
        difficulty="easy",
        minutes=10,
        stub=majority_vote,
        hints=(
            'Leave the "" out first. Then count: `collections.Counter`, or a dict.',
            "A dict keeps the order in which its keys came in. `max(votes, key=votes.get)` takes the first of equals.",
            '`max(..., default="")` says what an empty dict gives.',
        ),
        notice="a rule for a draw is a decision, too. By taking the first, you give the first sample more weight.",
    ),
    Exercise(
        "7.3.beam_over_thoughts",
        "Search the tree in breadth",
        difficulty="medium",
        minutes=20,
        stub=beam_over_thoughts,
        hints=(
            "Two loops: `depth` times, over the states of the beam. Collect the candidates of a level in one list: "
            "`propose(state) or [state]`.",
            "`list(dict.fromkeys(candidates))` drops the copies and keeps the order.",
            "`sorted(..., key=value, reverse=True)[:width]` is the new beam. Python's sort leaves equals in their "
            "order, with `reverse=True`, too.",
        ),
        notice="everything depends on `value`. A search finds the state that the value likes best, right or wrong.",
    ),
    Exercise(
        "7.3.distillation_loss",
        "What a student learns from a teacher",
        difficulty="medium",
        minutes=20,
        stub=distillation_loss,
        hints=(
            "Soft targets: `(teacher.detach() / temperature).softmax(-1)`. The student's side: "
            "`(student / temperature).log_softmax(-1)`.",
            '`F.kl_div(log_student, target, reduction="batchmean")` is the divergence: the student first, as '
            "log-probabilities. `batchmean` divides by the examples only.",
            "Times `temperature**2`, times `alpha`. The rest is `(1 - alpha) * F.cross_entropy(student, labels)`.",
        ),
        notice="the gradient of the soft part shrinks with 1 / temperature squared. The factor takes that back, so "
        "alpha means the same at every temperature.",
    ),
    Exercise(
        "7.3.blockwise_softmax",
        "A softmax in pieces",
        difficulty="hard",
        minutes=30,
        stub=blockwise_softmax,
        hints=(
            "`new_top = torch.maximum(top, scores.amax(dim=-1))`. What was summed with the old top is worth "
            "`(top - new_top).exp()` as much with the new one.",
            "The block's own part: `part = (scores - new_top[:, None]).exp()`. Both sums are the old one, rescaled, "
            "plus the part: its sum, and `part @ values`.",
            "Minus infinity less minus infinity is nan. Where `new_top` is minus infinity, subtract 0 instead: "
            "exp(-inf) is 0, as it should be. But return the minus infinity.",
        ),
        notice="nobody ever holds all scores of a query. So the memory grows with the number of tokens, not with its "
        "square.",
    ),
    Exercise(
        "7.3.nucleus",
        "The nucleus",
        difficulty="medium",
        minutes=15,
        stub=nucleus,
        hints=(
            "`ranked, order = probabilities.sort(descending=True)`. A token stays if what stands *before* it has not "
            "yet reached p.",
            "`ranked.cumsum(-1) - ranked` is what stands before each. So the one that reaches p stays, and the first "
            "one always does.",
            "`torch.zeros_like(probabilities).scatter(-1, order, kept)` puts every number back to its token. Divide by "
            "the sum.",
        ),
        notice="how many tokens stay depends on how sure the model is: one, or hundreds. With top-k it never does.",
    ),
    Exercise(
        "7.3.speculative_accept",
        "May the draft stay?",
        difficulty="hard",
        minutes=25,
        stub=speculative_accept,
        hints=(
            "Go through the drafted tokens in order. `target[i, token] / draft[i, token]` is the chance to stay; above "
            "1 it is sure.",
            "At the first token that does not stay, return at once: `i`, and the missing probability of row i.",
            "What is missing: `(target[i] - draft[i]).clamp(min=0)`, divided by its sum. After the loop everything has "
            "stayed: `return len(drafted), target[-1]`.",
        ),
        notice="the draft may be as bad as it likes: the tokens have the target's distribution all the same. A bad "
        "draft only costs time.",
    ),
]

QUIZZES = [
    Quiz(
        "7.3.map_is_no_proof",
        "A head puts 80 % of its attention on the word that the answer needs. What do you know?",
        (
            Answer(
                "The head fetches the answer.",
                "Perhaps. What it looks at is one thing, what it hands over and whether anybody uses it are two more.",
            ),
            Answer(
                "Where it looks. Whether that matters, an intervention shows: switch it off, or patch it.",
                "Attention is a weight in a mean. In this notebook the head with the highest score can go, and hardly "
                "anything happens.",
                right=True,
            ),
            Answer(
                "The model understands the question.",
                "A heat map shows no understanding, only weights.",
            ),
            Answer(
                "Nothing: attention weights are random.",
                "They are computed and reproducible, and often a good hint where to look further.",
            ),
        ),
    ),
    Quiz(
        "7.3.patching_control",
        "You patch one hidden state from run A into run B, and the answer becomes A's. Which control could still have "
        "ruined your conclusion?",
        (
            Answer(
                "The same patch again, with another seed.",
                "Nothing here is random. You would get the same result for the same reason.",
            ),
            Answer(
                "The same patch at other places, and a state from an unrelated run at this place.",
                "If patching anywhere, or anything, changed the answer as well, your place would be nothing special.",
                right=True,
            ),
            Answer(
                "A larger model.",
                "It might carry the answer elsewhere. That says nothing about this one.",
            ),
        ),
    ),
    Quiz(
        "7.3.cache_or_not",
        "You switch the KV cache off. What changes in what the model writes with greedy decoding?",
        (
            Answer(
                "It forgets the beginning of the text.",
                "It reads the whole text again for each token. Nothing is forgotten.",
            ),
            Answer(
                "Nothing but the time, up to rounding.",
                "Keys and values of old tokens do not change when a new one comes, because nobody looks ahead. "
                "Computing them once is enough.",
                right=True,
            ),
            Answer(
                "It becomes more exact: a cache is an approximation.",
                "It is none. (A *quantised* cache is one.)",
            ),
        ),
    ),
    Quiz(
        "7.3.best_of_many",
        "A trained verifier chooses the best of n samples. With n = 4 it is right more often than one sample; with "
        "n = 64 less often. What happened?",
        (
            Answer(
                "Sixty-four samples are worse than four.",
                "Among more samples there are more right ones. Somebody has to choose them.",
            ),
            Answer(
                "The verifier has faults, and among many samples it finds those that it is wrong about.",
                "Over-optimisation: the score keeps rising, what it stands for does not (Gao et al. 2022, arXiv "
                "2210.10760).",
                right=True,
            ),
            Answer(
                "Chance: more samples can't do harm.",
                "With a perfect checker they can't. With a learned one they can, beyond every interval.",
            ),
        ),
    ),
    Quiz(
        "7.3.fair_tokens",
        "Tree of thoughts solves 70 % of the tasks, one chain of thought 55 %. Is the tree better?",
        (
            Answer(
                "Yes: 15 points are a lot.",
                "They may be, if the intervals are far apart. And if both had the same means.",
            ),
            Answer(
                "Ask for the tokens: many chains and a vote for the same number of tokens are the comparison.",
                "A tree reads and writes many times as much. Accuracy against tokens spent shows what the search adds.",
                right=True,
            ),
            Answer(
                "No: a tree can't be better than the model that it asks.",
                "It can: it tries more than once, and may leave bad ways.",
            ),
        ),
    ),
    Quiz(
        "7.3.attacks_blocked",
        "Your filter stops 40 of 40 attacks of a published suite. What do you write?",
        (
            Answer(
                "The model is safe against jailbreaks.",
                "Against these forty. The next attacker has read your filter.",
            ),
            Answer(
                "Of attacks like these at most about 9 % pass, and so many honest requests are refused.",
                "Wilson's 95 % interval for 0 of 40 ends at 8.8 %. And a filter that refuses everything stops every "
                "attack: without the second number the first is worth nothing.",
                right=True,
            ),
            Answer(
                "Nothing, because the suite is public.",
                "It is a lower bar, and a filter that fails it is useless. So it is worth a line.",
            ),
        ),
    ),
    Quiz(
        "7.3.zeros_save",
        "Half of the weights are zero after magnitude pruning. What do you gain?",
        (
            Answer(
                "Half of the memory and half of the time.",
                "A zero takes as much room as another number, and is multiplied as well.",
            ),
            Answer(
                "Nothing yet: storage and kernels must know where the zeros are.",
                "Sparse formats pay only where most are zero, GPUs know a 2:4 pattern. Removing whole heads or "
                "channels helps everywhere, and costs more accuracy.",
                right=True,
            ),
            Answer(
                "Accuracy: pruning removes noise.",
                "Sometimes a little, mostly none. It was not the question.",
            ),
        ),
    ),
    Quiz(
        "7.3.context_accepted",
        'A model card says "context 128K". What does it promise?',
        (
            Answer(
                "The model finds every fact in 128,000 tokens.",
                "Many do with one needle, and lose it with several, or when question and fact share no word "
                "(arXiv 2404.06654, 2502.05167).",
            ),
            Answer(
                "It was trained on texts of 128,000 tokens.",
                "Often on far shorter ones, and stretched afterwards.",
            ),
            Answer(
                "Texts of that length are accepted. How well they are used, you measure on your task.",
                "prisma-lm accepts 1,024, and its training hardly went beyond 390.",
                right=True,
            ),
        ),
    ),
    Quiz(
        "7.3.flash_exact",
        "You replace attention by FlashAttention in a trained model. What do you have to train again?",
        (
            Answer(
                "The attention layers: the softmax is approximated in blocks.",
                "It is not approximated. The running sums are corrected whenever a larger score turns up.",
            ),
            Answer(
                "Nothing. It computes the same numbers in another order.",
                "The difference is rounding. What changes is memory, and on a GPU time.",
                right=True,
            ),
            Answer(
                "Nothing, if the text is shorter than a block.",
                "The length does not matter for the result.",
            ),
        ),
    ),
    Quiz(
        "7.3.price_of_a_language",
        "A tokeniser was trained on English. A sentence in another language takes three times as many tokens. What "
        "follows for its speakers?",
        (
            Answer(
                "Nothing: tokens are an inner matter of the model.",
                "Prices, limits and time count in tokens.",
            ),
            Answer(
                "They pay three times as much, wait longer, and their texts fill the context sooner.",
                "That is a bias that nobody trained: it comes from what the tokeniser was fitted on (Petrov et al. "
                "2023, arXiv 2305.15425).",
                right=True,
            ),
            Answer(
                "The model can't understand the sentence.",
                "It may, with byte-level tokens every text can be written. It takes more steps.",
            ),
        ),
    ),
    Quiz(
        "7.3.temperature_zero",
        'A service offers temperature 0. A colleague says: "So its answers are right and always the same."',
        (
            Answer(
                "Right: the likeliest answer is the right one.",
                "It is what the model finds likeliest, token by token. It may be wrong every time, in the same words.",
            ),
            Answer(
                "Neither follows: it takes the likeliest token each time, and rounding can differ with the batch.",
                "Greedy decoding is repeatable on one machine with one batch. Two nearly equal logits can change "
                "places when a server adds other users' requests.",
                right=True,
            ),
            Answer(
                "Always the same, but not right.",
                "Nearly. On a server that mixes requests into batches, not even that is promised.",
            ),
        ),
    ),
    Quiz(
        "7.3.experts_memory",
        "A mixture of experts has 100 billion parameters, 5 billion of them active for a token. What do you need?",
        (
            Answer(
                "The memory of a model of 5 billion.",
                "The next token may ask other experts. All of them have to be at hand.",
            ),
            Answer(
                "The memory of 100 billion, and for one user about the computing of 5 billion.",
                "So such models pay where many users share one copy. For one user on a laptop the memory decides.",
                right=True,
            ),
            Answer(
                "The computing of 100 billion.",
                "The router leaves most experts out, that is its point.",
            ),
        ),
    ),
    Quiz(
        "7.3.fixed_state",
        "A linear or state-space model reads 100,000 tokens with a state of fixed size. What is the price?",
        (
            Answer(
                "None: the state sums the text up.",
                "A sum forgets. What does not fit into the state can't be recalled word by word.",
            ),
            Answer(
                "It gets slower with every token, as attention does.",
                "It takes the same time for each token. That is its strength.",
            ),
            Answer(
                "Exact recall: how many things it can give back is bound by the state.",
                "So today's long models mix: a few layers of attention for recall, many cheap ones for the rest.",
                right=True,
            ),
        ),
    ),
    Quiz(
        "7.3.bad_draft",
        "You speed sampling up with a draft model that is often wrong. What does it do to the texts?",
        (
            Answer(
                "They become worse: some of the draft's tokens stay.",
                "They stay with exactly the chance that makes them as frequent as the target would have them.",
            ),
            Answer(
                "Nothing. They have the target's distribution, and take longer.",
                "A refused token is replaced by one from what the draft gave too little. So only time depends on the "
                "draft.",
                right=True,
            ),
            Answer(
                "They become less varied.",
                "The distribution is the same, and so is its variety.",
            ),
        ),
    ),
    Quiz(
        "7.3.law_beyond",
        "A scaling law fits your five small models perfectly. You predict one that is a hundred times larger. What "
        "says whether you may?",
        (
            Answer(
                "The fit: with a perfect fit the prediction is sure.",
                "Three numbers fitted to five points fit well by construction.",
            ),
            Answer(
                "A size that was left out, and the interval that the fit gives for it.",
                "If the measured loss lies in the interval, you may go a step further. A hundred times is many steps.",
                right=True,
            ),
            Answer(
                "Nothing: laws do not hold for neural networks.",
                "This one held over several powers of ten in published work (arXiv 2001.08361, 2203.15556).",
            ),
        ),
    ),
    Quiz(
        "7.3.twenty_groups",
        "You compare the model's answers for twenty pairs of names. One pair differs with p = 0.03. Have you found a "
        "bias?",
        (
            Answer(
                "Yes: 0.03 is below 0.05.",
                "Of twenty comparisons without any bias, one falls below 0.05 on average.",
            ),
            Answer(
                "Not yet: correct for twenty comparisons, or test this one pair again on fresh requests.",
                "Bonferroni would ask for 0.0025. And a test that finds nothing has to say what it could have found.",
                right=True,
            ),
            Answer(
                "No: a model has no opinion about names.",
                "It has what its texts had. That is why we measure.",
            ),
        ),
    ),
    Quiz(
        "7.3.reward_rises",
        "In training by reward the reward model's score rises every hour. When do you stop?",
        (
            Answer(
                "When it stops rising.",
                "By then the model may have long learned to please the reward model instead of people.",
            ),
            Answer(
                "When something else that you trust stops rising: people, or a measure that the policy never sees.",
                "The reward is a stand-in. The KL penalty slows the drift away from what the stand-in knows.",
                right=True,
            ),
            Answer(
                "Never: more reward is better.",
                "Of the true kind. The score is another thing.",
            ),
        ),
    ),
    Quiz(
        "7.3.steered",
        "A steering vector makes the model friendlier in 95 % of the replies. What else do you measure before you use "
        "it?",
        (
            Answer(
                "Whether it still solves its tasks, and what a random vector of the same length does.",
                "The first is the price, the second the control: any push of that size changes something.",
                right=True,
            ),
            Answer(
                "How large the vector is.",
                "The length alone says little; it is what it does that counts.",
            ),
            Answer(
                "Nothing: weights have not changed, so nothing else can have changed.",
                "Every layer above gets another input.",
            ),
        ),
    ),
    Quiz(
        "7.3.loss_scale",
        "A training in fp16 learns nothing: its gradients underflow. A colleague takes a learning rate 1,000 times as "
        "large, instead of a loss scale. Does it help?",
        (
            Answer(
                "Yes: the step is the product of both.",
                "The gradient that arrives is 0 already.",
            ),
            Answer(
                "No: 0 times 1,000 is 0. The gradient has to grow before it is rounded to fp16.",
                "That is what a loss scale does. Before the step, in 32 bits, the gradient is divided again.",
                right=True,
            ),
            Answer(
                "Yes, but only with Adam.",
                "Adam divides 0 by 0 and a small constant. That is 0.",
            ),
        ),
    ),
    Quiz(
        "7.3.calibration",
        "A model says of each answer that it is 90 % sure, and 90 % of its answers are right. What is it?",
        (
            Answer(
                "Calibrated, and yet its confidence can't tell right from wrong.",
                "Every answer has the same. Calibration says that the number is true, not that it is useful.",
                right=True,
            ),
            Answer(
                "Well calibrated, so you can let it answer only where it is sure.",
                'There is no "where": it is equally sure everywhere.',
            ),
            Answer(
                "Overconfident.",
                "0.9 and 0.9 agree.",
            ),
        ),
    ),
    Quiz(
        "7.3.pass_at_k",
        "A code model has pass@10 = 95 % and pass@1 = 50 %. What does a user get who sees one program?",
        (
            Answer(
                "A right one in 95 % of the cases.",
                "That is the chance that one of ten is right. Nobody has chosen it yet.",
            ),
            Answer(
                "A right one half of the time, unless something chooses among the ten.",
                "Tests can choose, if there are some. Then they bound what you get.",
                right=True,
            ),
            Answer(
                "Ten programs that are each half right.",
                "pass@1 counts programs that are wholly right.",
            ),
        ),
    ),
    Quiz(
        "7.3.vote_limit",
        "A model answers a question wrongly in 60 % of its replies, always with the same wrong number. What does a "
        "majority of 1,000 replies do?",
        (
            Answer(
                "It is right in 40 % of the cases.",
                "That is one reply. A vote is not drawn, it is counted.",
            ),
            Answer(
                "It is wrong nearly every time.",
                "The vote finds the model's favourite answer, and here that is a wrong one. More votes make it surer.",
                right=True,
            ),
            Answer(
                "It is right nearly always: errors cancel out.",
                "Only if they differ from each other, and the right answer is the most frequent one.",
            ),
        ),
    ),
]

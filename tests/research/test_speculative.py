"""Speculative decoding: the same greedy tokens, the same distribution, and counts that add up."""

import itertools

import pytest
import torch
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.models import bundled
from course_utils.prisma import lm, shop, text
from course_utils.research import speculative

SIZE = 5  # tokens of the tiny vocabulary


def tiny(seed: int, vocabulary: int = SIZE) -> LlamaForCausalLM:
    """A random Llama; its chances are far from even."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=vocabulary, bos_token_id=None, eos_token_id=None, **shape, **heads)
    model = LlamaForCausalLM(config).eval()
    model.lm_head.weight.data *= 20
    return model


def pairs(count: int = 200):
    """Random chances of target and draft over SIZE tokens, some of them zero."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(count):
        raw = torch.rand(2, SIZE, generator=draw).double().pow(3)
        raw[raw < 0.02] = 0
        yield raw / raw.sum(1, keepdim=True)


def block_chances(
    target: torch.Tensor, draft: torch.Tensor, count: int, before: int = 0
) -> dict[tuple[int, ...], float]:
    """The exact chance of each block that comes out of `count` guesses, where chances depend on the last token.

    target, draft: (tokens, tokens), a row for each token before. The first row stands for the prompt, too.
    """
    p, q = target[before], draft[before]
    if count == 0:
        return {(token,): chance for token, chance in enumerate(p.tolist())}
    out: dict[tuple[int, ...], float] = {}
    refused = 1 - float(torch.minimum(p, q).sum())
    for token, chance in enumerate(speculative.leftover(p, q).tolist()):
        out[(token,)] = refused * chance
    for token, stays in enumerate(torch.minimum(p, q).tolist()):
        for block, chance in block_chances(target, draft, count - 1, token).items():
            out[(token, *block)] = stays * chance
    return out


def test_every_token_comes_out_with_the_targets_chance() -> None:
    for target, draft in pairs():
        refused = 1 - torch.minimum(target, draft).sum()
        total = torch.minimum(target, draft) + refused * speculative.leftover(target, draft)
        assert torch.allclose(total, target, atol=1e-12)


def test_accept_keeps_just_the_share_p_over_q() -> None:
    grid = [(step + 0.5) / 1000 for step in range(1000)]
    for target, draft in pairs(20):
        for token in range(SIZE):
            if draft[token] == 0:
                continue
            kept = sum(speculative.accept(token, target, draft, luck) for luck in grid) / len(grid)
            assert kept == pytest.approx(min(1.0, float(target[token] / draft[token])), abs=0.0011)


def test_blocks_of_several_guesses_have_the_targets_distribution() -> None:
    """Completed by plain draws, blocks of three guesses give every text of two tokens its right chance."""
    rows = list(pairs(SIZE))
    target = torch.stack([row[0] for row in rows])
    draft = torch.stack([row[1] for row in rows])
    wanted, found = torch.zeros(2, SIZE, SIZE).double()
    for first, second in itertools.product(range(SIZE), repeat=2):
        wanted[first, second] = target[0, first] * target[first, second]
    # A refused first guess ends its block: the second token is then drawn plainly.
    for block, chance in block_chances(target, draft, 3).items():
        if len(block) > 1:
            found[block[0], block[1]] += chance
        else:
            found[block[0]] += chance * target[block[0]]
    assert torch.allclose(found, wanted, atol=1e-6)


def test_decide_draws_these_blocks() -> None:
    """The code that draws agrees with the enumeration: chi-square over all blocks of two guesses."""
    rows = list(pairs(SIZE))
    target = torch.stack([row[0] for row in rows])
    draft = torch.stack([row[1] for row in rows])
    generator = torch.Generator().manual_seed(3)
    exact = block_chances(target, draft, 2)
    counts = dict.fromkeys(exact, 0)
    n = 4000
    for _ in range(n):
        first = speculative.draw(draft[0], generator)
        second = speculative.draw(draft[first], generator)
        drafts, targets = draft[[0, first]], target[[0, first, second]]
        counts[tuple(speculative.decide([first, second], drafts, targets, generator))] += 1
    common = [block for block, chance in exact.items() if chance * n >= 5]
    seen = [counts[block] for block in common]
    expected = [exact[block] * n for block in common]
    seen.append(n - sum(seen))
    expected.append(n - sum(expected))
    assert len(common) > 15
    assert stats.chisquare(seen, expected).pvalue > 1e-3


@pytest.mark.parametrize("name", ["small model", "prompt lookup"])
def test_sampled_texts_have_the_distribution_of_plain_ones(name: str) -> None:
    """The whole loop with its caches, on three tokens: against the exact chances from the model itself."""
    large, prompt, n = tiny(1), [1, 2, 1, 2], 700
    drafters = {
        "small model": speculative.SmallModel(tiny(2), temperature=1.0),
        "prompt lookup": speculative.PromptLookup(SIZE),
    }
    texts = torch.tensor(list(itertools.product(range(SIZE), repeat=3)))
    ids = torch.cat([torch.tensor([prompt]).expand(len(texts), -1), texts], 1)
    with torch.no_grad():
        logs = large(input_ids=ids).logits.log_softmax(-1)[:, 3:-1]
    chances = logs.gather(-1, texts[..., None])[..., 0].sum(1).exp()
    counts = torch.zeros(len(texts))
    for seed in range(n):
        made = speculative.write(large, prompt, drafters[name], 2, limit=3, temperature=1.0, seed=seed)
        a, b, c = made.tokens
        counts[a * SIZE * SIZE + b * SIZE + c] += 1
    common = chances * n >= 5
    seen, expected = counts[common].tolist(), (chances[common] * n).tolist()
    rest = n - sum(expected)
    assert len(seen) > 8 and rest > 1
    pvalue = stats.chisquare([*seen, n - sum(seen)], [*expected, rest]).pvalue
    assert pvalue > 1e-3


def test_a_wrong_rule_would_be_seen() -> None:
    """The tests above can fail: to keep every guess gives the draft's chances, not the target's."""
    target, draft = next(pairs(1))
    assert (draft - target).abs().max() > 0.1


# --- greedy


@pytest.fixture(scope="module")
def prisma():
    return lm.load(bundled.folder("prisma-lm"))


def test_greedy_tokens_are_the_same_whoever_guesses(prisma) -> None:
    model, tokenizer = prisma
    store = shop.make_shop(9)
    asked = [text.prompt("plan", task.question) for task in text.episodes(4, 9, store)]
    prompts = [tokenizer(question)["input_ids"] for question in asked]
    texts = [tokenizer(question)["input_ids"] for question in asked[:2]]
    table = speculative.Table(len(tokenizer), texts)
    drafters = [
        speculative.PromptLookup(len(tokenizer)),
        table,
        speculative.Together(table),
        speculative.SmallModel(tiny(3, len(tokenizer))),
        speculative.SmallModel(model),
    ]
    stop = tokenizer.eos_token_id
    for number, prompt in enumerate(prompts):
        plain = speculative.write(model, prompt, limit=24, stop=stop)
        for count in (1 + number, 7):
            for drafter in drafters:
                made = speculative.write(model, prompt, drafter, count, limit=24, stop=stop)
                assert made.tokens == plain.tokens
                assert made.passes <= plain.passes and made.accepted <= made.drafted
        assert made.accepted == made.drafted  # the last drafter is the model itself
        assert made.passes < 0.5 * plain.passes


def test_plain_writing_is_what_transformers_writes(prisma) -> None:
    model, tokenizer = prisma
    prompt = tokenizer(text.prompt("steps", "What do 3 cubes at 12 euros cost?"))["input_ids"]
    made = speculative.write(model, prompt, limit=20, stop=tokenizer.eos_token_id)
    ids = torch.tensor([prompt])
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
    assert made.tokens == theirs[0, len(prompt) :].tolist()
    assert made.passes == len(made.tokens) and made.drafted == 0


def test_the_text_ends_at_its_limit_and_at_the_stop(prisma) -> None:
    model = tiny(1)
    endless = speculative.write(model, [1, 2], speculative.SmallModel(model), 4, limit=6)
    assert len(endless.tokens) == 6
    stop = endless.tokens[2]
    short = speculative.write(model, [1, 2], speculative.SmallModel(model), 4, limit=6, stop=stop)
    assert short.tokens == endless.tokens[: endless.tokens.index(stop) + 1]


# --- drafters


def test_prompt_lookup_finds_the_last_place_and_falls_back_to_a_shorter_run() -> None:
    lookup = speculative.PromptLookup(20, size=3)
    assert lookup.guess([1, 2, 3, 7, 8, 1, 2, 3], 2) == [7, 8]
    assert lookup.guess([1, 2, 3, 7, 1, 2, 3, 9, 1, 2, 3], 1) == [9]
    assert lookup.guess([5, 3, 6, 9, 3], 2) == [6, 9]  # only "3" is known
    assert lookup.guess([1, 2, 3], 4) == []


def test_the_table_takes_the_longest_run_that_it_knows() -> None:
    table = speculative.Table(20, [[1, 2, 3, 4, 5], [9, 2, 3, 7], [9, 2, 3, 7]])
    assert table.guess([1, 2, 3], 2) == [4, 5]
    assert table.guess([8, 2, 3], 1) == [7]
    assert table.guess([19], 3) == []
    assert speculative.Together(table).guess([1, 2, 3, 8, 1, 2, 3], 1) == [8]


def test_a_certain_drafter_offers_one_token_with_chance_one() -> None:
    drafted, drafts = speculative.PromptLookup(9).propose([1, 2, 1], 1, torch.Generator())
    assert drafted == [2] and drafts.shape == (1, 9) and drafts[0, 2] == 1


def test_expected_tokens_is_the_geometric_sum() -> None:
    assert speculative.expected_tokens(0.5, 3) == pytest.approx((1 - 0.5**4) / 0.5)
    assert speculative.expected_tokens(1.0, 4) == 5 and speculative.expected_tokens(0.0, 4) == 1


# --- bad input


def test_bad_input_gets_a_sentence() -> None:
    with pytest.raises(ValueError, match="empty prompt"):
        speculative.write(tiny(1), [])
    with pytest.raises(ValueError, match="temperature"):
        speculative.chances(torch.zeros(3), -1)
    with pytest.raises(ValueError, match="one row more"):
        speculative.decide([1], torch.ones(1, 3), torch.ones(1, 3), torch.Generator())
    with pytest.raises(ValueError, match="acceptance rate"):
        speculative.expected_tokens(1.2, 3)
    with pytest.raises(ValueError, match="nothing to read"):
        speculative.Reader(tiny(1)).read([])


def test_the_same_chances_leave_the_target() -> None:
    even = torch.full((4,), 0.25)
    assert torch.equal(speculative.leftover(even, even), even)

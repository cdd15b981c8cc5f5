"""Three windows into a model that answer clicks: attention, the next token, bits a weight.

    explorer.attention(chat, prompt)            # where a head looks; switch heads off
    explorer.patches(clip, image, captions)     # the same for the patches of a picture
    explorer.probabilities(chat, prompt)        # other choices than the model's, and how the text goes on
    explorer.bits(chat, questions, system)      # 16, 8, 4, 3, 2, 1 bits a weight

As the last line of a cell each one shows two things. First a page: a picture with a text for those who can't see it
and, where scripts run (nbviewer, exported HTML), the explorer itself with what was computed beforehand. Then, where a
reader can click, a widget in its place, which asks Python. Neither writes a file or asks the network.
"""

import base64
import dataclasses
import html
import importlib.util
import io
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils import colab, figures
from course_utils.measures import matches
from course_utils.models.layers import linear_layers, megabytes
from course_utils.research import inside, quantisation

if TYPE_CHECKING:
    from PIL.Image import Image

    from course_utils.models.roles import Chat, ImageText

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
RUNS = "!#%()*+,./:;=?@[]^`{|}~"  # two zeros, three zeros, ...
MOST_PAGE = 150_000  # letters that one explorer may add to a notebook
MOST_TOKENS = 200  # of a prompt whose maps are shown
MOST_STEPS = 24
MOST_HEADS = 64  # as many are switched off beforehand, one at a time
MOST_LETTERS = 200  # of the reader's own question
CHOICES = 4  # tokens to choose from at each step
BITS = (1, 2, 3, 4, 8, 16)
SIDE = 28  # of the corner of a matrix that is drawn

Head = tuple[int, int]


class Refused(ValueError):
    """A message from the browser that asks for what is not there. The text says what there is."""


# ---------------------------------------------------------------- what all have in common


@dataclass
class Explorer:
    """What the browser gets (`data`), a picture of it for readers without scripts, and answers to the clicks.

    `alt` says in words what the picture shows.
    """

    data: dict
    drawn: bytes = field(repr=False)
    alt: str = ""

    def reply(self, asked: Mapping) -> dict:
        """The answer to a message from the browser. Refused if it asks for what is not there."""
        raise NotImplementedError

    def answer(self, message: Any) -> dict:
        """`reply`, but a sentence about the problem in place of an error; the message's number comes back."""
        if not isinstance(message, Mapping):
            return {"problem": "The message from the browser is none: run this cell again."}
        number = message.get("number")
        try:
            return {"number": number, **self.reply(message)}
        except ValueError as error:
            return {"number": number, "problem": str(error)}

    def page(self, name: str = "") -> str:
        """HTML that needs no Python: the picture, and a script that puts the explorer in its place.

        Without the script if it would add more than `MOST_PAGE` letters to a notebook.
        """
        name = name or f"explorer-{self.data['kind']}"
        source = base64.b64encode(self.drawn).decode()
        picture = f'<img src="data:image/png;base64,{source}" alt="{html.escape(self.alt)}">'
        script = _script(name, self.data)
        if len(picture) + len(script) > MOST_PAGE:
            script = ""
        return f'<div id="{name}"><div>{picture}</div></div>{script}'

    def _ipython_display_(self) -> None:
        from IPython.display import display

        name = "" if _nobody() else f"explorer-{uuid.uuid4().hex}"
        page = {"text/html": self.page(name), "text/plain": f"Explorer: {self.alt}"}
        display(page, raw=True)
        if name:
            self._show_widget(name)
        else:
            _tell_missing()

    def _show_widget(self, name: str) -> None:
        from IPython.display import display

        shown = _widget()(data=self.data, page=name)
        shown.on_msg(lambda widget, content, buffers: widget.send(self.answer(content)))
        display(shown)

    def __repr__(self) -> str:
        return f"Explorer: {self.alt}"


def _nobody() -> bool:
    """Whether there is no point in showing a widget: nobody can click, or it can't be made."""
    quiet = os.environ.get("COURSE_QUIET") == "1"
    return quiet or not figures.in_notebook() or not has_anywidget()


def has_anywidget() -> bool:
    return importlib.util.find_spec("anywidget") is not None


def _tell_missing() -> None:
    if has_anywidget():
        return
    print("Clicks do not reach Python here: the package anywidget is missing. What was computed beforehand is shown.")
    print(f"To get the rest: {colab.how_to_add('anywidget')}, then restart the kernel.")


@cache
def code() -> str:
    return Path(__file__).with_name("explorer.js").read_text("utf-8")


def _script(name: str, data: dict) -> str:
    """The explorer with its data, as a script that fills the element `name` of a page."""
    functions = code().partition("export default")[0]
    # Inside a script a browser looks for its end mark in strings, too.
    told = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    start = f'const place = document.getElementById("{name}"); place.replaceChildren(); build({told}, null, place);'
    return f"<script>(() => {{\n{functions}\n{start}\n}})();</script>"


@cache
def _widget() -> type:
    """The widget's class, made when it is needed: importing anywidget takes a while."""
    import anywidget
    import traitlets

    class ExplorerWidget(anywidget.AnyWidget):
        _esm = code()
        data = traitlets.Dict().tag(sync=True)
        page = traitlets.Unicode().tag(sync=True)

    return ExplorerWidget


def pack(rows: Sequence[Sequence[float]]) -> str:
    """Rows of numbers from 0 to 1 as text: two letters for the largest, then a letter for each in 1/63 of it.

    Zeros in a row, and what rounds to zero, share a letter. `explorer.js` reads it.
    """
    return "".join(map(_packed_row, rows))


def _packed_row(row: Sequence[float]) -> str:
    top = max(row)
    whole = max(1, round(4095 * top))
    parts = [DIGITS[whole // 64], DIGITS[whole % 64]]
    scale = 63 * 4095 / whole
    zeros = 0
    for weight in row:
        level = min(63, round(weight * scale))
        if level == 0:
            zeros += 1
            continue
        parts += [_zeros(zeros), DIGITS[level]]
        zeros = 0
    return "".join([*parts, _zeros(zeros)])


def _zeros(count: int) -> str:
    """So many zeros in a row as letters: runs as long as there is a letter for, then the rest."""
    longest = len(RUNS) + 1
    runs, rest = divmod(count, longest)
    ends = ("", DIGITS[0], *RUNS)  # no zero, one, two, ...
    return RUNS[-1] * runs + ends[rest]


def _png(image: "Image") -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _whole(value: Any, name: str, below: int) -> int:
    fine = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below
    if not fine:
        raise Refused(f"The {name} must be a whole number from 0 to {below - 1}, not {str(value)[:40]!r}.")
    return value


def _kind(asked: Mapping, wanted: str) -> None:
    if asked.get("ask") != wanted:
        raise Refused(f"This explorer answers {wanted!r}, not {str(asked.get('ask'))[:40]!r}.")


# ---------------------------------------------------------------- attention


@dataclass(repr=False)
class Attention(Explorer):
    """Attention maps with heads that can be switched off; `look` computes maps and answer without some heads."""

    look: Any = None

    def reply(self, asked: Mapping) -> dict:
        """Maps and answer without `asked["heads"]`, a list of [layer, head]. Refused for heads that are not there."""
        _kind(asked, "without")
        maps, answer = self.look(self._heads(asked.get("heads")))
        return {"maps": maps, "answer": answer}

    def _heads(self, pairs: Any) -> list[Head]:
        if not isinstance(pairs, list | tuple):
            raise Refused("Heads come as a list of pairs: [[layer, head], ...].")
        return [self._head(pair) for pair in pairs]

    def _head(self, pair: Any) -> Head:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Refused(f"A head is a pair [layer, head], not {str(pair)[:40]!r}.")
        layer = _whole(pair[0], "layer", self.data["layers"])
        return layer, _whole(pair[1], "head", self.data["heads"])


def attention(
    chat: "Chat",
    prompt: str,
    start: tuple[int, int, int] | None = None,
    max_new_tokens: int = 8,
    stop: Sequence[str] = ("\n",),
) -> Attention:
    """Where each head of a Llama-like model looks in `prompt`, and what the model answers without some of them.

    `start` is (layer, head, token) to begin with; else the last token and the head that looks hardest at another
    than the first. ValueError for a prompt of more than 200 tokens.
    """
    tokenizer, model = chat.tokenizer, chat.model
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"].to(model.device)
    length = ids.shape[1]
    if length > MOST_TOKENS:
        raise ValueError(f"The prompt has {length} tokens; at most {MOST_TOKENS} can be shown: shorten it.")
    if length < 2:
        raise ValueError("The prompt needs two tokens at least: a single one can only look at itself.")
    whole = chat.complete(prompt, max_new_tokens, stop)
    wanted = tokenizer(whole, return_tensors="pt", add_special_tokens=False)["input_ids"].to(model.device)

    def says(heads: Sequence[Head]) -> dict:
        with inside.without_heads(model, heads):
            chance, same = _continues(model, ids, wanted)
            answer = whole if same else chat.complete(prompt, max_new_tokens, stop)
        return {"text": answer.strip(), "chance": chance}

    def look(heads: Sequence[Head]) -> tuple[str, dict]:
        with inside.without_heads(model, heads):
            maps = inside.attention_maps(model, ids)[:, 0]
        return _packed(maps, causal=True), says(heads)

    maps = inside.attention_maps(model, ids)[:, 0]  # (layers, heads, n, n)
    layers, heads = maps.shape[:2]
    layer, head, query = start or _strongest(maps)
    tokens = [tokenizer.decode(i) for i in ids[0]]
    data = {
        "kind": "attention",
        "tokens": tokens,
        "causal": True,
        **_shared(maps, (layer, head, query), causal=True),
        "answer": says([]),
        "off": _one_by_one(says, layers, heads),
    }
    order = maps[layer, head, query].argsort(descending=True)[:3].tolist()
    looks = ", ".join(f"{tokens[i]!r} {maps[layer, head, query, i]:.2f}" for i in order)
    seen = f"Attention map of layer {layer}, head {head}: {length} tokens down and across."
    alt = f"{seen} Token {query}, {tokens[query]!r}, looks at {looks}."
    return Attention(data, _drawn_map(maps[layer, head], layer, head), alt, look)


def _continues(model: nn.Module, ids: Tensor, wanted: Tensor) -> tuple[float, bool]:
    """How probable it is that the tokens `wanted` (1, m) follow `ids` (1, n), and if each is the first choice."""
    if wanted.shape[1] == 0:
        return 1.0, False
    both = torch.cat([ids, wanted.to(ids.dtype)], dim=1)
    with torch.inference_mode():
        logits = model(input_ids=both, use_cache=False).logits[0, ids.shape[1] - 1 : -1].float()  # (m, words)
    chances = logits.softmax(-1).gather(-1, wanted[0, :, None])
    return round(chances.prod().item(), 4), bool((logits.argmax(-1) == wanted[0]).all())


def _strongest(maps: Tensor) -> tuple[int, int, int]:
    """The last token, and the head with the largest weight from there to another than the first and itself."""
    last = maps[:, :, -1, 1:-1] if maps.shape[-1] > 2 else maps[:, :, -1]  # (layers, heads, tokens)
    layer, head = inside.ranked_heads(last.amax(-1))[0]
    return layer, head, maps.shape[-1] - 1


def _shared(maps: Tensor, start: tuple[int, int, int], causal: bool) -> dict:
    """What the browser needs to know about maps (layers, heads, n, n). ValueError for a start that is not there."""
    layers, heads, n, _ = maps.shape
    for name, value, below in zip(("layer", "head", "query"), start, (layers, heads, n), strict=True):
        _whole(value, name, below)
    return {
        "layers": layers,
        "heads": heads,
        "n": n,
        "maps": _packed(maps, causal),
        "start": dict(zip(("layer", "head", "query"), start, strict=True)),
    }


def _packed(maps: Tensor, causal: bool) -> str:
    """Maps (layers, heads, n, n) as text; of causal ones the part that can be other than zero."""
    rows = maps.flatten(0, 2).tolist()  # layers x heads x n rows of n
    n = maps.shape[-1]
    if causal:
        rows = [row[: place % n + 1] for place, row in enumerate(rows)]
    return pack(rows)


def _one_by_one(says: Any, layers: int, heads: int) -> list:
    """The answer without each single head, for pages without Python; nothing if there are too many heads."""
    if layers * heads > MOST_HEADS:
        return []
    return [says([divmod(place, heads)]) for place in range(layers * heads)]


def _drawn_map(weights: Tensor, layer: int, head: int) -> bytes:
    """An attention map (n, n) as a picture."""
    from matplotlib import pyplot as plt

    fig, ax = figures.figure(width=4.6, height=3.8)
    figures.heatmap(ax, weights.numpy(), label="attention", low=0, high=1)
    ax.set(xlabel="token looked at", ylabel="token that looks", title=f"Layer {layer}, head {head}")
    data = figures.png(fig)
    plt.close(fig)
    return data


# ---------------------------------------------------------------- patches


@contextmanager
def without_vision_heads(clip: nn.Module, heads: Sequence[Head]) -> Iterator[None]:
    """Switch (layer, head) pairs of an open_clip vision tower off, counted in the order of its blocks.

    The columns that bring a head's part into the block's result are zero for as long as the block lasts.
    """
    blocks = inside.vision_blocks(clip)
    kept = [block.out_proj.weight.detach().clone() for block in blocks]
    try:
        with torch.no_grad():
            for layer, head in heads:
                width = blocks[layer].head_dim
                blocks[layer].out_proj.weight[:, head * width : (head + 1) * width] = 0
        yield
    finally:
        with torch.no_grad():
            for block, weight in zip(blocks, kept, strict=True):
                block.out_proj.weight.copy_(weight)


def patches(
    clip: "ImageText",
    image: "Image",
    captions: Sequence[str],
    start: tuple[int, int, int] | None = None,
) -> Attention:
    """Where each head of a CLIP's vision tower looks in `image`, and which of `captions` fits without some heads.

    `start` is (layer, head, token); token 0 is the class token, 1 the patch at the top left. ValueError without two
    captions.
    """
    captions = list(captions)
    if len(captions) < 2:
        raise ValueError("patches() needs two captions at least: the model says which of them fits best.")
    pixels = clip.preprocess(image)[None].to(next(clip.model.parameters()).device)  # (1, 3, side, side)
    words = clip.encode_texts(captions)  # (captions, width)
    sharpness = clip.model.logit_scale.detach().exp().cpu()

    def says(heads: Sequence[Head]) -> list:
        with without_vision_heads(clip.model, heads), torch.inference_mode():
            vector = clip.model.encode_image(pixels, normalize=True).float().cpu()  # (1, width)
        chances = (sharpness * vector @ words.T)[0].softmax(-1)
        best = chances.argsort(descending=True)[:3].tolist()
        return [[captions[i], round(chances[i].item(), 4)] for i in best]

    def look(heads: Sequence[Head]) -> tuple[str, list]:
        with without_vision_heads(clip.model, heads):
            maps = inside.vision_attention(clip.model, pixels)[0][:, 0]
        return _packed(maps, causal=False), says(heads)

    maps = inside.vision_attention(clip.model, pixels)[0][:, 0]  # (layers, heads, n, n)
    layers, heads, n, _ = maps.shape
    layer, head, query = start or (*_strongest(maps)[:2], 0)
    side = math.isqrt(n - 1)
    seen = _seen(pixels[0])
    answer = says([])
    data = {
        "kind": "patches",
        "causal": False,
        "side": side,
        "picture": "data:image/png;base64," + base64.b64encode(_png(seen)).decode(),
        **_shared(maps, (layer, head, query), causal=False),
        "answer": answer,
        "off": _one_by_one(says, layers, heads),
    }
    row = maps[layer, head, query, 1:]  # (patches,)
    down, across = divmod(row.argmax().item(), side)
    who = "the class token" if query == 0 else f"patch {query}"
    alt = (
        f"The picture as the model sees it, and where {who} looks in layer {layer}, head {head}: most at row {down}, "
        f"column {across} of {side} x {side} patches, {row.max():.2f}. Best caption: {answer[0][0]}."
    )
    data["alt"] = f"The picture as the model sees it, {side} x {side} patches. Best caption: {answer[0][0]}."
    return Attention(data, _drawn_patches(seen, row.view(side, side), who), alt, look)


def _seen(pixels: Tensor) -> "Image":
    """Pixels (3, side, side) as a picture, stretched to the whole range of grey."""
    from torchvision.transforms.functional import to_pil_image

    low, high = pixels.min(), pixels.max()
    return to_pil_image(((pixels - low) / (high - low)).cpu()).quantize(64).convert("RGB")


def _drawn_patches(image: "Image", weights: Tensor, who: str) -> bytes:
    """A picture, and beside it the weights (side, side) of its patches."""
    from matplotlib import pyplot as plt

    fig, axes = figures.figure(columns=2, width=5, height=2.3)
    figures.picture(axes[0], image)
    figures.heatmap(axes[1], weights.numpy(), label="attention", low=0)
    axes[1].set(xticks=[], yticks=[], aspect="equal")
    axes[1].set_title(f"where {who} looks", size=9)
    data = figures.png(fig)
    plt.close(fig)
    return data


# ---------------------------------------------------------------- live probabilities


@dataclass(repr=False)
class Probabilities(Explorer):
    """The first choices at each step; `go_on` writes on from tokens that the reader chose."""

    go_on: Any = None
    words: int = 0  # in the vocabulary

    def reply(self, asked: Mapping) -> dict:
        """Steps and tokens after `asked["path"]`, the ids of the text so far. Refused for ids that are none."""
        _kind(asked, "follow")
        path = asked.get("path")
        if not isinstance(path, list | tuple) or not path:
            raise Refused("The path is a list of the token ids that the text has so far: it is empty, or none.")
        if len(path) > MOST_STEPS:
            raise Refused(f"The text has {len(path)} tokens; at most {MOST_STEPS} are followed: go back.")
        return self.go_on([_whole(token, "token id", self.words) for token in path])


def probabilities(chat: "Chat", prompt: str, steps: int = 12) -> Probabilities:
    """What the model might say at each of `steps` tokens after `prompt`, and how the text goes on from another choice.

    The text follows the first choice (greedy decoding) up to the end mark. ValueError for more than 24 steps.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"Ask for 1 to {MOST_STEPS} steps, not {steps}.")
    tokenizer, model = chat.tokenizer, chat.model
    first = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ends = _ends(model)

    def go_on(begun: list[int]) -> dict:
        """How the text `begun` goes on, not longer than `steps` tokens."""
        return _walk(model, tokenizer, first, begun, steps - len(begun), ends)

    whole = go_on([])
    places = []
    for place, choices in enumerate(whole["steps"]):
        others = [token for _, token, _ in choices if token != whole["path"][place]]
        places += [(place, token) for token in others]
    known = [go_on([*whole["path"][:place], token]) for place, token in places]
    names = [f"{place}.{token}" for place, token in places]
    branches = dict(zip(names, known, strict=True))
    data = {"kind": "probabilities", **whole, "branches": branches}
    written = tokenizer.decode(whole["path"], skip_special_tokens=True).strip()
    surest = [choices[0][2] for choices in whole["steps"]]
    unsure = surest.index(min(surest))
    choices = ", ".join(f"{text!r} {chance:.0%}" for text, _, chance in whole["steps"][unsure])
    alt = f"The model writes: {written}. It is least sure at step {unsure}: {choices}."
    vocabulary = model.get_input_embeddings().num_embeddings
    return Probabilities(data, _drawn_steps(whole), alt, go_on, vocabulary)


def _ends(model: nn.Module) -> set[int]:
    ends = model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends}


def _walk(model: nn.Module, tokenizer: Any, first: list[int], path: list[int], steps: int, ends: set[int]) -> dict:
    """At most `steps` greedy tokens after `first` and `path`: the choices of each step, and the tokens taken."""
    ids = torch.tensor([first + path], device=model.device)
    told, taken, memory = [], [], None
    while len(taken) < steps and not (ends & set(path + taken)):
        with torch.inference_mode():
            result = model(input_ids=ids, past_key_values=memory, use_cache=True)
        memory = result.past_key_values
        chances, tokens = result.logits[0, -1].float().softmax(-1).topk(CHOICES)
        pairs = zip(tokens.tolist(), chances.tolist(), strict=True)
        told.append([[tokenizer.decode(token), token, round(chance, 4)] for token, chance in pairs])
        taken.append(int(tokens[0]))
        ids = tokens[None, :1]
    return {"steps": told, "path": taken}


def _drawn_steps(walk: dict) -> bytes:
    """The probabilities of the first choices at each step, as bars beside each other."""
    from matplotlib import pyplot as plt

    steps = walk["steps"]
    fig, ax = figures.figure(width=7, height=1.2 + 0.28 * len(steps))
    colours = [figures.PALETTE[name] for name in ("blue", "orange", "green", "purple")]
    for place, choices in enumerate(steps):
        left = 0.0
        for (text, _, chance), colour in zip(choices, colours, strict=True):
            ax.barh(place, chance, left=left, color=colour, alpha=0.6)
            if chance > 0.06:
                ax.text(left + 0.01, place, repr(text)[1:-1], va="center", fontsize=9)
            left += chance
    ax.set(xlim=(0, 1), yticks=range(len(steps)), xlabel="probability", ylabel="step")
    ax.invert_yaxis()
    ax.grid(False)
    data = figures.png(fig)
    plt.close(fig)
    return data


# ---------------------------------------------------------------- bits


@dataclass(repr=False)
class Bits(Explorer):
    """Answers at each number of bits; `ask` answers a question of the reader's at some number of bits."""

    ask: Any = None

    def reply(self, asked: Mapping) -> dict:
        """The answer to `asked["question"]` at `asked["bits"]` bits a weight. Refused for other numbers of bits."""
        _kind(asked, "answer")
        if asked.get("bits") not in BITS:
            offered = ", ".join(map(str, BITS))
            raise Refused(f"There are {offered} bits a weight, not {str(asked.get('bits'))[:40]!r}.")
        question = asked.get("question")
        if not isinstance(question, str) or not question.strip():
            raise Refused("The question is empty: write one first.")
        if len(question) > MOST_LETTERS:
            raise Refused(f"The question has {len(question)} letters; at most {MOST_LETTERS} are taken.")
        return {"answer": self.ask(asked["bits"], question)}


def bits(
    chat: "Chat",
    questions: Mapping[str, str],
    system: str,
    matrix: str = "",
    max_new_tokens: int = 48,
) -> Bits:
    """What `chat` answers to `questions` ({question: right answer}) at 16, 8, 4, 3, 2 and 1 bits a weight.

    `system` is the system message before each question; `matrix` names the linear layer whose corner is drawn, else
    the middle one. An answer that ends with the right one counts as right. ValueError without a question or such a
    layer.
    """
    if not questions:
        raise ValueError("bits() needs a question at least, with its right answer.")
    layers = linear_layers(chat.model)
    name = matrix or list(layers)[len(layers) // 2]
    if name not in layers:
        raise ValueError(f"There is no layer {name!r}. One of them is {next(iter(layers))!r}.")

    def ask(width: int, *asked: str) -> list[str]:
        small = dataclasses.replace(chat, model=_at_bits(chat.model, width))
        prompts = [_asked(chat, system, question) for question in asked]
        return [reply.strip() for reply in small.complete_many(prompts, max_new_tokens)]

    weights = layers[name].weight.detach().float().cpu()
    levels = []
    for width in BITS:
        replies = ask(width, *questions)
        answers = [marked(*pair) for pair in zip(replies, questions.values(), strict=True)]
        levels.append(_level(weights, width, megabytes(chat.model, _stored(width)), answers))
    data = {
        "kind": "bits",
        "bits": list(BITS),
        "questions": [list(pair) for pair in questions.items()],
        "levels": levels,
        "side": SIDE,
        "matrix": name,
        "example": next(iter(questions)),
    }
    right = list(questions.values())
    told = {}
    for width, level in zip(reversed(BITS), reversed(levels), strict=True):
        hits = sum(matches(level["answers"], right))
        bits = "1 bit" if width == 1 else f"{width} bits"
        told[bits] = f"{hits} of {len(right)} right, {level['megabytes']:.1f} MB"
    alt = f"A corner of the matrix {name} at each number of bits. {figures.told(told)}."
    return Bits(data, _drawn_bits(weights), alt, lambda width, question: ask(width, question)[0])


def _asked(chat: "Chat", system: str, question: str) -> str:
    return chat.prompt([{"role": "system", "content": system}, {"role": "user", "content": question}])


def marked(reply: str, right: str) -> str:
    """The right answer alone for a reply that ends with it; else the reply."""
    end = reply.rstrip(" .").removesuffix(right)
    fits = end != reply.rstrip(" .") and not end[-1:].isalnum()
    return right if fits else reply


def _rounded(weights: Tensor, width: int) -> Tensor:
    return weights if width == 16 else quantisation.quantise(weights, width)


def _at_bits(model: nn.Module, width: int) -> nn.Module:
    return model if width == 16 else quantisation.quantised_copy(model, lambda weight: _rounded(weight, width))


def _stored(width: int) -> float:
    """Bits a weight with its share of the group's scale, which has 16 bits."""
    return width if width == 16 else width + 16 / 64


def _level(weights: Tensor, width: int, size: float, answers: list[str]) -> dict:
    rounded = _rounded(weights, width)
    groups = rounded.reshape(-1, 64)[:200]
    values = [group.unique().numel() for group in groups]
    return {
        "answers": answers,
        "megabytes": size,
        "zero": round((rounded == 0).float().mean().item(), 4),
        "values": sum(values) / len(values),
        "weights": _corner(rounded),
    }


def _corner(weights: Tensor) -> str:
    """The first rows and columns as letters: 31 of DIGITS is zero, 0 and 62 are the ends of the scale."""
    corner = weights[:SIDE, :SIDE]
    levels = (31 + 31 * (corner / _end(weights)).clamp(-1, 1)).round().int()
    return "".join(DIGITS[level] for level in levels.flatten().tolist())


def _end(weights: Tensor) -> float:
    """Where the colours end: the size that few weights of the corner exceed."""
    return weights[:SIDE, :SIDE].abs().quantile(0.98).clamp(min=1e-9).item()


def _drawn_bits(weights: Tensor) -> bytes:
    """The corner of a matrix at each number of bits."""
    from matplotlib import pyplot as plt

    fig, axes = figures.figure(columns=len(BITS), width=9, height=1.9)
    end = _end(weights)
    for ax, width in zip(axes, reversed(BITS), strict=True):
        corner = _rounded(weights, width)[:SIDE, :SIDE]
        ax.imshow(corner.numpy(), cmap="PuOr", vmin=-end, vmax=end)
        ax.grid(False)
        ax.set(xticks=[], yticks=[], title=f"{width} bit" + "s" * (width > 1))
    data = figures.png(fig)
    plt.close(fig)
    return data

"""prisma-clip: a small open_clip `CLIP` that knows Prisma's pictures, its recipe and its evaluation.

The folder it ships in is one that open_clip itself opens: `create_model_from_pretrained("local-dir:...")`.
"""

import json
import multiprocessing
import os
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from course_utils.measures import Measure, share
from course_utils.models import hardware
from course_utils.models.inputs import as_texts
from course_utils.prisma import pictures, speech
from course_utils.prisma.shop import COLOURS, HELD_OUT, SHAPES, SIZES, TRAINED_PAIRS
from course_utils.settings import MODELS, SEED
from course_utils.training import Deadline, MuonAdamW, checkpoint, learning_rate, run

NAME = "prisma-clip"
FOLDER = MODELS / NAME
BATCH = 128
PEAK = 1.5e-3
TOYS = (1, 1, 1, 1, 2, 2, 2, 3)  # toys in a picture, each as likely
UNNAMED = 0.2  # the share of pictures that show one toy in a colour that captions have no word for
HALF = 0.5  # the part of a run in which only half the patches of each picture are looked at

Loaded = tuple[open_clip.CLIP, Any, Any]


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption or a spoken request can hold, the special tokens first and last.

    The end token has the highest id: CLIP's text tower reads its answer where the id is largest.
    """
    frames = [*pictures.PROMPTS, *pictures.REQUESTS, *pictures.PLURALS, *pictures.FRAMES]
    for forms in pictures.WORDS_BETWEEN.values():
        frames += forms
    text = " ".join(frames).lower()
    words = set(re.findall(r"[a-z]+", text))
    plurals = [f"{shape}s" for shape in SHAPES]
    words.update(speech.vocabulary(), COLOURS, SHAPES, SIZES, plurals)
    return ("[pad]", "[start]", "[unk]", *sorted(words), "[end]")


def config() -> dict[str, Any]:
    """The contents of open_clip_config.json: 2.2 million parameters, 64 pixels, patches of 8."""
    vision = {"image_size": 64, "patch_size": 8, "width": 160, "layers": 5, "head_width": 32}
    vision["pool_type"] = "avg"
    text = {"context_length": 32, "vocab_size": len(vocabulary()), "width": 128, "heads": 4, "layers": 3}
    text["hf_tokenizer_name"] = NAME  # makes open_clip read the tokenizer from the same folder
    half = [0.5, 0.5, 0.5]
    return {
        "model_cfg": {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "shortest"},
    }


def build(seed: int = SEED) -> open_clip.CLIP:
    """The untrained model, its weights drawn from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return open_clip.CLIP(**config()["model_cfg"])


def _write_tokenizer(folder: Path) -> None:
    """One token a word; what is not in the vocabulary becomes [unk], punctuation is left out."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[unk]"))
    plain = normalizers.Replace(Regex(r"[^a-z ]"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), plain])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[start]", ids["[start]"]), ("[end]", ids["[end]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[start] $A [end]", special_tokens=ends)
    special = {"pad_token": "[pad]", "unk_token": "[unk]", "bos_token": "[start]", "eos_token": "[end]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def save(model: open_clip.CLIP, folder: Path) -> Path:
    """Write configuration, tokenizer and weights in half precision; a kill leaves the old files whole."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        fresh = Path(name)
        _write_tokenizer(fresh)
        content = json.dumps(config(), indent=2) + "\n"
        (fresh / "open_clip_config.json").write_text(content, encoding="utf-8", newline="\n")
        weights = model.state_dict()
        halves = {key: value.detach().cpu().half().contiguous() for key, value in weights.items()}
        save_file(halves, fresh / "model.safetensors", metadata={"format": "pt"})
        for file in sorted(fresh.iterdir()):
            os.chmod(file, 0o644)
            os.replace(file, folder / file.name)
    return folder


def load(folder: Path = FOLDER) -> Loaded:
    """Model (in evaluation mode, float32), preprocessing and tokenizer of `folder`.

    The whole folder is handed to open_clip: a bare weights file would silently get ViT-B's preprocessing.
    Raises FileNotFoundError with a cure if a file is missing.
    """
    for file in ("open_clip_config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / file).is_file():
            cure = f"Restore it (`git checkout -- {folder}`) or run `course train {NAME}`."
            raise FileNotFoundError(f"{folder / file} is missing. {cure}")
    place = f"local-dir:{folder}"
    model, preprocess = open_clip.create_model_from_pretrained(place)
    tokenizer = open_clip.get_tokenizer(place)
    return model.eval(), preprocess, tokenizer


# --- training -------------------------------------------------------------------------------------------


def _training_scene(rng: random.Random) -> pictures.Scene:
    """A toy in a colour without a name teaches what its shape is in any colour."""
    if rng.random() < UNNAMED:
        return pictures.unnamed_scene(rng)
    return pictures.random_scene(rng, TOYS, HELD_OUT)


def draw_training_batch(seed: int, step: int, size: int = BATCH) -> tuple[np.ndarray, list, list]:
    """Batch number `step`: pictures, two lists of captions, two masks (pictures x captions).

    No scene holds a pair of HELD_OUT; one in five shows a colour without a name. A mask is true where a
    caption of another picture happens to be true of this one too ("something red"): the loss must not push
    those apart.
    """
    rng = random.Random(f"{NAME} {seed} {step}")
    scenes = [_training_scene(rng) for _ in range(size)]
    drawing = np.random.default_rng(rng.getrandbits(64))
    images = pictures.draw_batch(scenes, drawing)
    captions = [pictures.captions(scene, rng) for scene in scenes]
    texts, masks = [], []
    for kind in zip(*captions, strict=True):  # the complete captions, then the partial ones
        texts.append([stated.text for stated in kind])
        masks.append(_also_true(scenes, kind))
    return images, texts, masks


def _draw_ahead(queue: Any, seed: int, step: int) -> None:
    while True:
        queue.put(draw_training_batch(seed, step))
        step += 1


def training_batches(seed: int, step: int) -> Iterator[tuple]:
    """Batches from `step` on, drawn ahead by one process of their own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(maxsize=6)
    worker = context.Process(target=_draw_ahead, args=(queue, seed, step), daemon=True)
    worker.start()
    try:
        while True:
            yield queue.get(timeout=120)
    finally:
        worker.kill()
        worker.join()


class MaskedClipLoss(open_clip.ClipLoss):
    """open_clip's contrastive loss, which leaves out pairs that are true although not on the diagonal."""

    mask: torch.Tensor

    def get_logits(self, *args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        per_image, per_text = super().get_logits(*args, **options)
        no = float("-inf")
        return per_image.masked_fill(self.mask, no), per_text.masked_fill(self.mask.T, no)


def _also_true(scenes: list[pictures.Scene], captions: Sequence[pictures.Caption]) -> np.ndarray:
    """Where a caption (column) of another picture is true of this one (row) too: bool (n, n)."""
    rows = []
    for scene in scenes:
        known = pictures.facts(scene)
        rows.append([stated.facts <= known for stated in captions])
    mask = np.array(rows)
    np.fill_diagonal(mask, False)
    return mask


def _tokens(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Token ids (n, longest); a tenth of the filler words are hidden, so that [unk] comes to mean nothing."""
    ids = tokenizer(texts)
    words = vocabulary()
    plurals = [f"{shape}s" for shape in SHAPES]
    content = {*COLOURS, *SHAPES, *plurals, *SIZES, *pictures.MEANT, *words[:3], words[-1]}
    filler = torch.tensor([word not in content for word in words])
    chosen = torch.rand(ids.shape) < 0.1
    hidden = filler[ids] & chosen
    lengths = (ids != 0).sum(1)
    longest = int(lengths.max())
    unknown = words.index("[unk]")
    return ids.masked_fill(hidden, unknown)[:, :longest]


def normalise(images: np.ndarray, device: str) -> torch.Tensor:
    """uint8 (n, h, w, 3) to float (n, 3, h, w) in -1..1, as the shipped preprocessing does."""
    pixels = torch.from_numpy(images).to(device)
    floats = pixels.permute(0, 3, 1, 2).float()
    return floats.div_(127.5).sub_(1)


def encode_short(model: open_clip.CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """`model.encode_text(..., normalize=True)` of tokens cut to the longest caption: padding costs time."""
    n, length = tokens.shape
    x = model.token_embedding(tokens) + model.positional_embedding[:length]  # (n, length, width)
    mask = model.attn_mask[:length, :length]
    x = model.ln_final(model.transformer(x, attn_mask=mask))
    rows = torch.arange(n, device=x.device)
    last = x[rows, tokens.argmax(-1)]  # (n, width), at the end token
    return torch.nn.functional.normalize(last @ model.text_projection, dim=-1)


class BusyPatches(torch.nn.Module):
    """Passes on the half of the patches that vary most; takes the place of open_clip's `patch_dropout`.

    Training on half the patches is nearly twice as fast. Dropping them at random (arXiv 2212.00794) hid the
    outlines of the toys and shapes were not learned; flat patches show background and are not missed.
    """

    def __init__(self, pixels: torch.Tensor, side: int) -> None:
        super().__init__()
        grey = pixels.mean(1)  # (n, h, w)
        cut = grey.unfold(1, side, side).unfold(2, side, side)  # (n, rows, columns, side, side)
        patches = cut.flatten(3).flatten(1, 2)  # (n, patches, side * side)
        half = patches.shape[1] // 2
        busiest = patches.std(-1).topk(half).indices + 1  # token 0 is the class token
        class_token = torch.zeros_like(busiest[:, :1])
        self.keep = torch.cat([class_token, busiest], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        width = x.shape[-1]
        places = self.keep[..., None].expand(-1, -1, width)
        return x.gather(1, places)


def step_loss(model: open_clip.CLIP, tokenizer: Any, batch: tuple, busy: bool = False) -> torch.Tensor:
    """The loss of one batch: each picture meets its complete and its partial caption.

    With `busy`, the model sees the busier half of each picture's patches.
    """
    images, texts, masks = batch
    device = next(model.parameters()).device.type
    pixels = normalise(images, device)
    side = model.visual.patch_size[0]
    model.visual.patch_dropout = BusyPatches(pixels, side) if busy else torch.nn.Identity()
    loss_of = MaskedClipLoss()
    total = 0.0
    # The fused attention kernel is slower than plain products for 65 tokens on a CPU.
    with sdpa_kernel(SDPBackend.MATH), hardware.autocast(device):
        image = model.encode_image(pixels, normalize=True)
        for text, mask in zip(texts, masks, strict=True):
            tokens = _tokens(tokenizer, text).to(device)
            loss_of.mask = torch.from_numpy(mask).to(device)
            encoded = encode_short(model, tokens)
            scale = model.logit_scale.exp()
            total = total + loss_of(image.float(), encoded.float(), scale)
    return total / len(texts)


def is_inner(name: str, parameter: torch.nn.Parameter) -> bool:
    """Whether Muon updates this parameter: the matrices inside the towers."""
    return "resblocks" in name and parameter.ndim == 2


def tokenizer_of() -> Any:
    """The tokenizer alone, as `load` returns it."""
    with tempfile.TemporaryDirectory() as name:
        _write_tokenizer(Path(name))
        length = config()["model_cfg"]["text_cfg"]["context_length"]
        return open_clip.tokenizer.HFTokenizer(name, context_length=length)


def learner(model: open_clip.CLIP, optimiser: MuonAdamW, seed: int) -> Callable[[tuple, int, float], float]:
    """The step that `training.run` repeats."""
    tokenizer = tokenizer_of()
    largest = float(np.log(100))

    def learn(batch: tuple, step: int, part: float) -> float:
        # Each step has a seed of its own, so that a resumed run sees what an unbroken one would.
        torch.manual_seed(1_000_003 * seed + step)
        loss = step_loss(model, tokenizer, batch, busy=part < HALF)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = learning_rate(part, PEAK)
        optimiser.step(rate)
        with torch.no_grad():
            model.logit_scale.clamp_(max=largest)
        return loss.item()

    return learn


def train(minutes: float = 75, device: str = "cpu", resume: bool = False) -> Path:
    """Train for `minutes`; returns the folder of the new model, build/train/prisma-clip/model.

    A run that was killed goes on where its last checkpoint stood with `resume`; without it, training starts
    anew.
    """
    model = build().to(device)
    point = checkpoint(NAME)
    optimiser = MuonAdamW(model, PEAK, is_inner)
    state = {"step": 0, "spent": 0.0}
    if resume:
        state.update(point.load(model, optimiser))
    deadline = Deadline(minutes, state["spent"])
    learn = learner(model, optimiser, SEED)
    batches = training_batches(SEED, state["step"])
    run(NAME, batches, learn, deadline, state, lambda s: point.save(model, optimiser, **s))
    model.visual.patch_dropout = torch.nn.Identity()
    return save(model.float(), point.folder / "model")


# --- evaluation -----------------------------------------------------------------------------------------


@torch.no_grad()
def embed_images(loaded: Loaded, images: Sequence[Any]) -> torch.Tensor:
    """Unit vectors (n, 128) of PIL pictures, through the shipped preprocessing."""
    model, preprocess, _ = loaded
    device = next(model.parameters()).device
    pixels = torch.stack([preprocess(image) for image in images])  # (n, 3, 64, 64)
    vectors = []
    for part in pixels.split(256):
        encoded = model.encode_image(part.to(device), normalize=True)
        vectors.append(encoded.cpu())
    return torch.cat(vectors)


@torch.no_grad()
def embed_texts(loaded: Loaded, texts: Sequence[str]) -> torch.Tensor:
    """Unit vectors (n, 128) of captions."""
    texts = as_texts(texts)
    model, _, tokenizer = loaded
    device = next(model.parameters()).device
    vectors = []
    for part in tokenizer(texts).split(512):
        encoded = model.encode_text(part.to(device), normalize=True)
        vectors.append(encoded.cpu())
    return torch.cat(vectors)


def class_vectors(loaded: Loaded, prompts: Sequence[str] = pictures.PROMPTS) -> torch.Tensor:
    """One unit vector (64, 128) a colour-shape class, colours slowest: the mean over the prompts."""
    names = [pictures.with_article(colour, shape) for colour, shape in product(COLOURS, SHAPES)]
    texts = [prompt.format(name) for prompt, name in product(prompts, names)]
    vectors = embed_texts(loaded, texts).reshape(len(prompts), len(names), -1)  # (prompts, 64, 128)
    mean = vectors.mean(0)
    return torch.nn.functional.normalize(mean, dim=-1)


def zero_shot(loaded: Loaded, pairs: Sequence[tuple[str, str]], n: int, seed: int) -> Measure:
    """Top-1 accuracy over all 64 classes on `n` fresh single-toy pictures of `pairs` in turn."""
    rng = random.Random(seed)
    chosen = [pairs[i % len(pairs)] for i in range(n)]
    scenes = [pictures.scene_of(pair, size=rng.choice(SIZES)) for pair in chosen]
    images = embed_images(loaded, pictures.draw_many(scenes, seed))  # (n, 128)
    alike = images @ class_vectors(loaded).T  # (n, 64)
    guesses = alike.argmax(1).tolist()
    classes = list(product(COLOURS, SHAPES))
    right = [classes[guess] == tuple(pair) for guess, pair in zip(guesses, chosen, strict=True)]
    return share(right)


def retrieval(loaded: Loaded, n: int, seed: int) -> tuple[Measure, Measure]:
    """R@1 among `n` distinct scenes of two or three toys: picture to caption, caption to picture."""
    rng = random.Random(seed)
    scenes = pictures.distinct_scenes(rng, n)
    captions = [pictures.caption(scene, rng) for scene in scenes]
    texts = embed_texts(loaded, captions)
    images = embed_images(loaded, pictures.draw_many(scenes, seed))
    alike = images @ texts.T  # (pictures, captions)
    truth = torch.arange(n)
    to_caption = alike.argmax(1) == truth
    to_picture = alike.argmax(0) == truth
    return share(to_caption.tolist()), share(to_picture.tolist())


def swapped_colours(loaded: Loaded, n: int, seed: int) -> Measure:
    """How often the true caption of two toys beats the same words with the colours exchanged."""
    rng = random.Random(seed)
    drawn = [pictures.random_scene(rng, (2,)) for _ in range(4 * n)]
    scenes = [scene for scene in drawn if _differ_in_both(scene)][:n]
    true, false = [], []
    for i, scene in enumerate(scenes):
        # The same seed draws the same words around the toys.
        true.append(pictures.caption(scene, random.Random(seed + i)))
        swapped = pictures.swap_colours(scene)
        false.append(pictures.caption(swapped, random.Random(seed + i)))
    images = embed_images(loaded, pictures.draw_many(scenes, seed))
    difference = embed_texts(loaded, true) - embed_texts(loaded, false)
    margin = (images * difference).sum(1)
    return share((margin > 0).tolist())


def _differ_in_both(scene: pictures.Scene) -> bool:
    """Whether two toys share neither colour nor shape: else the exchange would change nothing."""
    first, second = scene.toys
    return set(first.pair).isdisjoint(second.pair)


def evaluate(loaded: Loaded | Path = FOLDER, seed: int = 2026, n: int = 500) -> dict[str, Measure]:
    """Every measure of the model card on pictures drawn from `seed`; `n` cases each.

    Training seeds are strings that name the model, so no number given here repeats a training picture.
    """
    if isinstance(loaded, Path):
        loaded = load(loaded)
    to_text, to_image = retrieval(loaded, n, seed + 2)
    return {
        "zero-shot, pairs never trained": zero_shot(loaded, HELD_OUT, n, seed),
        "zero-shot, pairs trained": zero_shot(loaded, TRAINED_PAIRS, n, seed + 1),
        "image to text R@1": to_text,
        "text to image R@1": to_image,
        "true caption beats swapped colours": swapped_colours(loaded, n, seed + 3),
    }

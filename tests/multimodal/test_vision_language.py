"""The lab on vision-language models: questions that are true of their scenes, labels, loss, learning, marks."""

import copy

import pytest
import torch
from lessons import written_in
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.multimodal import vision_language as vl
from course_utils.multimodal.vision_language import Question
from course_utils.prisma import lm
from course_utils.prisma.pictures import Scene, Toy, scene_of
from course_utils.prisma.shop import HELD_OUT
from course_utils.settings import MODELS


@pytest.fixture(scope="module")
def tokenizer():
    return lm.load(MODELS / lm.NAME)[1]


def talker(tokenizer, eye: int = 8) -> nn.Module:
    """The notebook's model at its smallest."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=0,
        tie_word_embeddings=True,
    )  # fmt: skip
    made = written_in("7.1_lab_vision_language_model", torch=torch, nn=nn, Tensor=torch.Tensor)["Talker"]
    lm, projector = LlamaForCausalLM(config).eval(), nn.Linear(eye, 32)
    return made(projector, lm)


# --- scenes and questions


def test_training_scenes_hold_no_held_out_pair():
    some = vl.scenes(200, 1)
    pairs = {toy.pair for scene in some for toy in scene.toys}
    assert not pairs & set(HELD_OUT) and len(pairs) == 56
    assert {len(scene.toys) for scene in some} == {1, 2, 3}
    assert all(len({t.pair for t in scene.toys}) == len(scene.toys) for scene in some)
    assert some == vl.scenes(200, 1) != vl.scenes(200, 2)
    held = vl.scenes(50, 1, (2,), HELD_OUT)
    assert {toy.pair for scene in held for toy in scene.toys} <= set(HELD_OUT)
    with pytest.raises(ValueError, match="3 different toys"):
        vl.scenes(1, 0, (3,), HELD_OUT[:2])


def find(scene: Scene, text: str) -> list[Toy]:
    """The toys of `scene` whose colour or shape a question names."""
    words = text.rstrip("?").split()
    return [toy for toy in scene.toys if toy.colour in words or toy.shape in words]


def test_every_answer_is_true_of_its_scene():
    some = vl.scenes(300, 3)
    for one in vl.questions(some, 0, list(vl.KINDS), each=4):
        scene, named = some[one.picture], find(some[one.picture], one.text)
        names = [toy.name for toy in scene.toys]
        if one.kind == "caption":
            assert one.answer == f"{scene.toys[0].size} {names[0]}" and len(names) == 1
        elif one.kind == "list":
            assert one.answer.split(" and ") == names and len(names) < 3
        elif one.kind in ("colour", "shape"):
            assert [getattr(toy, one.kind) for toy in named] == [one.answer]
        elif one.kind == "count":
            assert one.answer == ("one", "two", "three")[len(names) - 1]
        elif one.kind == "left":
            shapes = [toy.shape for toy in scene.toys]
            place = shapes.index(one.text.removeprefix("What is left of the ").rstrip("?"))
            assert one.answer == (shapes[0] if place else "no toy") and len(set(shapes)) == 2
        elif one.kind == "absent":
            assert not named and one.answer.startswith("no ")
        else:
            assert bool(named) == (one.answer == "yes") == (one.kind == "there")


def test_questions_that_do_not_fit_are_not_asked():
    two_reds = scene_of(("red", "cube"), ("red", "ball"), relation="left of")
    alone = scene_of(("red", "cube"))
    assert vl.questions([two_reds], 0, ["shape"]) == [] and vl.questions([alone], 0, ["left"]) == []
    assert {q.answer for q in vl.questions([two_reds] * 40, 0, ["left"])} == {"no toy", "cube"}
    assert len(vl.questions([alone, two_reds], 0, ["caption", "count"], each=3)) == 6
    with pytest.raises(ValueError, match="no such kind of question: smell"):
        vl.questions([alone], 0, ["smell"])


# --- tokens and loss


def test_only_the_answer_is_learned(tokenizer):
    asked = [Question("count", "How many toys are there?", "two", 3), Question("colour", "What?", "dark red", 1)]
    ids, labels, rows = vl.lesson(tokenizer, asked)
    assert rows.tolist() == [3, 1] and ids.shape == labels.shape
    for line, kept, one in zip(ids, labels, asked, strict=True):
        learned = line[kept != vl.IGNORED]
        assert tokenizer.decode(learned) == one.answer + tokenizer.eos_token
    with pytest.raises(ValueError, match="ask for other kinds"):
        vl.lesson(tokenizer, [])
    assert tokenizer.decode(ids[0, :1]) == "<|user|>" == tokenizer.decode(vl.prompt_ids(tokenizer, "What?")[:1])


def test_the_loss_is_the_librarys_with_the_picture_left_out(tokenizer):
    model = talker(tokenizer)
    ids, labels, _ = vl.lesson(tokenizer, [Question("count", "How many toys are there?", "two", 0)] * 3)
    pad = torch.full((3, 5), vl.IGNORED)
    vectors = torch.randn(3, 5, 8)
    theirs = model.lm(
        inputs_embeds=model.embed(vectors, ids), labels=torch.cat([labels[:, :1], pad, labels[:, 1:]], 1)
    ).loss
    assert torch.allclose(vl.answer_loss(model, vectors, ids, labels), theirs, atol=1e-5)
    blind = model.lm(input_ids=ids, labels=labels).loss
    assert torch.allclose(vl.answer_loss(model, vectors[:, :0], ids, labels), blind, atol=1e-5)


# --- learning and answering


def test_a_projector_alone_can_learn_and_its_answers_follow_the_picture(tokenizer):
    model = talker(tokenizer)
    asked = [Question("colour", "What?", colour, i) for i, colour in enumerate(("red", "blue", "green", "black"))]
    vectors, taught = torch.eye(8)[:4, None] * 3, vl.lesson(tokenizer, asked)
    before = copy.deepcopy(model.lm.state_dict())
    vl.fit(model, vectors, taught, 120, 0, peak=1e-2, batch=16)  # a first taste of the answers for the random LM
    assert any(not torch.equal(a, before[k]) for k, a in model.lm.state_dict().items())
    model.lm.requires_grad_(False)
    kept = copy.deepcopy(model.lm.state_dict())
    losses = vl.fit(model, vectors, taught, 30, 0, batch=16)
    assert len(losses) == 30 and all(torch.equal(a, kept[k]) for k, a in model.lm.state_dict().items())
    written = vl.answers(model, tokenizer, vectors, asked, batch=3)
    assert written == [one.answer for one in asked]
    assert vl.answers(model, tokenizer, vectors, asked, shift=1) == written[1:] + written[:1]


def test_fit_repeats_itself(tokenizer):
    vectors, taught = torch.randn(2, 3, 8), vl.lesson(tokenizer, [Question("colour", "What?", "red", 1)] * 2)
    first, second = (vl.fit(talker(tokenizer), vectors, taught, 3, 5, batch=2) for _ in range(2))
    assert first == second


# --- marks


def test_marks():
    asked = [Question("caption", "What is this?", "small red cube", 0), Question("there", "Is there?", "yes", 0)]
    asked.append(Question("not there", "Is there?", "no", 0))
    written = ["small red ball", "yes", "yes"]
    assert vl.exact(asked, written).value == pytest.approx(1 / 3)
    kinds = vl.by_kind(asked, written)
    assert list(kinds) == ["caption", "yes or no"] and kinds["yes or no"].value == 0.5
    words = vl.by_word(asked[:1], written[:1])
    assert [words[name].value for name in ("size", "colour", "shape")] == [1, 1, 0]
    assert vl.by_word(asked[:1], [""])["shape"].value == 0
    assert vl.said_yes(asked, written, "not there").value == 1
    with pytest.raises(ValueError, match="one each"):
        vl.exact(asked, ["yes"])


def test_the_blind_guess_is_the_most_frequent_answer():
    taught = [Question("colour", "A?", answer, 0) for answer in ("red", "blue", "blue")]
    asked = [Question("colour", "A?", "red", 0), Question("colour", "B?", "red", 0), Question("count", "C?", "one", 0)]
    assert vl.blind_guesses(taught, asked) == ["blue", "blue", ""]

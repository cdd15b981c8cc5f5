"""Unit 7.1's exercises and quizzes: what is asked. The solutions are in solutions.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from course_utils.exercises.registry import Answer, Exercise, Quiz

if TYPE_CHECKING:
    from torch import Tensor

# --- stubs: what stands in the student's cells ----------------------------------------------------------


def zero_shot(
    images: Tensor,
    names: Sequence[str],
    templates: Sequence[str],
    encode_texts: Callable[[list[str]], Tensor],
) -> Tensor:
    """The class of each picture, as numbers (n,) that count along `names`.

    `images` are unit vectors (n, d). Each template, such as "a photo of {}", is filled with each
    class name. `encode_texts` turns a list of k texts into unit vectors (k, d). A class is the mean
    of its texts' vectors, brought back to length 1; a picture belongs to the class whose vector is
    nearest.
    """
    # Your code here
    raise NotImplementedError


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss (arXiv 2103.00020, figure 3), one number as a tensor ().

    `image` and `text` are unit vectors (n, d); row i of both belongs together. `scale` is a tensor
    ().
    """
    # Your code here
    raise NotImplementedError


def word_error_rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Word errors in all sentences together, divided by all words said.

    `reference` holds what was said and `hypothesis` what was heard, in the same order. The errors
    of a sentence are the fewest words to put in, take out or swap that make both equal.
    """
    # Your code here
    raise NotImplementedError


def late_fusion(predictions: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor:
    """Merge what several encoders say: probabilities (n, classes), each row adding up to 1.

    A prediction holds log-probabilities (n, classes), or is None if its modality is missing. Take
    the weighted mean of the log-probabilities that are there, then softmax. ValueError if all are
    missing.
    """
    # Your code here
    raise NotImplementedError


def cross_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    missing: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention (arXiv 1706.03762) from one modality to another: (b, n, d).

    `queries` (b, n, d) come from one modality, `keys` and `values` (b, m, d) from the other.
    `missing` (b, m) is True where the other modality has no token; nobody may look there.
    """
    # Your code here
    raise NotImplementedError


# --- the exercises, in the order of the notebook --------------------------------------------------------

EXERCISES = [
    Exercise(
        "7.1.zero_shot",
        "A classifier made of sentences",
        difficulty="easy",
        minutes=10,
        stub=zero_shot,
        hints=(
            "Start with one template: fill it with every name (`template.format(name)`), encode the list, and "
            "you have one vector per class.",
            "Do this for every template and stack the results: (templates, classes, d). The mean over the first "
            "dimension leaves one vector per class. It is shorter than 1, so normalise it again: "
            "`F.normalize(mean, dim=-1)`.",
            "`images @ classes.T` is (n, classes): one row per picture. `argmax(dim=1)` finds the nearest class "
            "of each row.",
        ),
        notice="no weight was trained. A new class costs one sentence per template.",
    ),
    Exercise(
        "7.1.contrastive_loss",
        "CLIP's loss",
        difficulty="easy",
        minutes=10,
        stub=contrastive_loss,
        hints=(
            "Compare every picture with every text: one matrix product gives n x n similarities. Multiply "
            "them by `scale`.",
            "Row i is a question with n answers: which text belongs to picture i? The right answer is column i. "
            "`F.cross_entropy(logits, truth)` takes the logits themselves, and `truth` is 0, 1, 2 ... n-1.",
            "Columns ask the other way round: which picture belongs to text i? They are the rows of `logits.T`. "
            "The loss is the mean of the two cross-entropies.",
        ),
        notice="all other captions of the batch serve as wrong answers, so a bigger batch is a harder question.",
    ),
    Exercise(
        "7.1.word_error_rate",
        "The word error rate",
        difficulty="medium",
        minutes=20,
        stub=word_error_rate,
        hints=(
            "First write a function that counts the errors of one sentence. Split both texts into words. If one "
            "side has no words, every word of the other is an error.",
            "Compare the last words. The cheapest of three ways wins: one side without its last word, plus 1 "
            "error; the other side without its last word, plus 1; both without, plus 1 if the two words differ.",
            "Recursion repeats the same questions very often, so fill a table instead: "
            "`table[i][j]` is the number of errors between the first i words said and the first j heard, and "
            "`table[i][0] = i`, `table[0][j] = j`.",
            "At the end divide once: the errors of all sentences by the words said in all sentences. "
            "A mean of the sentences' rates would count a short sentence as much as a long one.",
        ),
        notice="words that nobody said are errors too, so the rate can pass 100 %.",
        also=("word_errors",),
    ),
    Exercise(
        "7.1.late_fusion",
        "Late fusion that survives a missing sense",
        difficulty="easy",
        minutes=10,
        stub=late_fusion,
        hints=(
            "Keep only the pairs of weight and prediction whose prediction is not None. If no pair is left, "
            "`raise ValueError(...)` with a sentence that says why.",
            "The weighted mean divides by the weights of the pairs that are left, not by all weights.",
            "The mean of log-probabilities is not normalised. `mean.softmax(dim=-1)` makes each row add up to 1.",
        ),
        notice="a sense that is missing only drops out of the sum. No network had to be trained for that.",
    ),
    Exercise(
        "7.1.cross_attention",
        "Cross-attention",
        difficulty="medium",
        minutes=15,
        stub=cross_attention,
        hints=(
            "Each query is compared with each key: `queries @ keys.transpose(1, 2)` is (b, n, m). "
            "Divide by the square root of d.",
            "Softmax turns scores into weights. Each query spreads a weight of 1 over the m keys, so it goes over "
            "the last dimension.",
            "A missing key needs the weight 0 after the softmax, so its score is minus infinity before: "
            '`scores.masked_fill(missing[:, None, :], float("-inf"))`. The weights times `values` is the result.',
        ),
        notice="the result has one token per query, however many tokens the other modality has.",
    ),
]

# --- quizzes --------------------------------------------------------------------------------------------

QUIZZES = [
    Quiz(
        "7.1.new_classes",
        "CLIP classifies pictures zero-shot. What does that mean?",
        (
            Answer(
                "It has never seen a picture of anything like these classes.",
                "Nobody promises that: among 400 million pictures from the web most common things occur. Zero-shot "
                "says that no labelled examples of this task were used.",
            ),
            Answer(
                "The classes are given as sentences, and no classifier is trained on examples of them.",
                "The text tower turns a sentence per class into a vector, and these vectors are the classifier.",
                right=True,
            ),
            Answer(
                "It answers at once, without a forward pass.",
                "Every new picture goes through the vision tower. Only the class vectors can be kept.",
            ),
            Answer(
                "It was fine-tuned on the classes for zero epochs, so it guesses.",
                "It does not guess: `prisma-clip` names pairs of colour and shape that were in no training picture "
                "far more often than chance would.",
            ),
        ),
    ),
    Quiz(
        "7.1.fusion",
        "Where do picture and text meet in CLIP?",
        (
            Answer(
                "At the input: patches and words form one sequence. It is early fusion.",
                "That is LLaVA's way. In CLIP the vector of a picture is the same whatever the caption is, and the "
                "notebook measures it.",
            ),
            Answer(
                "In the middle: text tokens attend to patches. It is cross-attention.",
                "That is Flamingo's way. No layer of CLIP reads both, and its towers share no weight.",
            ),
            Answer(
                "At the very end: two encoders, and one dot product of their vectors. It is late interaction.",
                "So a shop can encode its pictures once and search them with any sentence. The price: all that is "
                "known of the picture has to fit into one vector before the question is known.",
                right=True,
            ),
        ),
    ),
    Quiz(
        "7.1.above_100",
        "A transcript has a word error rate of 140 %. How can that be?",
        (
            Answer(
                "It is a mistake in the program: a rate ends at 100 %.",
                "A share of the words said would end there. But words that nobody said count too, and there can be "
                "any number of them.",
            ),
            Answer(
                "Every word was wrong, and some were wrong twice.",
                "A word said counts at most once: it is swapped or missing.",
            ),
            Answer(
                "There are more errors than words said, because the transcript holds words that nobody said.",
                "Errors are divided by the words said, not by the words heard. Whisper is known to invent sentences "
                "where nobody speaks (arXiv 2402.08021).",
                right=True,
            ),
            Answer(
                "The speaker was faster than the model.",
                "Speed does not enter the formula. It counts words put in, taken out and swapped.",
            ),
        ),
    ),
    Quiz(
        "7.1.missing_sense",
        "You train a fusion network with modality dropout. What is the network to learn from it?",
        (
            Answer(
                "To do its best with the senses that are there, because now and then one is left out in training.",
                "In use a microphone fails or a picture is dark. A network that always had both senses never had to "
                "rely on one.",
                right=True,
            ),
            Answer(
                "To fill in the missing picture or sound.",
                "Nothing is generated. The network learns to answer without it.",
            ),
            Answer(
                "To be smaller, because whole modalities are removed for good.",
                "The network stays as it is. A sense is left out of some training cases at random.",
            ),
            Answer(
                "To ignore the weaker sense.",
                "The opposite: when the stronger one is left out, only the weaker one can lower the loss.",
            ),
        ),
    ),
    Quiz(
        "7.1.who_asks",
        "Picture tokens ask the sound with cross-attention. What comes from where?",
        (
            Answer(
                "Queries from the sound, keys and values from the picture.",
                "Then the sound would ask the picture. Whoever asks sends the queries.",
            ),
            Answer(
                "Queries from the picture, keys and values from the sound.",
                "Each picture token compares its query with the keys of all sound tokens and takes a weighted mean "
                "of their values. So the result has as many tokens as the picture.",
                right=True,
            ),
            Answer(
                "Queries and keys from the picture, values from the sound.",
                "Queries and keys of the same picture would be compared with each other, and the weights would "
                "not fit: there is one for each picture token, and the values belong to sound tokens.",
            ),
            Answer(
                "All three from both, joined into one sequence.",
                "That is self-attention over everything: early fusion.",
            ),
        ),
    ),
]

"""Twenty sentences in five languages, spoken by espeak-ng: to learn a language detector from, and to test it.

The first twelve are to learn from, the others are not: a detector may know the sentences instead of the language.
Each file (OGG Opus) holds the sentences of one voice, one after the other.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_utils.prisma import speech
from course_utils.settings import DATA, SEED

FOLDER = DATA / "samples" / "languages"
NAMES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian"}
VOICES = {"en": "en-us", "de": "de", "fr": "fr-fr", "es": "es", "it": "it"}  # of espeak-ng
LEARN, TEST = ("m1", "m3", "f1", "f4"), ("f3", "m5")  # espeak-ng's variants of each voice
KNOWN = 12  # sentences to learn from

# Sentence i says the same in every language.
SENTENCES = {
    "en": "i want the red one|is the orange one left|i want the yellow one|is the green one left|where is my parcel|"
    "thank you very much|i have a question|my order is late|how much is it|good morning|it is broken|one two three|"
    "the blue one please|the purple one please|the white one please|the black one please|can you help me|"
    "i am looking for a present|that is too expensive|see you tomorrow".split("|"),
    "de": "ich möchte das rote|ist das orange noch da|ich möchte das gelbe|ist das grüne noch da|wo ist mein paket|"
    "vielen dank|ich habe eine frage|meine bestellung kommt zu spät|wie viel kostet das|guten morgen|es ist kaputt|"
    "eins zwei drei|das blaue bitte|das lila bitte|das weiße bitte|das schwarze bitte|können sie mir helfen|"
    "ich suche ein geschenk|das ist zu teuer|bis morgen".split("|"),
    "fr": "je veux le rouge|est-ce qu'il reste l'orange|je veux le jaune|est-ce qu'il reste le vert|où est mon colis|"
    "merci beaucoup|j'ai une question|ma commande est en retard|combien ça coûte|bonjour|il est cassé|un deux trois|"
    "le bleu s'il vous plaît|le violet s'il vous plaît|le blanc s'il vous plaît|le noir s'il vous plaît|"
    "pouvez-vous m'aider|je cherche un cadeau|c'est trop cher|à demain".split("|"),
    "es": "quiero el rojo|queda el naranja|quiero el amarillo|queda el verde|dónde está mi paquete|muchas gracias|"
    "tengo una pregunta|mi pedido llega tarde|cuánto cuesta|buenos días|está roto|uno dos tres|el azul por favor|"
    "el morado por favor|el blanco por favor|el negro por favor|puede ayudarme|busco un regalo|es demasiado caro|"
    "hasta mañana".split("|"),
    "it": "vorrei quello rosso|c'è ancora quello arancione|vorrei quello giallo|c'è ancora quello verde|"
    "dov'è il mio pacco|grazie mille|ho una domanda|il mio ordine è in ritardo|quanto costa|buongiorno|è rotto|"
    "uno due tre|quello blu per favore|quello viola per favore|quello bianco per favore|quello nero per favore|"
    "può aiutarmi|cerco un regalo|è troppo caro|a domani".split("|"),
}


@dataclass(frozen=True)
class Saying:
    """Sentence `number` in one language, by one voice: the words, the same in English, the sound (float32, 16 kHz).

    `test` sayings have voices that no saying to learn from has; from number KNOWN on, new sentences as well.
    """

    language: str
    number: int
    text: str
    english: str
    test: bool
    audio: np.ndarray


def _plan() -> list[dict]:
    """One row a file. Each voice to learn from says half of the known sentences, a test voice half of them too."""
    rows = []
    for language in SENTENCES:
        for test, variants in ((False, LEARN), (True, TEST)):
            for i, variant in enumerate(variants):
                numbers = [n for n in range(KNOWN) if (n + i) % 2]
                numbers += range(KNOWN, len(SENTENCES[language])) if test else ()
                rows.append({"language": language, "variant": variant, "test": test, "numbers": numbers})
    return rows


def write(folder: Path = FOLDER, seed: int = SEED) -> None:
    """Speak all sentences with espeak-ng and write them; `ends` are the samples at which each is over."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(_plan()):
        voice = f"{VOICES[row['language']]}+{row['variant']}"
        texts = [SENTENCES[row["language"]][n] for n in row["numbers"]]
        track = [speech.speak(text, voice, seed + 100 * number) for text in texts]
        ends = np.cumsum([len(sound) for sound in track]).tolist()
        name = f"{number:02}.ogg"
        # About 1.5 kB a second: speech stays intelligible, with all that lies below 8 kHz.
        soundfile.write(
            folder / name, np.concatenate(track), speech.RATE, format="OGG", subtype="OPUS", compression_level=0.98
        )
        lines.append(json.dumps({"file": name} | row | {"ends": ends}))
    (folder / "languages.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def load(folder: Path = FOLDER, name: str = "languages.jsonl") -> list[Saying]:
    """All sayings that the list `name` in `folder` tells of, file by file."""
    import soundfile

    found = []
    for line in (folder / name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        track, _ = soundfile.read(folder / row["file"], dtype="float32")
        for n, audio in zip(row["numbers"], np.split(track, row["ends"]), strict=False):
            text, english = SENTENCES[row["language"]][n], SENTENCES["en"][n]
            found.append(Saying(row["language"], n, text, english, row.get("test", True), audio))
    return found

"""prisma-lm for Ollama: how its conversations are written, and the recipe that `ollama create` reads.

Source: https://docs.ollama.com/modelfile. There is no ADAPTER line, because Ollama refuses it since 0.34.1: merge
first.
"""

# prisma-lm's marks in Ollama's template language, which is Go's and not the file's own (Jinja).
TEMPLATE = "{{ if .System }}<|system|>{{ .System }}<|end|>{{ end }}<|user|>{{ .Prompt }}<|end|><|assistant|>"
STOP = "<|end|>"


def modelfile(gguf: str, system: str = "", window: int | None = None) -> str:
    """The recipe for `ollama create NAME -f Modelfile`: a file, how a conversation is written, greedy answers.

    `window` tokens are read of a conversation; None leaves that to Ollama.
    """
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{TEMPLATE}"""']
    if system:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f'PARAMETER stop "{STOP}"', "PARAMETER temperature 0"]
    if window is not None:
        lines.append(f"PARAMETER num_ctx {window}")
    return "\n".join(lines) + "\n"

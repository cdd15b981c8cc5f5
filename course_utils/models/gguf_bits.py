"""Which tensor of a GGUF file is stored in which number format; `k_quants` does the rounding."""

# The format of a file as it is called, and the format of most of its matrices.
FORMATS = {
    "f16": "F16",
    "q8_0": "Q8_0",
    "q5_0": "Q5_0",
    "q4_0": "Q4_0",
    "q6_k": "Q6_K",
    "q4_k_m": "Q4_K",
    "q3_k": "Q3_K",
    "q2_k": "Q2_K",
}
FINER = "Q6_K"  # what the mixed file gives to the tensors that matter most
MIXED = "q4_k_m"


def format_of(name: str, layers: int, bits: str) -> str:
    """The format of the matrix `name` (in GGUF's words) in a file called `bits`, as llama.cpp's quantise tool chooses.

    Q4_K_M spends 6 bits on the table of embeddings, where that is the head, too, and on two matrices in half of
    the layers: the first and the last eighth, and every third one between. ValueError for an unknown name.
    """
    if bits not in FORMATS:
        raise ValueError(f"no GGUF format {bits!r} to write; there are {', '.join(FORMATS)}")
    if bits != MIXED:
        return FORMATS[bits]
    if name.startswith(("token_embd", "output")):
        return FINER
    if not name.endswith(("attn_v.weight", "ffn_down.weight")):
        return FORMATS[bits]
    layer = int(name.split(".")[1])
    eighth = layers // 8
    between = (layer - eighth) % 3 == 2
    finer = layer < eighth or layer >= 7 * layers // 8 or between
    return FINER if finer else FORMATS[bits]

"""Every call whose keyword arguments change between library versions, in one place.

tests/test_compat.py holds each keyword used here against the installed libraries, so that a new version fails
there, with the name of the keyword, and not in a notebook. Libraries are imported where they are used.
"""

import asyncio
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from course_utils.faster import adapter_first, whole_scores
from course_utils.settings import paced

if TYPE_CHECKING:
    import torch


# ---------------------------------------------------------------- models in pieces


def load_sharded(folder: str | Path) -> Any:
    """A causal language model in fp32, each of its matrices cut over the processes that have met: tensor parallel."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        from transformers.distributed import DistributedConfig

        processes = torch.distributed.get_world_size()
        plan = {"distributed_config": DistributedConfig(tp_size=processes)}
    except (ImportError, TypeError):  # before these keywords moved
        plan = {"tp_plan": "auto"}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **plan)


# ---------------------------------------------------------------- agents (LangChain)


def create_agent(model: Any, tools: Sequence[Any], system_prompt: str, max_model_calls: int) -> Any:
    """LangChain's agent loop (`create_react_agent` is deprecated), ended after `max_model_calls`."""
    from langchain.agents import create_agent
    from langchain.agents.middleware import ModelCallLimitMiddleware

    limit = ModelCallLimitMiddleware(run_limit=max_model_calls, exit_behavior="end")
    return create_agent(model=model, tools=list(tools), system_prompt=system_prompt, middleware=[limit])


# ---------------------------------------------------------------- fine-tuning (transformers, PEFT, TRL)
TORCHAO = "0.16"  # PEFT's minimum; it raises as soon as an adapter is added where an older one is installed
CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")  # the newer name first


def hide_unfit_torchao() -> None:
    """Leave a torchao that is too old for PEFT out of this process, and say so. Colab brings 0.10.0.

    PEFT does not declare what it needs, so no resolver sees it. The course uses no torchao; nothing is replaced.
    """
    from packaging.version import Version

    try:
        there = metadata.version("torchao")
    except metadata.PackageNotFoundError:
        return
    hidden = "torchao" in sys.modules and sys.modules["torchao"] is None
    if hidden or Version(there) >= Version(TORCHAO):
        return
    sys.modules["torchao"] = None  # from now on it is looked for and not found
    print(f"Note: PEFT needs torchao {TORCHAO} or later, or none. {there} is here, so this session does without it.")


def nf4_config(compute_dtype: "torch.dtype") -> Any:
    """4-bit NormalFloat with double quantisation, as in QLoRA (arXiv 2305.14314); sums in `compute_dtype`."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def load_nf4(folder: str | Path, dtype: "torch.dtype", device: str, attention: str) -> Any:
    """A causal language model whose layer matrices are quantised to NF4 while they are read."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=nf4_config(dtype),
        dtype=dtype,
        device_map={"": device},
        attn_implementation=attention,
        use_safetensors=True,
    )
    return keep_gradients(model)


def load_int8(folder: str | Path, dtype: "torch.dtype", device: str) -> Any:
    """A causal language model with matrices in LLM.int8() (arXiv 2208.07339): whole numbers, one scale a row."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    # It would say at every layer of every pass that it multiplies in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    config = BitsAndBytesConfig(load_in_8bit=True)
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=dtype, device_map={"": device}, use_safetensors=True
    )


def keep_gradients(model: Any) -> Any:
    """Stop bitsandbytes from repacking 4-bit layers on CPUs with AVX512-BF16.

    It does so in the first forward pass outside training, for a kernel that has no backward pass: whoever trains
    after evaluating loses, with no more than a warning, the gradient through every 4-bit layer (seen in 0.50.2).
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model


def checkpoint(model: Any) -> None:
    """Gradient checkpointing on, as transformers' trainer turns it on, with or without adapters."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    with peft_ready():
        enable()
    model.enable_input_require_grads()


def has_fused_head() -> bool:
    """Whether the installed TRL's trainer works the loss out in pieces, without all scores at once."""
    from trl.trainer import utils

    return hasattr(utils, "add_fused_lm_head")


def add_fused_head(model: Any) -> None:
    """What TRL's trainer does to the model that it is given, if `has_fused_head`."""
    from trl.trainer.utils import add_fused_lm_head

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))


def lora_config(rank: int = 16, alpha: int = 32) -> Any:
    """LoRA on every linear layer except the one that names the next token."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")


@contextmanager
def peft_ready() -> Iterator[None]:
    """Inside, PEFT and TRL work, and do not tell the reader of what he could not change.

    They ask models for a property that transformers has renamed.
    """
    hide_unfit_torchao()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*gradient_checkpointing.*")
        yield


@contextmanager
def _seeded(settings: Any) -> Iterator[None]:
    """Inside, TRL makes a trainer: `peft_ready`, and the adapter's first weights come from the run's seed.

    Newer versions see to that themselves. TRL 0.29, which Colab brings, draws them before it sets the seed.
    """
    from transformers import set_seed

    set_seed(settings.seed)
    with peft_ready():
        yield


def _with_adapter(model: Any, config: Any) -> Any:
    """`model` with what PEFT adds to it by `config`, ready to be trained."""
    from peft import get_peft_model

    with peft_ready():
        return get_peft_model(model, config)


def add_peft_lora(model: Any, rank: int = 16, alpha: int = 32) -> Any:
    """`model` with fresh LoRA adapters."""
    return _with_adapter(model, lora_config(rank, alpha))


def without_adapters(model: Any) -> Any:
    """`model` without the adapters that PEFT put into it for an earlier trainer, as it was before."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            model.set_submodule(name, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def load_lora(model: Any, folder: str | Path, name: str = "default") -> Any:
    """`model` with the adapters that were saved in `folder`, under `name`."""
    return load_loras(model, {name: folder})


def load_loras(model: Any, folders: dict[str, str | Path]) -> Any:
    """`model` with the adapters saved in `folders`, by name and side by side; `set_adapter(name)` chooses one."""
    from peft import PeftModel

    (first, folder), *others = folders.items()
    with peft_ready():
        loaded = PeftModel.from_pretrained(model, folder, adapter_name=first)
        for name, folder in others:
            loaded.load_adapter(folder, adapter_name=name)
    return loaded


def blend_loras(model: Any, name: str, weights: dict[str, float], how: str) -> None:
    """Add to `model` the LoRA adapter `name`, made of others with these weights.

    `how` is "cat" (the weighted sum of the changes B A), "linear" (A and B added each on their own) or "ties"
    (only the strongest half of each, signs agreed on, arXiv 2306.01708).
    """
    from peft.tuners.lora import LoraModel

    density = 0.5 if how == "ties" else None
    LoraModel.add_weighted_adapter(
        model.base_model,
        list(weights),
        list(weights.values()),
        adapter_name=name,
        combination_type=how,
        density=density,
    )


def add_ia3(model: Any) -> Any:
    """`model` with IA3: one trained factor for each key, value and hidden unit (arXiv 2205.05638)."""
    from peft import IA3Config

    layers = ["k_proj", "v_proj", "down_proj"]
    config = IA3Config(task_type="CAUSAL_LM", target_modules=layers, feedforward_modules=["down_proj"])
    return _with_adapter(model, config)


def add_virtual_tokens(model: Any, length: int, every_layer: bool) -> Any:
    """`model` with PEFT's prompt tuning or, with `every_layer`, its prefix tuning."""
    from peft import PrefixTuningConfig, PromptTuningConfig

    if every_layer:
        return _with_adapter(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length))
    return _with_adapter(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length))


def weakened_lora(model: Any, factor: float) -> Any:
    """A context in which the adapters of a PEFT `model` count only `factor` times: 0 is the base model."""
    from peft.helpers import rescale_adapter_scale

    return rescale_adapter_scale(model, factor)


def prepare_for_training(model: Any) -> Any:
    """Freeze a 4-bit model and keep everything in it that is not 4-bit in fp32."""
    from peft import prepare_model_for_kbit_training

    with peft_ready():
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


# What each of TRL's trainers is told. The rate falls to zero: at a constant one the last replies to settle stay
# unsettled.
TRL = {"lr_scheduler_type": "linear", "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}


def _trl(kind: type, checkpointing: bool = False) -> dict[str, Any]:
    """Settings for TRL's configuration `kind`: those of all of them, and gradient checkpointing by its name there."""
    # transformers 5.15 renamed it and warns about the old name.
    return TRL | {next(name for name in CHECKPOINTING if name in kind.__dataclass_fields__): checkpointing}


def _dataset(rows: list[dict]) -> Any:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    return Dataset.from_list(rows)


def _quiet(trainer: Any, ways: Sequence[Callable[[], Any]] = ()) -> Any:
    """The trainer, which now prints nothing by itself, nor in its steps, which ask for the renamed property, too.

    It trains inside all the `ways`.
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    train = trainer.train

    def quietly(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as inside:
            for way in (peft_ready, *ways):
                inside.enter_context(way())
            return train(*args, **kwargs)

    trainer.train = quietly
    return trainer


def sft_config(
    folder: Path,
    *,
    batch: int,
    accumulate: int,
    learning_rate: float,
    epochs: float,
    max_length: int,
    steps_between: int,
    checkpointing: bool,
    optimiser: str,
    bf16: bool,
    fp16: bool,
    cpu: bool,
    seed: int,
) -> Any:
    """Settings of a TRL training run: loss on the completion only, both losses and checkpoints.

    A checkpoint comes with a logged loss, about every `steps_between` steps: a loss is the mean since the last one,
    and a run that goes on from a checkpoint between two would log another mean.
    """
    from trl import SFTConfig

    logged = max(1, steps_between // 5)
    steps_between -= steps_between % logged
    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        learning_rate=learning_rate,
        warmup_steps=5,
        num_train_epochs=epochs,
        max_length=max_length,
        completion_only_loss=True,
        optim=optimiser,
        bf16=bf16,
        fp16=fp16,
        use_cpu=cpu,
        logging_steps=logged,
        eval_strategy="steps",
        eval_steps=steps_between,
        save_strategy="steps",
        save_steps=steps_between,
        save_total_limit=2,
        seed=seed,
        **_trl(SFTConfig, checkpointing),
    )


def sft_trainer(
    model: Any,
    settings: Any,
    train: list[dict],
    validation: list[dict],
    tokenizer: Any,
    adapter: Any,
    callbacks: Sequence[Any],
) -> Any:
    """TRL's trainer around `model`, to which it adds the `adapter`. Rows have `prompt` and `completion`.

    It prints nothing by itself: progress and curves are for `callbacks` and the reader.
    """
    from trl import SFTTrainer

    with _seeded(settings):
        trainer = SFTTrainer(
            model=model,
            args=settings,
            train_dataset=_dataset(train),
            eval_dataset=_dataset(validation),
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=list(callbacks),
        )
    checkpointing = any(getattr(settings, name, False) for name in CHECKPOINTING)
    return _quiet(trainer, [whole_scores, adapter_first] if checkpointing else [whole_scores])


def labels_of(row: dict) -> list[int]:
    """The labels of a row that TRL has prepared, -100 for what is not learned. TRL 0.29 keeps a mask in their place."""
    if "labels" in row:
        return row["labels"]
    return [token if learned else -100 for token, learned in zip(row["input_ids"], row["completion_mask"], strict=True)]


# ---------------------------------------------------------------- preferences (TRL)


def dpo_config(
    folder: Path, *, batch: int, steps: int, learning_rate: float, beta: float, max_length: int, cpu: bool, seed: int,
    bf16: bool, fp16: bool,
) -> Any:  # fmt: skip
    """Settings of TRL's DPO: one epoch or less, a row of its log for each step, no checkpoints."""
    from trl import DPOConfig

    return DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        max_steps=paced(steps),
        learning_rate=learning_rate,
        warmup_steps=3,
        weight_decay=0.0,
        beta=beta,
        max_length=max_length,
        bf16=bf16,
        fp16=fp16,
        use_cpu=cpu,
        logging_steps=1,
        save_strategy="no",
        seed=seed,
        **_trl(DPOConfig),
    )


def dpo_trainer(model: Any, settings: Any, rows: list[dict], tokenizer: Any, adapter: Any) -> Any:
    """TRL's DPO trainer around `model`, to which it adds the `adapter`. Rows have prompt, chosen and rejected.

    The reference is the same model with the adapter switched off.
    """
    from trl import DPOTrainer

    with _seeded(settings):
        trainer = DPOTrainer(
            model=model,
            args=settings,
            train_dataset=_dataset(rows),
            processing_class=tokenizer,
            peft_config=adapter,
        )
    return _quiet(trainer)


def grpo_config(
    folder: Path, *, groups: int, size: int, steps: int, learning_rate: float, beta: float, room: int, cpu: bool,
    seed: int, bf16: bool, fp16: bool,
) -> Any:  # fmt: skip
    """Settings of TRL's GRPO as in arXiv 2402.03300: `groups` prompts a step, `size` replies to each."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=groups * size,
        num_generations=size,
        num_iterations=2,
        max_completion_length=room,
        max_steps=paced(steps),
        learning_rate=learning_rate,
        weight_decay=0.0,
        loss_type="grpo",
        beta=beta,
        epsilon=0.2,
        temperature=1.0,
        bf16=bf16,
        fp16=fp16,
        use_cpu=cpu,
        logging_steps=1,
        save_strategy="no",
        seed=seed,
        **_trl(GRPOConfig),
    )


def grpo_trainer(model: Any, settings: Any, rows: list[dict], reward: Any, tokenizer: Any, adapter: Any) -> Any:
    """TRL's GRPO trainer. `reward(completions, **columns of the rows)` gives one number for each completion."""
    from trl import GRPOTrainer

    with _seeded(settings):
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=settings,
            train_dataset=_dataset(rows),
            processing_class=tokenizer,
            peft_config=adapter,
        )
    return _quiet(trainer)


# ---------------------------------------------------------------- serving (transformers)


# What continuous batching may keep of all conversations together. Left alone, it takes most of the free memory for its
# cache (six tenths on a CPU), and a prompt that does not fit ends its worker for good.
BLOCK, BLOCKS = 32, 256
BATCHED_TOKENS = BLOCK * BLOCKS


def serve(
    model: str,
    host: str,
    port: int,
    nf4: bool,
    exact: bool,
    batching: bool,
    add: Callable[[Any], None],
    connection: type,
) -> None:
    """`transformers serve` in this process, until it is stopped; if `exact`, it calculates in 32 bits.

    `add` puts its middleware in front of the application, `connection` is the class of uvicorn's connections.
    """
    import uvicorn
    from transformers.cli.serve import Serve
    from transformers.cli.serving import server as factory

    build = factory.build_server

    def build_and_add(*parts: Any, **named: Any) -> Any:
        app = build(*parts, **named)
        add(app)
        return app

    factory.build_server = build_and_add
    # A line for each request would grow without end, and hold the path that a client wrote.
    uvicorn.Config = partial(uvicorn.Config, http=connection, ws="none", access_log=False)
    sample_when_asked()
    end_unwanted_answers()
    Serve(
        force_model=model,
        host=host,
        port=port,
        quantization="bnb-4bit" if nf4 else None,
        dtype="float32" if exact else "auto",
        continuous_batching=batching,
        cb_block_size=BLOCK,
        cb_num_blocks=BLOCKS,
        cb_max_batch_tokens=256,
        # As the course's own prompts: a small model that thinks fills its whole budget with thoughts.
        chat_template_kwargs='{"enable_thinking": false}',
    )


def sample_when_asked() -> None:
    """Let `transformers serve` sample when a request names a temperature: it takes the number and stays greedy."""
    from transformers.cli.serving.utils import BaseHandler

    build = BaseHandler._build_generation_config

    def build_and_sample(self: Any, body: dict, *parts: Any, **named: Any) -> Any:
        config = build(self, body, *parts, **named)
        if body.get("temperature"):
            config.do_sample = True
        return config

    BaseHandler._build_generation_config = build_and_sample


def end_unwanted_answers() -> None:
    """Let `transformers serve` stop writing when the client of a whole answer has left, as it does for a stream.

    Left alone, the model goes on for nobody, and the next client waits for that.
    """
    from transformers.cli.serving.utils import CBGenerateManager, GenerateManager

    write, write_batched = GenerateManager.generate_non_streaming, CBGenerateManager.generate_non_streaming

    async def until_unwanted(self: Any, model: Any, processor: Any, inputs: dict, *parts: Any, **named: Any) -> Any:
        unwanted = threading.Event()
        # These go to `model.generate`, which asks each of the criteria after every token.
        inputs = {**inputs, "stopping_criteria": [lambda ids, scores, **_: _verdict(ids, unwanted.is_set())]}
        work = asyncio.ensure_future(write(self, model, processor, inputs, *parts, **named))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            unwanted.set()
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def until_cancelled(self: Any, *parts: Any, request_id: str, **named: Any) -> Any:
        try:
            return await write_batched(self, *parts, request_id=request_id, **named)
        except asyncio.CancelledError:
            self._cb.cancel_request(request_id)
            raise

    GenerateManager.generate_non_streaming = until_unwanted
    CBGenerateManager.generate_non_streaming = until_cancelled


def count_passes(told: Callable[[], None]) -> None:
    """Let `transformers serve` call `told` whenever it runs its model: for the prompt, and for each token after it.

    With continuous batching one run makes a token for every open answer.
    """
    from transformers.cli.serving.utils import BaseHandler

    resolve = BaseHandler._resolve_model
    counted = WeakSet()

    def resolve_and_count(self: Any, body: dict) -> Any:
        name, model, processor = resolve(self, body)
        if model not in counted:
            counted.add(model)
            model.register_forward_hook(lambda *_: told())
        return name, model, processor

    BaseHandler._resolve_model = resolve_and_count


def _verdict(ids: Any, stop: bool) -> Any:
    """What a stopping criterion of transformers gives: one truth value for each row of `ids`."""
    import torch

    return torch.full((ids.shape[0],), stop, dtype=torch.bool, device=ids.device)

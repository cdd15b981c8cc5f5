"""Every call whose keyword arguments change between library versions, in one place.

tests/test_compat.py holds each keyword used here against the installed libraries, so that a new version fails
there, with the name of the keyword, and not in a notebook. Libraries are imported where they are used.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# ---------------------------------------------------------------- agents (LangChain)


def create_agent(model: Any, tools: Sequence[Any], system_prompt: str, max_model_calls: int) -> Any:
    """LangChain's agent loop (`create_react_agent` is deprecated), ended after `max_model_calls`."""
    from langchain.agents import create_agent
    from langchain.agents.middleware import ModelCallLimitMiddleware

    limit = ModelCallLimitMiddleware(run_limit=max_model_calls, exit_behavior="end")
    return create_agent(model=model, tools=list(tools), system_prompt=system_prompt, middleware=[limit])


# ---------------------------------------------------------------- fine-tuning (transformers, PEFT, TRL)

CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")  # the newer name first


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


def keep_gradients(model: Any) -> Any:
    """Stop bitsandbytes from repacking 4-bit layers on CPUs with AVX512-BF16.

    It does so in the first forward pass outside training, for a kernel that has no backward pass: whoever trains
    after evaluating loses, with no more than a warning, the gradient through every 4-bit layer (seen in 0.50.2).
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model


def lora_config(rank: int = 16, alpha: int = 32) -> Any:
    """LoRA on every linear layer except the one that names the next token."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")


@contextmanager
def renamed_properties() -> Iterator[None]:
    """PEFT and TRL ask models for a property that transformers has renamed: nothing the reader could change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*gradient_checkpointing.*")
        yield


def add_lora(model: Any, rank: int = 16, alpha: int = 32) -> Any:
    """`model` with fresh LoRA adapters, ready to be trained."""
    from peft import get_peft_model

    with renamed_properties():
        return get_peft_model(model, lora_config(rank, alpha))


def load_lora(model: Any, folder: str | Path) -> Any:
    """`model` with the adapters that were saved in `folder`."""
    from peft import PeftModel

    with renamed_properties():
        return PeftModel.from_pretrained(model, folder)


def prepare_for_training(model: Any) -> Any:
    """Freeze a 4-bit model and keep everything in it that is not 4-bit in fp32."""
    from peft import prepare_model_for_kbit_training

    with renamed_properties():
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


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
    """Settings of a TRL training run: loss on the completion only, both losses and checkpoints."""
    from trl import SFTConfig

    # transformers 5.15 renamed gradient checkpointing and warns about the old name.
    names = [name for name in CHECKPOINTING if name in SFTConfig.__dataclass_fields__]
    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",  # down to zero: at a constant rate the last replies to settle stay unsettled
        warmup_steps=5,
        num_train_epochs=epochs,
        max_length=max_length,
        completion_only_loss=True,
        optim=optimiser,
        bf16=bf16,
        fp16=fp16,
        use_cpu=cpu,
        logging_steps=max(1, steps_between // 5),
        eval_strategy="steps",
        eval_steps=steps_between,
        save_strategy="steps",
        save_steps=steps_between,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=seed,
        **{names[0]: checkpointing},
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
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import SFTTrainer

    disable_progress_bars()
    with renamed_properties():
        trainer = SFTTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(validation),
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=list(callbacks),
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


# ---------------------------------------------------------------- preferences (TRL)


def dpo_config(
    folder: Path, *, batch: int, steps: int, learning_rate: float, beta: float, max_length: int, cpu: bool, seed: int,
    bf16: bool, fp16: bool,
) -> Any:  # fmt: skip
    """Settings of TRL's DPO: one epoch or less, a row of its log for each step, no checkpoints."""
    from trl import DPOConfig

    names = [name for name in CHECKPOINTING if name in DPOConfig.__dataclass_fields__]
    return DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        max_steps=steps,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=3,
        weight_decay=0.0,
        beta=beta,
        max_length=max_length,
        bf16=bf16,
        fp16=fp16,
        use_cpu=cpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=seed,
        **{names[0]: False},
    )


def dpo_trainer(
    model: Any, settings: Any, rows: list[dict], tokenizer: Any, adapter: Any, callbacks: Sequence[Any] = ()
) -> Any:
    """TRL's DPO trainer around `model`, to which it adds the `adapter`. Rows have prompt, chosen and rejected.

    The reference is the same model with the adapter switched off.
    """
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import DPOTrainer

    disable_progress_bars()
    with renamed_properties():
        trainer = DPOTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=list(callbacks),
        )
    trainer.remove_callback(PrinterCallback)
    return _quiet(trainer)


def grpo_config(
    folder: Path, *, groups: int, size: int, steps: int, learning_rate: float, beta: float, room: int, cpu: bool,
    seed: int, bf16: bool, fp16: bool,
) -> Any:  # fmt: skip
    """Settings of TRL's GRPO as in arXiv 2402.03300: `groups` prompts a step, `size` replies to each."""
    from trl import GRPOConfig

    names = [name for name in CHECKPOINTING if name in GRPOConfig.__dataclass_fields__]
    return GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=groups * size,
        num_generations=size,
        num_iterations=2,
        max_completion_length=room,
        max_steps=steps,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
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
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=seed,
        **{names[0]: False},
    )


def grpo_trainer(
    model: Any,
    settings: Any,
    rows: list[dict],
    reward: Any,
    tokenizer: Any,
    adapter: Any,
    callbacks: Sequence[Any] = (),
) -> Any:
    """TRL's GRPO trainer. `reward(completions, **columns of the rows)` gives one number for each completion."""
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    disable_progress_bars()
    with renamed_properties():
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=list(callbacks),
        )
    trainer.remove_callback(PrinterCallback)
    return _quiet(trainer)


def _quiet(trainer: Any) -> Any:
    """These two ask for the renamed property in every step, so their training must be quiet, too."""
    train = trainer.train

    def quietly(*args: Any, **kwargs: Any) -> Any:
        with renamed_properties():
            return train(*args, **kwargs)

    trainer.train = quietly
    return trainer


# ---------------------------------------------------------------- serving (transformers)


def serve(model: str, host: str, port: int, nf4: bool, batching: bool) -> None:
    """`transformers serve` in this process, until it is stopped. Block and batch sizes count with `batching` only.

    Left alone, continuous batching takes most of the free memory for its cache (six tenths on a CPU).
    """
    from transformers.cli.serve import Serve

    Serve(
        force_model=model,
        host=host,
        port=port,
        quantization="bnb-4bit" if nf4 else None,
        continuous_batching=batching,
        cb_block_size=32,
        cb_num_blocks=256,
        cb_max_batch_tokens=256,
    )

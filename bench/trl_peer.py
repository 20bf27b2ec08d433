"""TRL's trainers on the models of bench_rl.py, one iteration at a time.

They are set up as their documentation says for one processor, and as fast as they go: float32, all
replies in one batch for writing, scoring and learning, a key-value cache, fused AdamW, no gradient
checkpoints, nothing logged or saved. PPOTrainer was taken out of TRL after 1.12."""

import copy
import os
import tempfile
import threading
import warnings

import torch
import transformers
from datasets import Dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)

FOREVER = 1_000_000  # iterations; the worker ends before
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # trl is imported below
warnings.simplefilter("ignore", FutureWarning)  # of settings whose names will change
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def iterations(trainer, config, weights, prompts, shape, reward, threads, compiled):
    """Return a function that does the next iteration of a training.

    trainer: "PPO", "GRPO" or "RLOO". weights: of the policy, by the names of transformers. prompts:
    ids (n,T). shape: {"prompts", "replies", "tokens", "epochs"} of an iteration. reward: a function
    of a reply's ids; PPO takes a random model of the policy's size instead."""
    torch.manual_seed(0)
    made = GPT2Config(
        vocab_size=config.vocab,
        n_positions=config.context,
        n_embd=config.channels,
        n_layer=config.layers,
        n_head=config.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        num_labels=1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    policy = GPT2LMHeadModel(made)
    policy.load_state_dict(weights)
    tokenizer, folder = characters(config.vocab), tempfile.mkdtemp(prefix="pysft-bench-")
    replies = shape["prompts"] * shape["replies"]
    common = dict(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        torch_compile=compiled,
        per_device_train_batch_size=replies,
        gradient_accumulation_steps=1,
        learning_rate=1e-6,
        temperature=1.0,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    if trainer == "PPO":
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        value, scorer = (GPT2ForSequenceClassification(made) for _ in range(2))
        args = PPOConfig(
            **common,
            num_ppo_epochs=shape["epochs"],
            num_mini_batches=1,
            total_episodes=FOREVER * replies,
            local_rollout_forward_batch_size=replies,
            response_length=shape["tokens"],
            num_sample_generations=0,
        )
        data = Dataset.from_dict({"input_ids": prompts.tolist()})
        found = PPOTrainer(
            args, tokenizer, policy, copy.deepcopy(policy), scorer, data, value_model=value
        )
        turns = Turns(1)
    else:
        import trl

        policy.save_pretrained(folder)  # the reference is loaded from there
        args = getattr(trl, f"{trainer}Config")(
            **common,
            beta=0.02,
            num_generations=shape["replies"],
            num_iterations=shape["epochs"],
            steps_per_generation=1,
            max_completion_length=shape["tokens"],
            max_steps=FOREVER,
        )

        def rewards(completion_ids, **_):
            assert all(len(ids) == shape["tokens"] for ids in completion_ids)
            return [reward(ids) for ids in completion_ids]

        data = Dataset.from_dict({"prompt": ["".join(map(as_character, ids)) for ids in prompts]})
        found = getattr(trl, f"{trainer}Trainer")(
            folder, rewards, args, data, processing_class=tokenizer
        )
        turns = Turns(shape["epochs"])
    assert not any(getattr(m, "gradient_checkpointing", False) for m in found.model.modules())
    found.remove_callback(PrinterCallback)
    found.add_callback(turns)
    turns.begin(found.train, threads)
    return turns.take


def as_character(i: int) -> str:
    return chr(ord("!") + int(i))


def characters(vocab: int) -> PreTrainedTokenizerFast:
    """A tokenizer with a character for each id. Its pad and end stand beyond what the model can
    write, so every reply has its full length."""
    ids = {as_character(i): i for i in range(vocab)} | {"<pad>": vocab, "<end>": vocab + 1}
    made = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


class Turns(TrainerCallback):
    """Stops a training, which runs in a thread of its own, after each iteration of some steps."""

    def __init__(self, steps: int):
        self.steps, self.error = steps, None
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)

    def begin(self, train, threads: int) -> None:
        def run():
            torch.set_num_threads(threads)
            self.go.acquire()
            try:
                train()
            except BaseException as error:
                self.error = error
            self.done.release()

        threading.Thread(target=run, daemon=True).start()

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.steps == 0:
            self.done.release()
            self.go.acquire()

    def take(self) -> None:
        """Do the next iteration."""
        self.go.release()
        self.done.acquire()
        if self.error is not None:
            raise self.error

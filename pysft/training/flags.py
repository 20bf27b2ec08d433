"""Which setting each flag of the command line sets: the flag without "--" -> its table and its name
there."""

TRAIN_FLAGS = {
    "precision": ("model", "precision"),
    "template": ("data", "template"),
    "grade": ("data", "grade"),
    "too_long": ("data", "too_long"),
    "unknown": ("data", "unknown"),
    "mix": ("data", "mix"),
    "ignore": ("data", "ignore"),
    "lang": ("data", "lang"),
    "synthetic": ("data", "synthetic"),
    "base_steps": ("base", "steps"),
    "sft_steps": ("sft", "steps"),
    "lr": ("sft", "lr"),
    "sft_tokens": ("sft", "tokens"),
    "lora": ("sft", "lora_rank"),
    "lora_matrices": ("sft", "lora_matrices"),
    "checkpoint_every": ("sft", "checkpoint_every"),
}
REWARD_FLAGS = {
    name: ("reward", name) for name in ("steps", "lr", "epochs", "ties", "replies", "rounds", "by")
} | {"precision": ("model", "precision"), "too_long": ("data", "too_long")}
DPO_FLAGS = {
    name: ("dpo", name)
    for name in ("steps", "lr", "beta", "kind", "nll", "replies", "rounds", "by")
} | {"precision": ("model", "precision"), "too_long": ("data", "too_long")}
PPO_FLAGS = {
    name: ("ppo", name)
    for name in (
        "steps", "lr", "reward", "beta", "kl_target", "baseline", "ptx", "tools", "on_alarm",
    )
} | {"precision": ("model", "precision")}  # fmt: skip
PRETRAIN_FLAGS = {
    "precision": ("model", "precision"),
    "steps": ("base", "steps"),
    "lr": ("base", "lr"),
}

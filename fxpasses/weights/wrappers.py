"""Prefixes that wrappers put before a parameter's name: ``module.``, ``_orig_mod.`` and others."""

from __future__ import annotations

WRAPPERS = frozenset(
    {
        "module",  # DataParallel, DistributedDataParallel, AveragedModel
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "model",  # the customary attribute of a LightningModule, as are the next
        "net",
        "network",
        "ema",
        "ema_model",
        "model_ema",
        "averaged_model",
    }
)


def is_wrapping(prefix: str) -> bool:
    """Whether ``prefix`` is empty or made of wrappers only, as in ``"model._orig_mod."``.

    >>> is_wrapping("model._orig_mod."), is_wrapping(""), is_wrapping("layer1.0.se.")
    (True, True, False)
    """
    return not prefix or (prefix.endswith(".") and all(part in WRAPPERS for part in prefix[:-1].split(".")))

"""How far two engines' log-probabilities are apart on the same sampled completions, with images.

With vLLM for rollouts and transformers for the loss, the policy that samples is not quite the one that learns: the
ratio that PPO's clip and GRPO's on-policy form take for 1 is exp(log p learner - log p sampler). Four steps, since the
engines live in two environments (docs/decisions/training-environments.md); a folder goes from one to the next:

    prompts   images as PNG and token ids                         folder/prompts.json
    sample    by either engine, temperature 1, whole vocabulary   folder/ENGINE-DTYPE.jsonl
    score     the same tokens by either engine                    folder/ENGINE-DTYPE.by-ENGINE-DTYPE.jsonl
    report    figures, and a picture

Token ids go over, never text, and the image token stands in them once: an engine that expands it does so once.
"""

"""The language of tokens: ids, groups, text, prompts, the answer grammar, and drawing from it."""

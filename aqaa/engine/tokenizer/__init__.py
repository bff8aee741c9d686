"""The streaming tokenizer: PCM to groups of codes, the same for any chunking of the input."""

from aqaa.engine.tokenizer.branches import Branch, Codes, CodeStream
from aqaa.engine.tokenizer.stream import Groups, Level, Tokenizer, TokenizerStream

__all__ = ["Branch", "CodeStream", "Codes", "Groups", "Level", "Tokenizer", "TokenizerStream"]

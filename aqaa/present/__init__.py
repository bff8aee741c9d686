"""What a person sees of an answer: the terminal's tables and the picture. No torch, and no engine."""

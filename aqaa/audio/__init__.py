"""PCM in and out, resampling, and the features that the tokenizers and the vocoder see; numpy, no torch."""

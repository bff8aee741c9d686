"""Decode speed of the engine against Hugging Face `generate`: same weights, dtype, ALiBi, threads and mask.

    python -m benchmarks.engine_vs_hf [--threads 2] [--repeats 3] [--cpu-time] [--float32-weights]

A random decoder of nano's size answers 1 and then 8 prompts of 128 ids with 256 tokens each, greedily, where
two linguistic and three semantic codes alternate. Both sides compute in float32 on the CPU with the maths of
`aqaa.models.step1`; Hugging Face brings its generation loop, its `DynamicCache` and a logits processor that
sets illegal ids to minus infinity. Printed are tokens a second of both, their ratio, and how many ids agree.

The weights are half-precision numbers, as a bundle's are, which the engine keeps in 16 bits and Hugging Face
in 32. With `--float32-weights` they are not, and both keep 32.

Wall time needs a machine with nothing else to do. `--cpu-time` with one thread counts processor time instead.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aqaa.engine.backbone import BackboneEngine, EngineSettings
from aqaa.models.step1 import Step1, Step1Config
from aqaa.tokens.classes import Choice, TokenClass
from aqaa.tokens.ids import IdLayout
from aqaa.tokens.sampling import Sampler, SamplingSettings

PROMPT, NEW = 128, 256
LAYOUT = IdLayout(audio_base=700)
CONFIG = Step1Config(
    hidden_size=256,
    intermediate_size=768,
    num_attention_heads=8,
    num_attention_groups=4,
    num_hidden_layers=6,
    vocab_size=LAYOUT.vocab_size,
    max_seq_len=1024,
)
LINGUISTIC = (Choice(TokenClass.LINGUISTIC, (LAYOUT.linguistic_range,)),)
SEMANTIC = (Choice(TokenClass.SEMANTIC, (LAYOUT.semantic_range,)),)
GROUP = (LINGUISTIC, LINGUISTIC, SEMANTIC, SEMANTIC, SEMANTIC)

Generate = Callable[[list[list[int]]], list[list[int]]]


class AudioOnly:
    """An automaton of groups without end, cut after NEW tokens, so that every run does the same work."""

    def __init__(self) -> None:
        self.pushed, self.history = 0, ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        return GROUP[self.pushed % len(GROUP)]

    @property
    def finish_reason(self) -> str | None:
        return "length" if self.pushed == NEW else None

    def push(self, token_id: int) -> TokenClass:
        token_class = self.choices[0].token_class
        self.pushed += 1
        return token_class


def engine_generate(model: Step1, mode: str) -> Generate:
    """The engine. Each call gets an empty one, or prefixes of the call before would be reused."""
    sampler = Sampler(SamplingSettings(), LAYOUT)

    def generate(prompts: list[list[int]]) -> list[list[int]]:
        requests = []
        for prompt in prompts:
            requests.append(engine.open(prompt))
            engine.commit(requests[-1], AudioOnly(), sampler)
        while engine.busy:
            engine.step()
        return [list(request.tokens) for request in requests]

    engine = BackboneEngine(model, EngineSettings(mode=mode, capacity=CONFIG.max_seq_len))
    return generate


def hugging_face_generate(model: Step1) -> Generate:
    """The same decoder behind `transformers`' generation loop."""
    try:
        from transformers import (
            GenerationConfig,
            GenerationMixin,
            LogitsProcessor,
            PreTrainedConfig,
            PreTrainedModel,
        )
        from transformers.modeling_outputs import CausalLMOutputWithPast
    except ImportError as error:
        raise SystemExit(
            f"{error}. This benchmark needs Hugging Face transformers, which AQAA itself does not use: "
            "pip install 'aqaa[bench]' (or transformers==5.23.0)"
        ) from error

    class Step1HFConfig(PreTrainedConfig):  # type: ignore[misc]
        model_type = "step1"

    class Step1HF(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
        config_class = Step1HFConfig
        _supports_cache_class = True

        def __init__(self, config: Step1HFConfig) -> None:
            super().__init__(config)
            self.decoder = model
            self.post_init()

        def _init_weights(self, module: torch.nn.Module) -> None:
            """The weights are given."""

        def forward(
            self, input_ids: torch.Tensor, past_key_values: Any = None, **_: Any
        ) -> CausalLMOutputWithPast:
            hidden_BTD = self.decoder(input_ids, cache=past_key_values)
            logits_BTV = self.decoder.logits(hidden_BTD[:, -1:])
            return CausalLMOutputWithPast(logits=logits_BTV, past_key_values=past_key_values)

    illegal = torch.ones(len(GROUP), LAYOUT.vocab_size, dtype=torch.bool)
    for place, choices in enumerate(GROUP):
        for low, high in choices[0].ranges:
            illegal[place, low:high] = False

    class Mask(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            place = (input_ids.shape[1] - PROMPT) % len(GROUP)
            return scores.masked_fill(illegal[place], -torch.inf)

    wrapped = Step1HF(
        Step1HFConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.hidden_size,
            num_hidden_layers=CONFIG.num_hidden_layers,
            num_attention_heads=CONFIG.num_attention_heads,
            num_key_value_heads=CONFIG.num_attention_groups,
            eos_token_id=None,
            pad_token_id=0,
        )
    ).eval()
    settings = GenerationConfig(max_new_tokens=NEW, do_sample=False, use_cache=True, pad_token_id=0)

    def generate(prompts: list[list[int]]) -> list[list[int]]:
        ids_BT = torch.tensor(prompts)
        with torch.inference_mode():
            out_BT = wrapped.generate(
                ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                generation_config=settings,
                logits_processor=[Mask()],
            )
        return [row[PROMPT:] for row in out_BT.tolist()]

    return generate


def seconds(
    generate: Generate, batches: list[list[list[int]]], clock: Callable[[], float]
) -> tuple[float, list[list[list[int]]]]:
    """Median time of the batches, after one that is not counted, and their answers."""
    times, answers = [], []
    for batch in batches:
        start = clock()
        answers.append(generate(batch))
        times.append(clock() - start)
    return statistics.median(times[1:]), answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="needs --threads 1")
    parser.add_argument("--float32-weights", action="store_true", help="that 16 bits cannot hold")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    arguments = parser.parse_args()
    if arguments.cpu_time and arguments.threads != 1:
        parser.error(
            f"--cpu-time with {arguments.threads} threads, expected --threads 1: waiting threads spin"
        )
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = Step1(CONFIG).eval()
    if not arguments.float32_weights:
        model = model.half().float()
    sides = {
        "hugging face": hugging_face_generate(model),
        "engine exact": engine_generate(model, "exact"),
        "engine fast": engine_generate(model, "fast"),
    }
    rng = np.random.default_rng(0)
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{size:.1f} M parameters, {arguments.threads} threads, {clock.__name__}")
    print(f"{'in flight':>9}  {'side':<13} {'tokens/s':>9} {'ms/step':>8} {'ratio':>6}  ids agreeing")
    rows: list[dict[str, Any]] = []
    for count in (1, 8):
        # Fresh prompts in every batch, the same for all sides: no side may reuse an earlier prefix.
        shape = (arguments.repeats + 1, count, PROMPT)
        batches = rng.integers(0, LAYOUT.vocab_size, shape).tolist()
        base, reference = seconds(sides["hugging face"], batches, clock)
        for name, generate in sides.items():
            took, answers = (base, reference) if name == "hugging face" else seconds(generate, batches, clock)
            agreeing = float(np.mean(np.array(answers) == np.array(reference)))
            speed, ratio = count * NEW / took, base / took
            print(
                f"{count:>9}  {name:<13} {speed:>9.0f} {took / NEW * 1e3:>8.2f} {ratio:>6.2f}  "
                f"{agreeing:.1%}",
                flush=True,
            )
            rows.append(
                {"in_flight": count, "side": name, "tokens_per_second": speed, "ratio": ratio,
                 "agreeing": agreeing}
            )  # fmt: skip
    if arguments.out is not None:
        figures = {
            "threads": arguments.threads,
            "clock": clock.__name__,
            "weight_bits": 32 if arguments.float32_weights else 16,
            "sides": rows,
        }
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

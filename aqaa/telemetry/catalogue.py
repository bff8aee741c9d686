"""Every metric of AQAA, by the part that exports it. Dashboards, alerts and runbooks name no others.

Labels have few values: methods, codes, stages, outcomes. None ever holds the id of a caller, session or turn.
"""

from typing import Final

from aqaa.telemetry.metrics import AnyMetric, Counter, Gauge, Histogram

# Upper bounds in seconds, dense where a hop's promise lies.
HOP: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""One step between processes: an append, a wake-up, a place in a batch."""
STEP: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.24, 0.5, 1.0, 2.5)
"""One pass through a model; 0.12 and 0.24 are the sound that a hop and a tile stand for."""
ANSWER: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""From the last word of a question to something that the user notices."""
CALL: Final = (0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""A whole call: a health-sized one, a turn, a conversation."""
BATCH: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)
FACTOR: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5, 2.0, 4.0)
"""Time to make sound over its duration: beyond 1, playback stops."""

RPC_CALLS = Counter(
    "aqaa_rpc_calls_total",
    "gRPC calls that have ended, with their status code and, for errors of ours, the reason.",
    ("method", "code", "reason"),
)
RPC_IN_FLIGHT = Gauge("aqaa_rpc_in_flight", "gRPC calls that are open.", ("method",))
RPC_SECONDS = Histogram("aqaa_rpc_seconds", "Duration of gRPC calls.", ("method",), CALL)
RPC_MESSAGES = Counter(
    "aqaa_rpc_messages_total",
    "Messages of gRPC calls; direction is in or out.",
    ("method", "direction"),
)
RPC_FAULTS = Counter(
    "aqaa_rpc_faults_total",
    "gRPC calls that nobody foresaw failing; the log has their error ids.",
    ("method",),
)
READY = Gauge("aqaa_ready", "1 while health says SERVING.")
DRAINING = Gauge("aqaa_draining", "1 from the signal to stop until the process is gone.")

RPC: Final[tuple[AnyMetric, ...]] = (
    RPC_CALLS, RPC_IN_FLIGHT, RPC_SECONDS, RPC_MESSAGES, RPC_FAULTS, READY, DRAINING,
)  # fmt: skip
"""Every service."""

LOG_APPENDS = Counter(
    "aqaa_log_appends_total",
    "Appends to turns as the log answered them: OK, DUP, CONFLICT, GAP, GONE or FENCED.",
    ("stream", "outcome"),
)
LOG_APPEND_SECONDS = Histogram("aqaa_log_append_seconds", "An append, until Redis has it.", ("stream",), HOP)
LOG_WAKE_SECONDS = Histogram(
    "aqaa_log_wake_seconds", "From a wake-up until its reader has the entries.", ("stream",), HOP
)
LOG_SWEEPS = Counter(
    "aqaa_log_sweeps_total", "Entries that a sweep found because no wake-up came.", ("stream",)
)
LOG_TAKE_OVERS = Counter("aqaa_log_take_overs_total", "Turns taken over from another owner.", ("role",))
LOG_LEASES_LOST = Counter("aqaa_log_leases_lost_total", "Turns lost to another owner.", ("role",))
LOG_BREAKS = Counter(
    "aqaa_log_breaks_total", "Calls and subscriptions that broke; each is tried again until its time is over."
)
LOG_DEAD = Counter("aqaa_log_dead_total", "Turns given up.", ("reason",))

TURNLOG: Final[tuple[AnyMetric, ...]] = (
    LOG_APPENDS, LOG_APPEND_SECONDS, LOG_WAKE_SECONDS, LOG_SWEEPS, LOG_TAKE_OVERS, LOG_LEASES_LOST,
    LOG_BREAKS, LOG_DEAD,
)  # fmt: skip
"""Whoever opens the turn log."""

TOKENIZER_STREAMS = Gauge("aqaa_tokenizer_streams", "Signals that are open.")
TOKENIZER_GROUPS = Counter("aqaa_tokenizer_groups_total", "Audio groups handed out.")
TOKENIZER_BATCH = Histogram("aqaa_tokenizer_batch", "Sessions in a pass through the model.", (), BATCH)
TOKENIZER_STEP_SECONDS = Histogram(
    "aqaa_tokenizer_step_seconds", "A pass through the model.", ("network",), STEP
)
TOKENIZER_QUEUE_SECONDS = Histogram("aqaa_tokenizer_queue_seconds", "A hop's wait for its pass.", (), HOP)

TOKENIZER: Final[tuple[AnyMetric, ...]] = (
    TOKENIZER_STREAMS, TOKENIZER_GROUPS, TOKENIZER_BATCH, TOKENIZER_STEP_SECONDS, TOKENIZER_QUEUE_SECONDS,
)  # fmt: skip

LLM_SLOTS = Gauge("aqaa_llm_slots", "Requests that can be computed together.")
LLM_SLOTS_FREE = Gauge("aqaa_llm_slots_free", "Slots that nobody holds.")
LLM_WAITING = Gauge("aqaa_llm_waiting", "Requests that wait for a slot.")
LLM_QUEUE_SECONDS = Histogram("aqaa_llm_queue_seconds", "A request's wait for a slot.", (), HOP)
LLM_PREFILL_TOKENS = Counter("aqaa_llm_prefill_tokens_total", "Prompt tokens computed.")
LLM_DECODE_TOKENS = Counter("aqaa_llm_decode_tokens_total", "Answer tokens written.", ("token_class",))
LLM_FIRST_TOKEN_SECONDS = Histogram(
    "aqaa_llm_first_token_seconds", "From the commit to the first token.", (), HOP
)
LLM_STEP_SECONDS = Histogram("aqaa_llm_step_seconds", "A decode step of all slots.", (), STEP)
LLM_BATCH = Histogram("aqaa_llm_batch", "Requests in a decode step.", (), BATCH)
LLM_CANCEL_STEPS = Histogram(
    "aqaa_llm_cancel_steps",
    "Decode steps from a cancellation until its slot is free.",
    (),
    (0.0, 1.0, 2.0, 4.0, 8.0),
)
LLM_STALLED = Counter("aqaa_llm_stalled_total", "Slots taken back from consumers that took nothing.")

LLM: Final[tuple[AnyMetric, ...]] = (
    LLM_SLOTS, LLM_SLOTS_FREE, LLM_WAITING, LLM_QUEUE_SECONDS, LLM_PREFILL_TOKENS, LLM_DECODE_TOKENS,
    LLM_FIRST_TOKEN_SECONDS, LLM_STEP_SECONDS, LLM_BATCH, LLM_CANCEL_STEPS, LLM_STALLED,
)  # fmt: skip

VOCODER_STREAMS = Gauge("aqaa_vocoder_streams", "Turns that are open.")
VOCODER_SAMPLES = Counter("aqaa_vocoder_samples_total", "Samples handed out.")
VOCODER_BATCH = Histogram("aqaa_vocoder_batch", "Turns in a pass through the model.", (), BATCH)
VOCODER_TILE_SECONDS = Histogram("aqaa_vocoder_tile_seconds", "A pass through the model.", (), STEP)
VOCODER_FACTOR = Histogram("aqaa_vocoder_real_time_factor", "A pass over the sound it made.", (), FACTOR)
VOCODER_QUEUE_SECONDS = Histogram("aqaa_vocoder_queue_seconds", "A tile's wait for its pass.", (), HOP)

VOCODER: Final[tuple[AnyMetric, ...]] = (
    VOCODER_STREAMS, VOCODER_SAMPLES, VOCODER_BATCH, VOCODER_TILE_SECONDS, VOCODER_FACTOR,
    VOCODER_QUEUE_SECONDS,
)  # fmt: skip

TURNS = Counter("aqaa_turns_total", "Turns that have ended, with the reason.", ("reason",))
TURNS_LIVE = Gauge("aqaa_turns_live", "Turns that this process holds.", ("role",))
SESSIONS_LIVE = Gauge("aqaa_sessions_live", "Conversations that are open.")
TURNS_REFUSED = Counter("aqaa_turns_refused_total", "Turns refused at the door.", ("reason",))
TURN_FIRST_TEXT_SECONDS = Histogram(
    "aqaa_turn_first_text_seconds", "From the end of the question to the first text.", (), ANSWER
)
TURN_FIRST_AUDIO_SECONDS = Histogram(
    "aqaa_turn_first_audio_seconds", "From the end of the question to the first sound.", (), ANSWER
)
TURN_COMMIT_SECONDS = Histogram(
    "aqaa_turn_commit_seconds", "From the end of the question until it is safe in the log.", (), HOP
)
TURN_CHUNK_LATE_SECONDS = Histogram(
    "aqaa_turn_chunk_late_seconds", "How late a chunk left, against playback without a pause.", (), HOP
)
TURN_UNDERRUNS = Counter("aqaa_turn_underruns_total", "Chunks that left after playback had run dry.")
TURN_RESUMES = Counter("aqaa_turn_resumes_total", "Calls that took a broken stream up again.", ("outcome",))
TURN_MANIFESTS_MISSING = Counter(
    "aqaa_turn_manifests_missing_total", "Streams that ended without manifest or error."
)

ORCHESTRATOR: Final[tuple[AnyMetric, ...]] = (
    TURNS, TURNS_LIVE, SESSIONS_LIVE, TURNS_REFUSED, TURN_FIRST_TEXT_SECONDS, TURN_FIRST_AUDIO_SECONDS,
    TURN_COMMIT_SECONDS, TURN_CHUNK_LATE_SECONDS, TURN_UNDERRUNS, TURN_RESUMES, TURN_MANIFESTS_MISSING,
)  # fmt: skip

ALL: Final[tuple[AnyMetric, ...]] = (*RPC, *TURNLOG, *TOKENIZER, *LLM, *VOCODER, *ORCHESTRATOR)

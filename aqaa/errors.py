"""Every error that AQAA raises on purpose.

AqaaError
├── InvalidAudio        the caller's audio cannot be used
├── InvalidToken        an id outside the range that is legal at this door
├── GrammarError        a token sequence that the answer grammar forbids
├── BundleError         a model bundle that must not be loaded
│   ├── BundleCorrupt       a file is missing or its checksum differs
│   └── BundleUnsupported   a manifest version or module this code does not know
├── CapacityError       no free slot, or a request larger than a slot
├── Cancelled           the caller took the request back
└── StateError          restart state that does not belong to this bundle, seed or stream

Each message says what was given, what was expected and, where it helps, what to do.
"""


class AqaaError(Exception):
    """The root. ``reason`` is a stable UPPER_SNAKE_CASE code that machines may rely on."""

    reason = "INTERNAL"


class InvalidAudio(AqaaError):
    reason = "INVALID_AUDIO"


class InvalidToken(AqaaError):
    reason = "INVALID_TOKEN"


class GrammarError(AqaaError):
    reason = "GRAMMAR_VIOLATED"


class BundleError(AqaaError):
    reason = "BUNDLE_INVALID"


class BundleCorrupt(BundleError):
    reason = "BUNDLE_CORRUPT"


class BundleUnsupported(BundleError):
    reason = "BUNDLE_UNSUPPORTED"


class CapacityError(AqaaError):
    reason = "CAPACITY"


class Cancelled(AqaaError):
    reason = "CANCELLED"


class StateError(AqaaError):
    reason = "STATE_MISMATCH"

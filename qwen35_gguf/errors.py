"""Errors for a user's mistake or a bad file. Each message is one line: `WHAT: why; what to do`.

The command line prints the message and exits with code 2; in Python they are ordinary exceptions.
"""


class Qwen35Error(Exception):
    """Base of all errors that this package raises for a user's mistake or a bad file."""


class CheckpointError(Qwen35Error):
    """A checkpoint is not Qwen3.5, is damaged, or contradicts itself."""


class QuantizationError(Qwen35Error):
    """A quantization type is unknown, lacks something that it needs, or cannot store the weights."""


class OutputError(Qwen35Error):
    """An output file exists already, or cannot be written."""


class MissingDependencyError(Qwen35Error):
    """An optional dependency is not installed."""


class UnknownTargetError(Qwen35Error):
    """The requested instruction set is not available on this processor."""


class MediaError(Qwen35Error):
    """An image or a video cannot be read or decoded, or exceeds a limit."""


class VisionError(Qwen35Error):
    """The vision encoder (mmproj) is missing, damaged, or belongs to another model."""


class ToolError(Qwen35Error):
    """The definition of a tool, a tool call in the history, or its result is malformed."""


class ModelError(Qwen35Error):
    """A GGUF file is not a Qwen3.5 model or cannot be loaded, or llama.cpp fails to evaluate it."""


class NonFiniteError(ModelError):
    """A model computes numbers that are not finite."""


class ContextError(Qwen35Error):
    """A prompt is longer than the context."""


class MessageError(Qwen35Error):
    """The messages or options of a request are malformed."""


class GrammarError(Qwen35Error):
    """A JSON schema or grammar cannot be used."""


class AnswerError(Qwen35Error):
    """An answer is valid by its JSON schema, but refused by the type that was asked for."""


class ClosedError(Qwen35Error):
    """A model is used after it was closed."""


class ForkError(Qwen35Error):
    """A model is used in a process that was forked from the one that loaded llama.cpp."""


class CopyError(Qwen35Error, TypeError):
    """A loaded model, or a part of one, is copied or pickled."""


class TimeLimitError(Qwen35Error, TimeoutError):
    """A request takes longer than its `timeout`."""


class ServerError(Qwen35Error):
    """A server cannot start: its address, its keys or its models are not usable; or one that is asked refuses."""


class BusyError(Qwen35Error):
    """A model is used by its own callback, before the call that made it is over."""


class QueueFullError(Qwen35Error):
    """Too many requests wait for a model.

    Attributes:
        seconds: after which it is worth trying again, by the time that requests have taken.

    """

    def __init__(self, message: str, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class MemoryLimitError(Qwen35Error):
    """A model and its context need more memory than is available."""


class ThreadLimitError(Qwen35Error):
    """Fewer threads may be started than are needed."""


class GgufError(Qwen35Error):
    """A GGUF file is missing, damaged, truncated, or not the one that is needed."""


class MetadataError(Qwen35Error):
    """A metadata entry is missing, cannot be changed, or cannot have the given value."""


class ChecksumError(Qwen35Error):
    """A list of checksums is missing or malformed, or a file in it cannot be read."""


class TextError(Qwen35Error):
    """A text cannot be read, or is too short to measure with."""


class LogitsError(Qwen35Error):
    """A file of reference logits is missing, damaged, or of another vocabulary."""


class RecipeError(Qwen35Error):
    """A recipe is missing or malformed, or no recipe reaches the target."""


class CostsError(Qwen35Error):
    """A file of measured costs is missing, damaged, or of another model."""


class PackageError(Qwen35Error):
    """A release cannot be made, or a folder is not a release."""


class HubError(Qwen35Error):
    """The Hub does not have a model, does not hand it out, or cannot be reached."""


class PublishError(Qwen35Error):
    """The Hub refuses an upload, or is not reachable."""


class AdapterError(Qwen35Error):
    """An adapter is missing, damaged, of a kind that is not supported, or does not fit the model."""


class ImatrixError(Qwen35Error):
    """An importance matrix is missing, damaged, or of another model."""


class MomentsError(Qwen35Error):
    """Second moments are missing, damaged, or of another model."""


class UnitError(Qwen35Error, ValueError):
    """A text is not a size or a duration, or is outside of its limits."""


class SetupError(Qwen35Error):
    """llama.cpp cannot be installed."""


class RpcServerError(Qwen35Error):
    """An RPC server cannot be reached, is gone, or cannot listen."""


WorkerError = RpcServerError  # the name before 0.3


class DeviceError(Qwen35Error):
    """A device is not available."""

"""The errors a user can cause. Each message is one line: what, where, what to do.

The command line prints the message and exits with code 2; as a library they are ordinary exceptions.
"""


class Qwen35Error(Exception):
    """Base of everything that this package raises for a user's mistake or a bad file."""


class CheckpointError(Qwen35Error):
    """The checkpoint is not Qwen3.5, is damaged, or contradicts itself."""


class QuantizationError(Qwen35Error):
    """A type is unknown, needs what is not there, or cannot hold these weights."""


class OutputError(Qwen35Error):
    """An output exists already, or cannot be written."""


class MissingDependencyError(Qwen35Error):
    """An optional dependency is needed for what was asked."""


class UnknownTargetError(Qwen35Error):
    """An instruction set was asked for that this processor does not have."""


class MediaError(Qwen35Error):
    """A picture or a video cannot be had, cannot be decoded, or is over a limit."""


class VisionError(Qwen35Error):
    """The vision tower (mmproj) is missing, damaged, or belongs to another model."""


class ToolError(Qwen35Error):
    """The definition of a tool, a call in the history, or the result of one, does not fit."""


class ModelError(Qwen35Error):
    """A GGUF cannot be loaded or is not Qwen3.5's, or llama.cpp fails while evaluating."""


class ContextError(Qwen35Error):
    """A prompt does not fit into the context."""


class MessageError(Qwen35Error):
    """The messages or options of a request are malformed."""


class GrammarError(Qwen35Error):
    """A JSON schema or grammar cannot be used."""


class ClosedError(Qwen35Error):
    """A model is used after it was closed."""


class BusyError(Qwen35Error):
    """A model is used while a stream of the same thread is still open."""


class MemoryLimitError(Qwen35Error):
    """A model with its context, or a plan for it, does not fit into the memory there is."""


class GgufError(Qwen35Error):
    """A GGUF file is missing, damaged, cut off, or not the one that a command needs."""


class MetadataError(Qwen35Error):
    """A metadata entry is not there, may not be changed, or cannot have that value."""


class ChecksumError(Qwen35Error):
    """A list of checksums is missing or malformed, or a file in it cannot be read."""


class TextError(Qwen35Error):
    """A text that cannot be read, or is too short to measure anything on."""


class LogitsError(Qwen35Error):
    """A file of reference logits that is missing, damaged, or of another vocabulary."""


class RecipeError(Qwen35Error):
    """A recipe that is missing or malformed, or a target that no recipe reaches."""


class CostsError(Qwen35Error):
    """A file of measured costs that is missing, damaged, or of another model."""


class PackageError(Qwen35Error):
    """A release that cannot be made, or a folder that is none."""


class PublishError(Qwen35Error):
    """The Hub refuses an upload, or cannot be reached."""


class ImatrixError(Qwen35Error):
    """An importance matrix that is missing, damaged, or of another model."""


class UnitError(Qwen35Error, ValueError):
    """A text is not a size or a duration, or is outside of its limits."""


class RpcServerError(Qwen35Error):
    """An RPC server cannot be reached, is gone, or cannot listen."""


WorkerError = RpcServerError  # the name before 0.3


class DeviceError(Qwen35Error):
    """A device is not there, or the size of its memory makes no sense."""

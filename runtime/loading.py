"""Load a model: read its header and profile, decide where its layers go, check the memory, make the contexts."""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path

from qwen35_gguf.errors import MemoryLimitError, MessageError, ModelError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.chat.prompt import MESSAGE_START
from qwen35_gguf.runtime.chat.structured.token_grammars import TokenGrammars
from qwen35_gguf.runtime.chat.template import ChatTemplate
from qwen35_gguf.runtime.context_spec import AUTO_KV_TYPE, MemoryRequest
from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth
from qwen35_gguf.runtime.engine.engine_thread import EngineThread
from qwen35_gguf.runtime.engine.forest.live_sequence import CACHED_STATES
from qwen35_gguf.runtime.engine.forest.state_store import STATE_BYTES, StateStore
from qwen35_gguf.runtime.engine.scheduler import Scheduler
from qwen35_gguf.runtime.engine.shared_context import context_of
from qwen35_gguf.runtime.llama.adapters.lora_file import changes_mtp_head, check_adapter
from qwen35_gguf.runtime.llama.devices import Device, Offload
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.media.vision_encoder import VisionEncoder, check_mmproj
from qwen35_gguf.runtime.model_files import find_mmproj, model_identity, read_model
from qwen35_gguf.runtime.mtp_files import check_head, find_head, with_head
from qwen35_gguf.runtime.options import LoadOptions
from qwen35_gguf.runtime.planning import fitting, offload
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.planning.kv_cache_type import with_kv_type
from qwen35_gguf.runtime.planning.memory import has_mtp
from qwen35_gguf.runtime.planning.yarn import yarn_for, yarn_note
from qwen35_gguf.runtime.settings import Settings, context_spec, memory_request, model_spec
from qwen35_gguf.runtime.tuning import profiles
from qwen35_gguf.runtime.tuning.profiles import Profile

log = logging.getLogger(__name__)

DEFAULT_CONTEXT = 16384
OWN_STATES = 4  # recurrent states that sequences for several prompts keep


@dataclass(frozen=True)
class LoadPlan:
    """What is decided before anything is loaded.

    Attributes:
        options: of the caller.
        header: of the text model.
        name: of the model.
        n_ctx: cells.
        tuned: the profile that was found; None without one.
        settings: of the profile or the defaults, with the caller's overrides.
        draft: the draft depth.
        head: the file of the MTP head that drafts; None: the model has one, or n-grams draft alone.
        devices: that may hold layers.
        offload: what they hold.
        check_memory: whether the memory is checked; not where other devices hold layers.
        adapts_mtp: an adapter changes the MTP head, which is loaded for it also without drafts.
        cached_states: recurrent states for which the prefix cache has room, unless `cache_bytes` is given.

    """

    options: LoadOptions
    header: GgufHeader
    name: str
    n_ctx: int
    tuned: Profile | None
    settings: Settings
    draft: Depth
    devices: tuple[Device, ...]
    offload: Offload = field(default_factory=Offload)
    check_memory: bool = True
    cached_states: int = CACHED_STATES
    adapts_mtp: bool = False
    head: Path | None = None


class LoadedModel(Closing):
    """A model with its contexts.

    Attributes:
        plan: by which it was loaded.
        model: weights and vocabulary.
        metadata: of the file, as text.
        template: the file's chat template; None if it has none.
        grammars: compiled for its vocabulary.
        engine: its sequences.
        thread: which runs the engine.
        vision: the vision encoder; None until it is used.

    """

    def __init__(self, plan: LoadPlan) -> None:
        """Load the weights and make the contexts.

        Raises:
            OutputError: the folder for states cannot be used.
            ModelError: llama.cpp refuses.
            MessageError: the chat template cannot be compiled.

        """
        self.plan = plan
        settings, options = plan.settings, plan.options
        spec = context_spec(settings, plan.n_ctx, yarn_for(plan.header, plan.n_ctx))
        spec = replace(spec, checkpoint_type=options.checkpoint_type)
        store = None
        if options.state_dir is not None:
            yarn = {"yarn": spec.yarn} if spec.yarn else {}
            adapted = {"adapters": [(model_identity(one.path), one.scale) for one in options.adapters]}
            runtime = installed_runtime()
            made_by = {"runtime": [runtime.version, runtime.patches] if runtime is not None else []}
            parts = {**made_by, **yarn, **(adapted if options.adapters else {})}
            identity = model_identity(options.path, kv=spec.kv_type, **parts)
            limit = STATE_BYTES if options.state_bytes is None else options.state_bytes
            store = StateStore(options.state_dir, identity, limit)
        self.context_spec = spec
        self.vision: VisionEncoder | None = None
        mtp = plan.draft != 0 or plan.adapts_mtp
        self.model = Model(options.path, model_spec(settings, plan.offload, mtp=mtp, adapters=options.adapters))
        self.head: Model | None = None
        try:
            if plan.head is not None:
                self.head = Model(plan.head, model_spec(settings, plan.offload, mtp=True))
            self.metadata = self.model.metadata()
            self.template = _template(self.model)
            if self.template is not None:
                self.template.check_options(options.template_options or ())
            self.grammars = TokenGrammars(self.model.vocabulary)
            starts = self.model.tokenize(MESSAGE_START)
            self.engine = Scheduler(
                self.model,
                spec,
                parallel=options.parallel,
                draft=plan.draft,
                message_start=starts[0] if len(starts) == 1 else None,
                cache_bytes=options.cache_bytes,
                cached_states=plan.cached_states,
                store=store,
                max_gap=options.max_gap,
                deterministic=options.deterministic,
                head=self.head,
            )
            self.thread = EngineThread(str(options.path))
            self.thread.add(self.engine)
            weakref.finalize(self, self.thread.stop)
        except BaseException:
            if self.head is not None:
                self.head.close()
            self.model.close()
            raise

    def close(self) -> None:
        """Free everything."""
        self.thread.stop()
        self.engine.save()
        self.engine.close()
        if self.vision is not None:
            self.vision.close()
        if self.head is not None:
            self.head.close()
        self.model.close()

    def more_sequences(self, parallel: int, n_ctx: int) -> Scheduler:
        """Make a scheduler with sequences of its own, each of `n_ctx` cells; close it.

        Raises:
            ModelError: there is not enough memory.

        """
        spec = replace(self.context_spec, n_ctx=n_ctx)
        options = self.plan.options
        return Scheduler(
            self.model,
            spec,
            parallel=parallel,
            message_start=self.engine.message_start,
            cache_bytes=0 if options.cache_bytes == 0 else None,
            cached_states=OWN_STATES,
            max_gap=options.max_gap,
            deterministic=options.deterministic,
        )

    def vision_encoder(self) -> VisionEncoder:
        """Return the vision encoder, loaded when it is first used.

        Raises:
            VisionError: there is none, or it cannot be loaded.
            MemoryLimitError: it does not fit.

        """
        if self.vision is None:
            options = self.plan.options
            mmproj = options.mmproj or find_mmproj(options.path, self.model.n_embd)
            header = read_header(mmproj)
            use_gpu = offload.takes_vision(self.plan.offload, header, options.image_pixels)
            if self.plan.check_memory and not use_gpu:
                fitting.check_vision_fits(header, options.image_pixels)
            self.vision = VisionEncoder(mmproj, self.model, n_threads=self.plan.settings.threads, use_gpu=use_gpu)
        return self.vision


def load(options: LoadOptions) -> LoadedModel:
    """Plan and load; where a profile's placement fails, layers are placed by a new plan.

    Raises:
        ModelError: the file is missing, damaged, or not a text model of Qwen3.5, or llama.cpp refuses.
        AdapterError: an adapter is missing, damaged, or for another model.
        VisionError: `mmproj` is missing, damaged, or that of another model.
        MemoryLimitError: it does not fit; the message reports what would.
        ContextError: `n_ctx` is beyond what YaRN gives.
        MessageError: the file has no MTP head to draft with where n-grams may not, or has one beside `mtp`.
        DeviceError: a device is not available, or there is none for the layers.
        RpcServerError: an RPC server does not answer.
        OutputError: `state_dir` cannot be used.
        MissingDependencyError: llama-cpp-python is not installed.

    """
    plan = plan_load(options)
    try:
        return LoadedModel(place(plan))
    except (MemoryLimitError, ModelError) as error:  # a profile's context was shorter
        settings = replace(plan.settings, gpu_layers="auto", host_feed_forward=0, split=())
        if options.n_gpu_layers is not None or settings == plan.settings:
            raise
        log.warning("%s: the tuned placement fails (%s); layers are placed as planned", options.path.name, error)
        return LoadedModel(place(replace(plan, settings=settings)))


def plan_load(options: LoadOptions) -> LoadPlan:
    """Read the header, the devices and the profile; errors as of `load`."""
    header = read_model(options.path)
    native = int(header.require_hparam("context_length"))
    own = has_mtp(header)
    if own and options.mtp is not None:
        raise MessageError(f"mtp: {options.path} has an MTP head of its own; leave it out")
    head = None
    if options.draft != 0 and not own:
        head = check_head(options.mtp, header).path if options.mtp is not None else find_head(header)
    drafts = own or head is not None or not options.deterministic
    if not drafts and options.draft not in (None, 0, "auto"):
        raise MessageError(f"draft: {options.path} has no MTP head, and n-grams know other answers; use 0")
    devices = offload.find(options.devices, options.rpc)
    tuned = profiles.load(options.path, devices) if options.profile else None
    if tuned:
        log.info("%s: %s", options.path.name, tuned)
    settings = tuned.settings if tuned else Settings.default()
    draft = settings.depth if options.draft is None else options.draft
    n_ctx = min(DEFAULT_CONTEXT, native) if options.n_ctx is None else options.n_ctx
    yarn_for(header, n_ctx)  # raises beyond what YaRN gives
    settings = with_overrides(settings, options)
    if settings.kv_type == AUTO_KV_TYPE:
        asked = memory_request(settings, draft if drafts else 0, n_ctx=n_ctx)
        settings = replace(settings, kv_type=with_kv_type(header, asked, on_cpu=not devices).context.kv_type)
        log.info("%s: the KV cache is %s", options.path.name, settings.kv_type)
    adapters = [check_adapter(adapter.path, header) for adapter in options.adapters]
    layers = int(header.require_hparam("block_count")) - int(header.hparam("nextn_predict_layers", 0))
    if options.mmproj is not None:
        check_mmproj(options.mmproj, int(header.require_hparam("embedding_length")))
    return LoadPlan(
        options=options,
        header=header,
        name=str(header.value("general.name") or options.path.stem),
        n_ctx=n_ctx,
        tuned=tuned,
        settings=settings,
        draft=draft if drafts and not (options.deterministic and draft == "auto") else 0,
        head=head if draft != 0 and not (options.deterministic and draft == "auto") else None,
        devices=tuple(devices),
        adapts_mtp=any(changes_mtp_head(adapter, layers) for adapter in adapters),
    )


def _request(plan: LoadPlan) -> MemoryRequest:
    """Return what a plan needs beside its weights."""
    options, header = plan.options, plan.header
    request = memory_request(
        plan.settings,
        plan.draft,
        n_ctx=plan.n_ctx,
        cached_states=CACHED_STATES if options.cache_bytes is None else fitting.states_in(header, options.cache_bytes),
        mmproj=read_header(options.mmproj) if options.mmproj else None,
        image_pixels=options.image_pixels,
    )
    shared = context_of(request.context, options.parallel, plan.draft, separate=options.deterministic)
    context = shared if options.parallel > 1 else request.context
    beside = sum(one.path.stat().st_size for one in options.adapters)
    request = replace(request, mtp=request.mtp and has_mtp(header), context=context, beside=beside)
    return with_head(header, read_header(plan.head) if plan.head else None, request)


def with_overrides(settings: Settings, options: LoadOptions) -> Settings:
    """Return settings with what the caller decides."""
    threads, n_batch, kv_type = options.n_threads, options.n_batch, options.kv_type
    if threads is not None:
        settings = replace(settings, threads=threads, threads_batch=threads)
    if n_batch is not None:
        settings = replace(settings, n_batch=n_batch)
    if kv_type is not None:
        settings = replace(settings, kv_type=kv_type)
    if options.n_gpu_layers is not None:  # the rest of a placement was measured with other layers
        settings = replace(settings, gpu_layers=options.n_gpu_layers, host_feed_forward=0, split=())
    return settings


def planned_bytes(options: LoadOptions, budget: int) -> int:
    """Plan how many bytes of memory a model takes.

    Raises:
        MemoryLimitError: they are more than `budget`; the message reports what would fit.
        Qwen35Error: as of `load`.

    """
    plan = plan_load(options)
    return fitting.check_fits(plan.header, _request(plan), budget).total


def place(plan: LoadPlan) -> LoadPlan:
    """Decide what is stored where, and check that it fits; errors as of `load`."""
    options, header, settings = plan.options, plan.header, plan.settings
    request = _request(plan)
    placed = offload.of_settings(header, settings, plan.devices, request, ram=available_bytes())
    check_memory = options.check_memory and placed.n_gpu_layers == 0
    if check_memory:
        fitting.check_fits(header, request)
    if note := yarn_note(header, plan.n_ctx, settings.kv_type):
        log.warning("%s", note)
    states = fitting.affordable_states(header, request)
    return replace(plan, offload=placed, check_memory=check_memory, cached_states=states)


def _template(model: Model) -> ChatTemplate | None:
    source, vocabulary = model.chat_template(), model.vocabulary
    if source is None:
        return None
    tool_use = model.chat_template("tool_use")
    return ChatTemplate(source, tool_use=tool_use, bos_token=vocabulary.bos_token, eos_token=vocabulary.eos_token)

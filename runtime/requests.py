"""Turn what a caller asks for into checked requests: prompts, sampling, forms of the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from qwen35_gguf.errors import ContextError, MessageError
from qwen35_gguf.runtime.chat.completion import Request
from qwen35_gguf.runtime.chat.prompt import Prompt, chat_prompt
from qwen35_gguf.runtime.chat.prompt_texts import PromptTexts
from qwen35_gguf.runtime.chat.structured.answer_form import AnswerForm, CallForm, answer_mask, call_form
from qwen35_gguf.runtime.chat.template import template_choice
from qwen35_gguf.runtime.chat.volatile import without_volatile
from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth, depth_limit
from qwen35_gguf.runtime.engine.media_chunk import n_cells
from qwen35_gguf.runtime.engine.sampling import NOT_THINKING, RAW, THINKING, Sampling, choose, new_seed
from qwen35_gguf.runtime.field_checks import refuse, whole
from qwen35_gguf.runtime.loading import LoadedModel
from qwen35_gguf.runtime.media.vision_encoder import VisionEncoder
from qwen35_gguf.runtime.options import GenerateOptions


def raw_prompt(loaded: LoadedModel, text: Any) -> Prompt:
    """Tokenize a text that is continued as it is, or take the ids of its tokens.

    Raises:
        MessageError: it is neither, or is empty.

    """
    if isinstance(text, list | tuple):
        check = whole(0, loaded.model.n_vocab - 1)
        known = range(loaded.model.n_vocab)
        if any(type(token) is not int or token not in known for token in text):  # there may be a million
            return Prompt([check(f"prompt[{at}]", one) for at, one in enumerate(text)])
        return Prompt([*text] or _no_prompt())
    if not isinstance(text, str):
        raise refuse("prompt", text, "a text; use chat for messages")
    return Prompt([*loaded.model.tokenize(text)] or _no_prompt())


def _no_prompt() -> NoReturn:
    raise MessageError("prompt: is empty; give some text to continue")


def prompt_texts(loaded: LoadedModel, vision: Callable[[], VisionEncoder]) -> PromptTexts:
    """Give access to the tokenizer and the chat template of a model."""
    return PromptTexts(loaded.model, loaded.template, vision, loaded.plan.options)


def prompt_of_chat(
    loaded: LoadedModel,
    messages: Any,
    options: GenerateOptions,
    vision: Callable[[], VisionEncoder],
    instead: str = "give texts to continue",
) -> Prompt:
    """Render messages with the file's chat template; errors as of `chat_prompt`."""
    plan = loaded.plan
    if loaded.template is None:
        raise MessageError(f"{plan.options.path}: has no chat template; {instead}")
    return chat_prompt(
        loaded.model,
        loaded.template,
        without_volatile(messages, plan.options.ignore),
        tools=None if options.tool_choice == "none" else options.tools,
        **template_choice(plan.options, options),
        vision=vision,
        media_limits=plan.options.media_limits,
        video_limits=plan.options.video_limits,
    )


def chat_requests(
    loaded: LoadedModel, prompt: Prompt, options: GenerateOptions, form: AnswerForm | None
) -> list[Request]:
    """Make the `n` requests of a chat, each with a seed of its own."""
    calls = call_form(prompt.tools, options.tool_choice, options.parallel_tool_calls)
    first = new_seed(options.seed)
    return [
        make_request(loaded, prompt, options, preset_of(prompt), seed=first + number, form=form, calls=calls)
        for number in range(options.n)
    ]


def preset_of(prompt: Prompt) -> Sampling:
    """Return Qwen's preset for an answer with thinking, or one without."""
    return THINKING if prompt.inside else NOT_THINKING


def make_request(
    loaded: LoadedModel,
    prompt: Prompt,
    options: GenerateOptions,
    preset: Sampling,
    *,
    seed: int | None = None,
    depth: Depth | None = None,
    form: AnswerForm | None = None,
    calls: CallForm | None = None,
    raw: bool = False,
) -> Request:
    """Combine a prompt with the options.

    Raises:
        MessageError: drafts are wanted for which the model was not loaded, or a token of `logit_bias` is unknown.

    """
    loaded_depth = loaded.plan.draft
    depth = options.draft if depth is None else depth
    depth = loaded_depth if depth is None else depth
    highest = depth_limit(loaded_depth)
    if depth != loaded_depth and not (isinstance(depth, int) and 0 <= depth <= highest):
        raise MessageError(f"draft: {depth!r} is not 0 to {highest}, for which the model was loaded")
    bias = tuple((options.logit_bias or {}).items())
    if bias and (token := max(bias)[0]) >= loaded.model.n_vocab:
        raise MessageError(f"logit_bias: {token} is not a token; the vocabulary has {loaded.model.n_vocab:,}")
    return Request(
        prompt=prompt,
        sampling=replace(choose(preset, loaded.metadata, options.sampling), bias=bias),
        seed=new_seed(options.seed if seed is None else seed),
        limit=loaded.plan.n_ctx if options.max_tokens is None else options.max_tokens,
        stop=options.stop,
        depth=depth,
        mask=answer_mask(loaded.grammars, form, calls),
        answer_type=form.type if form is not None else None,
        thinking_budget=options.thinking_budget,
        raw=raw,
        top_logprobs=options.top_logprobs or 0 if options.logprobs else None,
        stop_loops=loaded.plan.options.stop_loops if options.stop_loops is None else options.stop_loops,
        ahead=loaded.plan.options.ahead and options.n == 1,
        scope=options.cache_scope,
    )


def one_of_many(
    loaded: LoadedModel,
    given: Any,
    options: GenerateOptions,
    form: AnswerForm | None,
    vision: Callable[[], VisionEncoder],
    *,
    seed: int,
) -> Request:
    """Make a request of one of several prompts, a text or messages.

    Raises:
        MessageError: it is malformed.
        ContextError: it does not fit into the context together with its answer.

    """
    raw = isinstance(given, str)
    prompt = raw_prompt(loaded, given) if raw else prompt_of_chat(loaded, given, options, vision)
    preset = RAW if raw else preset_of(prompt)
    request = make_request(loaded, prompt, options, preset, seed=seed, depth=0, raw=raw, form=form)
    cells, most = n_cells(prompt.items), loaded.plan.n_ctx
    if cells + request.limit > most:
        needed = f"{cells:,} tokens and {request.limit:,} to generate"
        raise ContextError(f"{needed} do not fit into a context of {most:,}; raise n_ctx")
    return request

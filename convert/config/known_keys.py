"""Every key of config.json that is known: read, without a meaning for the model, or possible with some values only.

A key that is not in these tables may change what the model computes, so that a conversion is refused until the user has
looked at it (`--ignore-config KEY`). To accept a new key, add it to the table that fits, with the reason.

Sources: transformers configuration_utils.py, configuration_qwen3_5.py, configuration_qwen3_5_moe.py and what the
modeling files read of them; configurations of published checkpoints and of what trains and quantizes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwen35_gguf.json_file import Kind, shown


def only(*values: Any) -> Kind[Any]:
    """Return the kind of these values. A number and a flag are not the same."""
    written = [json.dumps(value, sort_keys=True) for value in values]
    name = f"one of {', '.join(map(shown, values))}" if len(values) > 1 else shown(values[0])
    return Kind(name, lambda value: json.dumps(value, sort_keys=True) in written)


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ---- without a meaning for the model: the reason, and the keys ---------------------------------------------------

HARMLESS: Mapping[str, frozenset[str]] = {
    "who saved the file, and how": _keys("""
        transformers_version _name_or_path name_or_path _commit_hash auto_map model_name unsloth_version unsloth_fixed
        huggingface_version base_model license library_name transformers.js_config custom_pipelines
    """),
    "how a library runs the model": _keys("""
        attn_implementation _attn_implementation _attn_implementation_autoset _attn_implementation_internal
        _experts_implementation _experts_implementation_internal experts_implementation _flash_attn_2_enabled use_cache
        gradient_checkpointing use_bfloat16 torchscript tf_legacy_loss return_dict use_return_dict output_attentions
        _output_attentions output_hidden_states output_router_logits chunk_size_feed_forward tie_last_hidden_states
        keys_to_ignore_at_inference ignore_keys_at_rope_validation is_composition _post_init_done mamba_ssm_dtype
        prefill_chunk_size language_model_only
    """),
    "the type of the stored weights, which the files state": _keys("dtype torch_dtype"),
    "the size of the MTP head under another name; its tensors decide": _keys("num_nextn_predict_layers"),
    "training": _keys("""
        attention_dropout hidden_dropout hidden_dropout_prob attention_probs_dropout_prob resid_pdrop embd_pdrop
        dropout classifier_dropout initializer_range router_aux_loss_coef router_jitter_noise max_window_layers
    """),
    "a head for classification": _keys("""
        id2label label2id num_labels problem_type finetuning_task task_specific_params
    """),
    "the tokenizer and the processor have them in their own files": _keys("""
        tokenizer_class processor_class prefix image_token_id video_token_id vision_start_token_id vision_end_token_id
        vision_token_id image_token_index video_token_index
    """),
    "generation_config.json has them": _keys("""
        max_length max_new_tokens min_length min_new_tokens early_stopping max_time stop_strings do_sample num_beams
        use_mtp cache_implementation cache_config max_cache_len temperature top_k top_p min_p top_h typical_p
        epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty no_repeat_ngram_size
        bad_words_ids renormalize_logits forced_bos_token_id forced_eos_token_id remove_invalid_values
        exponential_decay_length_penalty suppress_tokens begin_suppress_tokens sequence_bias token_healing
        guidance_scale watermarking_config num_return_sequences output_scores output_logits return_dict_in_generate
        encoder_no_repeat_ngram_size decoder_start_token_id is_assistant num_assistant_tokens
        num_assistant_tokens_schedule assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size
        assistant_early_exit assistant_lookbehind target_lookbehind assistant_ensemble_weight speculation_type
        compile_config disable_compile continuous_batching_config low_memory penalty_alpha dola_layers
        diversity_penalty num_beam_groups constraints force_words_ids _from_model_config generation_config
    """),
}
HARMLESS_VISION: Mapping[str, frozenset[str]] = {
    "the number of positions and the patch size give it": _keys("image_size"),
    "entries of a text model, which older versions of transformers write into every part": _keys("""
        tie_word_embeddings bos_token_id eos_token_id pad_token_id sep_token_id
    """),
}

# ---- read by this package ----------------------------------------------------------------------------------------

READ = _keys("""
    architectures model_type text_config vision_config transformers_weights tie_word_embeddings quantization_config
    compression_config quantization vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    num_key_value_heads head_dim max_position_embeddings rms_norm_eps layer_types full_attention_interval
    linear_conv_kernel_dim linear_key_head_dim linear_value_head_dim linear_num_key_heads linear_num_value_heads
    moe_intermediate_size shared_expert_intermediate_size num_experts num_experts_per_tok mtp_num_hidden_layers
    rope_parameters rope_scaling rope_theta partial_rotary_factor original_max_position_embeddings
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id
""")
READ_ROPE = _keys("""
    rope_type type rope_theta partial_rotary_factor mrope_section mrope_interleaved factor beta_fast beta_slow
    original_max_position_embeddings attention_factor mscale mscale_all_dim truncate extrapolation_factor
""")
READ_VISION = _keys("""
    model_type architectures depth hidden_size intermediate_size num_heads out_hidden_size patch_size
    temporal_patch_size spatial_merge_size num_position_embeddings in_channels rope_parameters
""")

# ---- possible with some values only: those that the graph of llama.cpp computes ----------------------------------

LIMITED_EVERYWHERE: Mapping[str, Kind[Any]] = {  # of every configuration class
    "is_encoder_decoder": only(False),
    "is_decoder": only(False, True),
    "add_cross_attention": only(False),
    "tie_encoder_decoder": only(False),
    "pruned_heads": only({}),
    "per_layer_config": only({}),
}
LIMITED: Mapping[str, Kind[Any]] = {
    "hidden_act": only("silu", "swish"),
    "output_gate_type": only("swish", "silu"),  # of the delta nets; that of full attention is a sigmoid
    "attn_output_gate": only(True),
    "attention_bias": only(False),
    "mlp_bias": only(False),
    "mlp_only_layers": only([]),
    "decoder_sparse_step": only(1),
    "norm_topk_prob": only(True),
    "scoring_func": only("softmax"),
    "routed_scaling_factor": only(1, 1.0),
    "mtp_use_dedicated_embeddings": only(False),
    "use_sliding_window": only(False),
    "use_qk_norm": only(True),
    **LIMITED_EVERYWHERE,
}
LIMITED_VISION: Mapping[str, Kind[Any]] = {
    "hidden_act": only("gelu_pytorch_tanh"),
    "deepstack_visual_indexes": only([]),
    **LIMITED_EVERYWHERE,
}
LIMITED_VISION_ROPE: Mapping[str, Kind[Any]] = {
    "rope_type": only("axial", "default"),
    "type": only("axial", "default"),
    "rope_theta": only(10000, 10000.0),
}

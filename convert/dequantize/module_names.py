"""The names of tensors that belong to quantized modules: MODULE.ROLE, and MODULE_ROLE for stacked experts.

A stack of experts is a parameter without a module of its own: `experts.gate_up_proj`, whose scales are
`experts.gate_up_proj_scale_inv`, `_scale`, `_blocks` or, in MLX's names, `.scales`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

STACK = re.compile(r"^(?P<module>.*\bmlp\.experts\.(?:gate_up_proj|gate_proj|up_proj|down_proj))(?:[._](?P<role>.+))?$")
STATE = re.compile(r"^(?P<module>.+)\.weight\.quant_state\.bitsandbytes__(?P<type>\w+)$")
OF_WEIGHT = re.compile(r"^(?P<module>.+)\.weight\.(?P<role>absmax|quant_map|nested_absmax|nested_quant_map)$")
# What a stack calls the role of a tensor, where a module of its own calls it otherwise.
STACK_ROLES = {
    "scale_inv": "weight_scale_inv",
    "scale": "weight_scale",
    "scale_2": "weight_scale_2",
    "packed": "weight_packed",
}

# Scales of activations and of the KV cache, and what calibration leaves: llama.cpp computes with other types.
UNUSED = frozenset({
    "input_scale", "input_scale_ub", "input_global_scale", "input_zero_point", "output_scale", "output_zero_point",
    "activation_scale", "activation_scale_inv", "k_scale", "v_scale", "q_scale", "attn_q_scale", "prob_output_scale",
    "kv_scale", "k_zero_point", "v_zero_point",
})  # fmt: skip


class Role(NamedTuple):
    """A tensor's module, what it is in it, and whether the module is a stack of experts."""

    module: str
    role: str
    stack: bool = False


def role_of(name: str) -> Role:
    """Take the canonical name of a tensor apart."""
    if found := STACK.match(name):
        role = found["role"] or "weight"
        return Role(found["module"], STACK_ROLES.get(role, role), stack=True)
    if found := STATE.match(name):
        return Role(found["module"], "quant_state")
    if found := OF_WEIGHT.match(name):
        return Role(found["module"], found["role"])
    module, _, role = name.rpartition(".")
    return Role(module, role)


def weight_name(module: str) -> str:
    """Return the canonical name of the weights of a module: a stack of experts has no `.weight`."""
    return module if (found := STACK.match(module)) and not found["role"] else f"{module}.weight"

"""The formats that are read: one table, first match wins.

The tensors of a module and their dtypes decide which row it has, among the rows of the method that
config.json names. `docs/sources.md` lists the same rows with what each was compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from qwen35_gguf.convert.dequantize import bitsandbytes, fp4, gptq_awq, packed_integers, scaled
from qwen35_gguf.convert.dequantize.quantized_tensor import Layout, Module

Dtypes = tuple[str, ...]

FLOAT: Dtypes = ("F32", "BF16", "F16")
FLOAT8: Dtypes = ("F8_E4M3", "F8_E5M2")
EXPONENT: Dtypes = ("U8", "F8_E8M0")
WORD: Dtypes = ("I32", "U32")
ANY: Dtypes = ("U8", "I8", *WORD, *FLOAT)

COMPRESSED, MODELOPT, FP8, FBGEMM = "compressed-tensors", "modelopt", "fp8", "fbgemm_fp8"
GPTQ, AWQ, BITSANDBYTES, MXFP4, MLX = "gptq", "awq", "bitsandbytes", "mxfp4", "mlx"


@dataclass(frozen=True)
class Format:
    """One way to store weights.

    Attributes:
        title: for people.
        method: `quant_method` of config.json, or what stands for it.
        weight: the role of the tensor that holds the weights.
        dtypes: that it may have.
        needs: companions that must be there, and the dtypes that each may have.
        plan: reads a module.
        may: companions that may be there.
        marker: the role whose dtype tells this row from another with the same weights, and the dtypes that mean this.

    """

    title: str
    method: str
    weight: str
    dtypes: Dtypes
    needs: Mapping[str, Dtypes]
    plan: Callable[[Module], Layout]
    may: Mapping[str, Dtypes] = field(default_factory=dict)
    marker: tuple[str, Dtypes] | None = None


PRE_QUANT = {"pre_quant_scale": FLOAT}
SCALED = {"weight_scale": (*FLOAT, *EXPONENT)}
nvfp4_divided = partial(fp4.plan_nvfp4, weight="weight_packed", total="weight_global_scale", divide=True)
nvfp4_multiplied = partial(fp4.plan_nvfp4, weight="weight", total="weight_scale_2", divide=False)

FORMATS: tuple[Format, ...] = (
    Format(
        "NVFP4 (compressed-tensors)", COMPRESSED, "weight_packed", ("U8",),
        {"weight_scale": ("F8_E4M3",), "weight_global_scale": FLOAT}, nvfp4_divided,
        marker=("weight_scale", ("F8_E4M3", *FLOAT)),
    ),
    Format(
        "MXFP4 (compressed-tensors)", COMPRESSED, "weight_packed", ("U8",), {"weight_scale": EXPONENT},
        partial(fp4.plan_mxfp4, weight="weight_packed", scale="weight_scale"),
    ),
    Format(
        "packed integers (compressed-tensors)", COMPRESSED, "weight_packed", WORD,
        {"weight_scale": FLOAT, "weight_shape": ("I64", "I32")}, packed_integers.plan_compressed,
        may={"weight_zero_point": ("I32", "I8"), "weight_g_idx": ("I32", "I64")},
    ),
    Format(
        "FP8 (compressed-tensors)", COMPRESSED, "weight", FLOAT8, SCALED, scaled.plan,
        may={"weight_zero_point": (*FLOAT8, *FLOAT, "I8")},
    ),
    Format(
        "INT8 (compressed-tensors)", COMPRESSED, "weight", ("I8",), {"weight_scale": FLOAT}, scaled.plan,
        may={"weight_zero_point": ("I8", "I32", *FLOAT), "weight_g_idx": ("I32", "I64")},
    ),
    Format(
        "NVFP4 (ModelOpt)", MODELOPT, "weight", ("U8",), {"weight_scale": ("F8_E4M3",), "weight_scale_2": FLOAT},
        nvfp4_multiplied, may=PRE_QUANT, marker=("weight_scale", ("F8_E4M3",)),
    ),
    Format(
        "MXFP4 (ModelOpt)", MODELOPT, "weight", ("U8",), {"weight_scale": EXPONENT},
        partial(fp4.plan_mxfp4, weight="weight", scale="weight_scale"), may=PRE_QUANT,
        marker=("weight_scale", EXPONENT),
    ),
    Format(
        "INT4 (ModelOpt)", MODELOPT, "weight", ("U8",), {"weight_scale": FLOAT}, packed_integers.plan_modelopt_int4,
        may=PRE_QUANT,
    ),
    Format("FP8 (ModelOpt)", MODELOPT, "weight", FLOAT8, SCALED, scaled.plan, may=PRE_QUANT),
    Format("INT8 (ModelOpt)", MODELOPT, "weight", ("I8",), {"weight_scale": FLOAT}, scaled.plan, may=PRE_QUANT),
    Format(
        "FP8", FP8, "weight", FLOAT8, SCALED, scaled.plan, marker=("weight_scale", (*FLOAT, *EXPONENT)),
    ),
    Format(
        "FP8 blocks", FP8, "weight", FLOAT8, {"weight_scale_inv": (*FLOAT, *EXPONENT)},
        partial(scaled.plan, scale="weight_scale_inv"),
    ),
    Format("FP8 (FBGEMM)", FBGEMM, "weight", FLOAT8, {"weight_scale": FLOAT}, scaled.plan),
    Format(
        "GPTQ", GPTQ, "qweight", WORD, {"qzeros": WORD, "scales": FLOAT}, gptq_awq.plan_gptq,
        may={"g_idx": ("I32", "I64")},
    ),
    Format("AWQ", AWQ, "qweight", WORD, {"qzeros": WORD, "scales": FLOAT}, gptq_awq.plan_awq),
    Format(
        "NF4 or FP4 (bitsandbytes)", BITSANDBYTES, "weight", ANY,
        {"absmax": ("U8", *FLOAT), "quant_map": FLOAT, "quant_state": ("U8",)}, bitsandbytes.plan,
        may={"nested_absmax": FLOAT, "nested_quant_map": FLOAT}, marker=("quant_state", ("U8",)),
    ),
    Format(
        "INT8 (bitsandbytes)", BITSANDBYTES, "weight", ("I8",), {"SCB": FLOAT}, scaled.plan_int8,
        may={"weight_format": ("U8",)},
    ),
    Format(
        "NF4 or FP4 (bitsandbytes)", BITSANDBYTES, "weight", ("U8",),
        {"absmax": ("U8", *FLOAT), "quant_map": FLOAT, "quant_state": ("U8",)}, bitsandbytes.plan,
        may={"nested_absmax": FLOAT, "nested_quant_map": FLOAT},
    ),
    Format(
        "MXFP4", MXFP4, "blocks", ("U8",), {"scales": EXPONENT},
        partial(fp4.plan_mxfp4, weight="blocks", scale="scales"),
    ),
    Format(
        "MXFP4 (MLX)", MLX, "weight", ("U32",), {"scales": ("U8",)},
        partial(fp4.plan_mxfp4, weight="weight", scale="scales"), marker=("mode", ("mxfp4",)),
    ),
    Format(
        "NVFP4 (MLX)", MLX, "weight", ("U32",), {"scales": ("U8",)}, fp4.plan_mlx_nvfp4, marker=("mode", ("nvfp4",)),
    ),
    Format("affine (MLX)", MLX, "weight", ("U32",), {"scales": FLOAT, "biases": FLOAT}, packed_integers.plan_mlx),
)  # fmt: skip

TITLES: dict[str, str] = {
    COMPRESSED: "compressed-tensors", MODELOPT: "ModelOpt", FP8: "FP8 in blocks", FBGEMM: "FBGEMM FP8", GPTQ: "GPTQ",
    AWQ: "AWQ", BITSANDBYTES: "bitsandbytes", MXFP4: "MXFP4", MLX: "MLX",
}  # fmt: skip
WEIGHTS = frozenset(row.weight for row in FORMATS)

"""Record what GPTQModel, AutoAWQ, ModelOpt and mlx dequantize, for tests that run without them.

These libraries cannot be dependencies of the tests: they need a compiler, a GPU, or another version of torch. Each file
holds the tensors of a few modules as they are stored, and the F32 weights that the library makes of them.

    pip install gptqmodel==7.7.0 nvidia-modelopt==0.47.0 mlx[cpu]==0.32.4 && pip download --no-deps autoawq==0.2.9
    python tests/oracles/dequantized/record.py AUTOAWQ_SOURCES
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor as Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from inputs import quantized, saved_tensors

HERE = Path(__file__).parent
ROWS, COLUMNS = 64, 128
SEED = 7


def stored(case: str) -> dict[str, np.ndarray]:
    return quantized.CASES[case].store(np.random.default_rng(SEED), ROWS, COLUMNS)


def by_torch(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).contiguous().numpy()


def gptq(case: str) -> np.ndarray:
    config, tensors = quantized.CASES[case].config, stored(case)
    layer = TorchLinear(
        bits=config["bits"], group_size=config["group_size"], sym=False, desc_act=config["desc_act"],
        in_features=COLUMNS, out_features=ROWS, bias=False, pack_dtype=torch.int32, register_buffers=True,
    )  # fmt: skip
    for role, values in tensors.items():
        getattr(layer, role).data = torch.from_numpy(values.copy())
    layer.scales.data = layer.scales.data.float()
    layer.post_init()
    if config.get("checkpoint_format") != "gptq_v2":
        convert_gptq_v1_to_v2_format_module(layer, config["bits"], torch.int32)
    return by_torch(layer.dequantize_weight().T)


def awq(case: str, sources: Path) -> np.ndarray:
    spec = importlib.util.spec_from_file_location("packing", sources / "awq/utils/packing_utils.py")
    packing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packing)
    tensors = {role: torch.from_numpy(values.copy()) for role, values in stored(case).items()}
    scales = tensors["scales"].float()
    return by_torch(packing.dequantize_gemm(tensors["qweight"], tensors["qzeros"], scales, 4, quantized.GROUP).T)


def nvfp4(case: str) -> np.ndarray:
    tensors = stored(case)
    held = Tensor((ROWS, COLUMNS), torch.float32, torch.from_numpy(tensors["weight"]))
    scale = torch.from_numpy(tensors["weight_scale"].view(np.uint8)).view(torch.float8_e4m3fn)
    double = torch.from_numpy(tensors["weight_scale_2"])
    return by_torch(
        NVFP4QTensor.dequantize(held, torch.float32, scale=scale, double_scale=double, block_sizes={-1: 16})
    )


def mlx(case: str) -> np.ndarray:
    config, tensors = quantized.CASES[case].config, stored(case)
    mode = config.get("mode", "affine")
    scales = tensors["scales"]
    given = [mx.array(tensors["weight"])]
    given.append(mx.array(scales.astype(np.float32)) if mode == "affine" else mx.array(scales))
    if mode == "affine":
        given.append(mx.array(tensors["biases"].astype(np.float32)))
    found = mx.dequantize(*given, group_size=config["group_size"], bits=config["bits"], mode=mode)
    return np.array(found.astype(mx.float32))


def main() -> None:
    for case in quantized.CASES:
        if case.startswith("GPTQ"):
            expected = gptq(case)
        elif case == "AWQ":
            expected = awq(case, Path(sys.argv[1]))
        elif case == "ModelOpt NVFP4":
            expected = nvfp4(case)
        elif case.startswith("MLX"):
            expected = mlx(case)
        else:
            continue
        name = case.lower().replace(",", "").replace(" ", "-")
        saved_tensors.write(HERE / f"{name}.safetensors", stored(case) | {"expected": expected.astype(np.float32)})


if __name__ == "__main__":
    main()

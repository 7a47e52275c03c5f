// Python bindings of the matmul of quantized weights, for tests and benchmarks; llama.cpp calls the kernels itself.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "../simd/aligned_bytes.h"
#include "../simd/find_target.h"
#include "quantized_matmul.h"

namespace nb = nanobind;

namespace {

template <class T>
using Array = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

quantized_matmul::Format find_format(const std::string& name) {
    for (const quantized_matmul::FormatRow& row : quantized_matmul::format_table) {
        if (name == row.name) return row.format;
    }
    throw std::invalid_argument("format " + name + " has no kernels");
}

// Those that llama.cpp may use: "portable" is a reference.
std::vector<std::string> target_names() {
    std::vector<std::string> names = simd::supported_names(quantized_matmul::targets());
    names.erase(std::remove(names.begin(), names.end(), "portable"), names.end());
    return names;
}

// weights: rows x bytes; x: columns x k; out: columns x rows.
void mul_mat(const Array<const std::uint8_t>& weights, const std::string& format_name, const Array<const float>& x,
             const Array<float>& out, const std::string& target_name) {
    const quantized_matmul::Target& target = simd::find_target(quantized_matmul::targets(), target_name);
    const quantized_matmul::Format format = find_format(format_name);
    const std::size_t columns = x.shape(0), rows = weights.shape(0);
    const auto k = static_cast<std::int64_t>(x.shape(1));
    if (k % quantized_matmul::row_of(format).block != 0 || weights.shape(1) != quantized_matmul::row_bytes(format, k)) {
        throw std::invalid_argument("weights: rows do not have as many values as x");
    }
    if (out.shape(0) != columns || out.shape(1) != rows) throw std::invalid_argument("out: not columns x rows");
    const std::size_t bytes = quantized_matmul::column_bytes(format, k);
    const simd::AlignedBytes quantized = simd::aligned_bytes(columns * bytes + 1);
    const simd::AlignedBytes scratch = simd::aligned_bytes(target.scratch_bytes);
    std::vector<const std::uint8_t*> from(columns);
    std::vector<float*> to(columns);
    for (std::size_t c = 0; c < columns; ++c) {
        from[c] = quantized.get() + c * bytes;
        to[c] = out.data() + c * rows;
    }
    nb::gil_scoped_release unlocked;
    for (std::size_t c = 0; c < columns; ++c) {
        const float* const column = x.data() + c * static_cast<std::size_t>(k);
        target.quantize(format, k, column, 0, quantized_matmul::column_blocks(k), quantized.get() + c * bytes);
    }
    target.multiply({format, k, weights.data(), weights.shape(1), static_cast<std::int64_t>(rows), from.data(),
                     to.data(), static_cast<std::int64_t>(columns), scratch.get()});
}

}  // namespace

void bind_quantized_matmul(nb::module_& m) {
    m.def("mul_mat_targets", &target_names);
    m.def("mul_mat", &mul_mat, nb::arg("weights"), nb::arg("format"), nb::arg("x"), nb::arg("out"), nb::arg("target"));
}

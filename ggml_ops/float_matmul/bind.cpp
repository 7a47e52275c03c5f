// Python bindings of the matmul of floating-point weights, for tests and benchmarks; llama.cpp calls the kernels
// itself.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "../simd/aligned_bytes.h"
#include "../simd/find_target.h"
#include "float_matmul.h"

namespace nb = nanobind;

namespace {

template <class T>
using Array = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

float_matmul::Format find_format(const std::string& name) {
    if (name == "F32") return float_matmul::Format::f32;
    if (name == "F16") return float_matmul::Format::f16;
    if (name == "BF16") return float_matmul::Format::bf16;
    throw std::invalid_argument("format " + name + " has no kernels");
}

std::vector<std::string> target_names() { return simd::supported_names(float_matmul::targets()); }

// weights: rows x bytes; x: columns x k; out: columns x rows.
void mul_mat(const Array<const std::uint8_t>& weights, const std::string& format_name, const Array<const float>& x,
             const Array<float>& out, const std::string& target_name) {
    const float_matmul::Target& target = simd::find_target(float_matmul::targets(), target_name);
    const float_matmul::Format format = find_format(format_name);
    const std::size_t columns = x.shape(0), rows = weights.shape(0), k = x.shape(1);
    if (weights.shape(1) != k * float_matmul::weight_bytes(format)) {
        throw std::invalid_argument("weights: rows do not have as many values as x");
    }
    if (out.shape(0) != columns || out.shape(1) != rows) throw std::invalid_argument("out: not columns x rows");
    const auto values = static_cast<std::int64_t>(k);
    const std::size_t bytes = target.column_bytes(format, values);
    const simd::AlignedBytes converted = simd::aligned_bytes(columns * bytes + 1);
    const simd::AlignedBytes scratch = simd::aligned_bytes(target.scratch_bytes);
    std::vector<float*> to(columns);
    for (std::size_t c = 0; c < columns; ++c) to[c] = out.data() + c * rows;
    nb::gil_scoped_release unlocked;
    const std::int64_t pieces = (values + float_matmul::convert_values - 1) / float_matmul::convert_values;
    for (std::size_t c = 0; c < columns; ++c) {
        target.convert(format, values, x.data() + c * k, 0, pieces, converted.get() + c * bytes);
    }
    target.multiply({format, values, weights.data(), weights.shape(1), static_cast<std::int64_t>(rows), converted.get(),
                     to.data(), static_cast<std::int64_t>(columns), scratch.get()});
}

// Changes out in place; bias and summand are as long as out.
void finish(const Vector<float>& out, const Vector<const float>& bias, const Vector<const float>& summand, bool gelu,
            const std::string& target_name) {
    const float_matmul::Target& target = simd::find_target(float_matmul::targets(), target_name);
    if (bias.shape(0) != out.shape(0) || summand.shape(0) != out.shape(0)) {
        throw std::invalid_argument("bias, summand: not as long as out");
    }
    target.finish({out.data(), bias.data(), summand.data(), gelu, static_cast<std::int64_t>(out.shape(0))});
}

}  // namespace

void bind_float_matmul(nb::module_& m) {
    m.def("float_mul_mat_targets", &target_names);
    m.def("float_mul_mat", &mul_mat, nb::arg("weights"), nb::arg("format"), nb::arg("x"), nb::arg("out"),
          nb::arg("target"));
    m.def("finish_mul_mat", &finish, nb::arg("out"), nb::arg("bias"), nb::arg("summand"), nb::arg("gelu"),
          nb::arg("target"));
}

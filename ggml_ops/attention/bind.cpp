// Python binding of attention. attention_op.py checks shapes.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../simd/aligned_bytes.h"
#include "../simd/find_target.h"
#include "../simd/threads.h"
#include "problem.h"

namespace nb = nanobind;

namespace {

template <class Element, int Dimensions>
using Array = nb::ndarray<Element, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;

attention::Type find_type(const std::string& name) {
    if (name == "f32") return attention::Type::f32;
    if (name == "f16") return attention::Type::f16;
    if (name == "bf16") return attention::Type::bf16;
    if (name == "q8_0") return attention::Type::q8_0;
    if (name == "q4_0") return attention::Type::q4_0;
    throw std::invalid_argument("cache type " + name + " has no kernels");
}

std::vector<std::string> target_names() { return simd::supported_names(attention::targets()); }

// Positions x heads x bytes of a row.
attention::CacheTensor cache_of(const Array<const std::uint8_t, 3>& x, const std::string& type, std::int64_t size) {
    attention::CacheTensor cache{};
    cache.type = find_type(type);
    cache.size = size;
    cache.rows = x.data();
    cache.head_step = static_cast<std::int64_t>(x.shape(2));
    cache.position_step = cache.head_step * static_cast<std::int64_t>(x.shape(1));
    if (x.shape(2) != attention::row_bytes(cache.type, size)) throw std::invalid_argument("cache: wrong row size");
    return cache;
}

// q, out: tokens x query heads x size; mask: tokens x positions, FP16.
void attend(const Array<const float, 3>& q, const Array<const std::uint8_t, 3>& k, const std::string& k_type,
            const Array<const std::uint8_t, 3>& v, const std::string& v_type,
            const std::optional<Array<const std::uint16_t, 2>>& mask,
            const std::optional<Array<const float, 1>>& slopes, const std::optional<Array<const float, 1>>& sinks,
            float scale, float softcap, const Array<float, 3>& out, int threads, const std::string& target_name) {
    const attention::Target& target = simd::find_target(attention::targets(), target_name);
    const auto size = [](std::size_t n) { return static_cast<std::int64_t>(n); };
    attention::Problem problem{};
    problem.streams = 1;
    problem.tokens = size(q.shape(0));
    problem.cache_heads = size(k.shape(1));
    problem.group = size(q.shape(1)) / problem.cache_heads;
    problem.positions = size(k.shape(0));
    problem.q = {q.data(), size(q.shape(1) * q.shape(2)), size(q.shape(2)), 0};
    problem.k = cache_of(k, k_type, size(q.shape(2)));
    problem.v = cache_of(v, v_type, size(out.shape(2)));
    if (mask) problem.mask = {mask->data(), size(mask->shape(1)), 0, 0};
    if (slopes) problem.slopes = slopes->data();
    if (sinks) problem.sinks = sinks->data();
    problem.scale = scale;
    problem.softcap = softcap;
    problem.out = {out.data(), size(out.shape(1) * out.shape(2)), size(out.shape(2)), 0};

    const attention::Plan plan(target, problem, threads);
    const std::size_t bytes = plan.shared_bytes + static_cast<std::size_t>(threads) * plan.thread_bytes;
    const simd::AlignedBytes work = simd::aligned_bytes(bytes);
    std::atomic<std::int64_t> next{0};
    std::atomic<int> started{0};
    nb::gil_scoped_release unlocked;
    simd::run_in_threads(threads, plan.units, [&] {
        const int thread = started++;
        for (std::int64_t unit = next++; unit < plan.units; unit = next++) {
            attention::attend_unit(target, problem, plan, unit, thread, work.get());
        }
    });
    for (std::int64_t item = 0; plan.parts > 1 && item < plan.items; ++item) {
        attention::finish_item(target, problem, plan, item, work.get());
    }
}

}  // namespace

void bind_attention(nb::module_& m) {
    m.def("attention_targets", &target_names);
    m.def("attention", &attend, nb::arg("q"), nb::arg("k"), nb::arg("k_type"), nb::arg("v"), nb::arg("v_type"),
          nb::arg("mask").none(), nb::arg("slopes").none(), nb::arg("sinks").none(), nb::arg("scale"),
          nb::arg("softcap"), nb::arg("out"), nb::arg("threads"), nb::arg("target"));
}

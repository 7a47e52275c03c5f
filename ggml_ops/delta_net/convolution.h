// A causal convolution along the tokens, depthwise (each channel has its own kernel), and SiLU. Channels are in the
// lanes; the inputs before the first token are read from the state, and the last inputs are written back to it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../simd/exponential.h"
#include "delta_net.h"

namespace delta_net::SIMD_TARGET {
namespace {

using namespace simd;

inline F silu(F a) { return a / (set(1.F) + exponential(-a)); }

// Tokens are kilobytes apart, too far for the hardware prefetcher.
constexpr int tokens_to_prefetch = 16;

// `count` channels from `channel` on, at most Vectors * lanes of them; the lanes beyond are filled with zeros.
template <int KernelSize, int Vectors>
void convolve(const Convolution& job, std::int64_t channel, std::int64_t count) {
    constexpr int width = Vectors * lanes;
    constexpr int past = KernelSize - 1;
    alignas(64) float buffer[KernelSize][width] = {};
    const auto vector = [&](int row, int v) { return load(buffer[row] + v * lanes); };
    F w[KernelSize][Vectors], h[past + 1][Vectors];
    for (std::int64_t c = 0; c < count; ++c) {
        for (int j = 0; j < KernelSize; ++j) buffer[j][c] = job.weight[(channel + c) * KernelSize + j];
    }
    for (int j = 0; j < KernelSize; ++j) {
        for (int v = 0; v < Vectors; ++v) w[j][v] = vector(j, v);
    }
    for (std::int64_t c = 0; c < count; ++c) {
        for (int j = 0; j < past; ++j) buffer[j][c] = job.state[(channel + c) * past + j];
    }
    for (int j = 0; j < past; ++j) {
        for (int v = 0; v < Vectors; ++v) h[j][v] = vector(j, v);
    }
    for (std::int64_t t = 0; t < job.tokens; ++t) {
        const float* x = job.x + t * job.x_step + channel;
        float* out = job.out + t * job.out_step + channel;
        for (int c = 0; c < width; c += floats_per_line) {
            prefetch(x + tokens_to_prefetch * job.x_step + c);
            prefetch_to_change(out + tokens_to_prefetch * job.out_step + c);
        }
        if (count < width) {
            std::copy_n(x, count, buffer[0]);
            x = buffer[0];
        }
        for (int v = 0; v < Vectors; ++v) {
            h[past][v] = load(x + v * lanes);
            F total = w[0][v] * h[0][v];
            for (int j = 1; j < KernelSize; ++j) total = fma(w[j][v], h[j][v], total);
            const F result = silu(total);
            if (count == width) store(out + v * lanes, result);
            else store(buffer[0] + v * lanes, result);
        }
        if (count < width) std::copy_n(buffer[0], count, out);
        for (int j = 0; j < past; ++j) {
            for (int v = 0; v < Vectors; ++v) h[j][v] = h[j + 1][v];
        }
    }
    for (int j = 0; j < past; ++j) {
        for (int v = 0; v < Vectors; ++v) store(buffer[j] + v * lanes, h[j][v]);
    }
    for (std::int64_t c = 0; c < count; ++c) {
        for (int j = 0; j < past; ++j) job.new_state[(channel + c) * past + j] = buffer[j][c];
    }
}

template <int KernelSize>
void convolve_all(const Convolution& job) {
    constexpr int vectors = 2;
    const std::int64_t end = job.first_channel + job.channels;
    for (std::int64_t channel = job.first_channel; channel < end; channel += vectors * lanes) {
        convolve<KernelSize, vectors>(job, channel, std::min<std::int64_t>(vectors * lanes, end - channel));
    }
}

inline void causal_conv1d_silu(const Convolution& job) {
    switch (job.kernel_size) {
        case 2: return convolve_all<2>(job);
        case 3: return convolve_all<3>(job);
        case 4: return convolve_all<4>(job);
        case 5: return convolve_all<5>(job);
        case 6: return convolve_all<6>(job);
        case 7: return convolve_all<7>(job);
        case 8: return convolve_all<8>(job);
        default: return;  // callers reject other sizes
    }
}

}  // namespace
}  // namespace delta_net::SIMD_TARGET

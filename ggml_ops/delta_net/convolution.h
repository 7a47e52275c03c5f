// A causal convolution along the tokens, each channel with its own taps, and SiLU. Channels lie in the lanes; the inputs
// before the first token are read from the state where it lies, and the last ones written back to it.

inline F silu(F a) { return a / (set(1.F) + exponential(-a)); }

// Tokens lie kilobytes apart, which no processor sees coming.
constexpr int convolution_ahead = 16;

// `count` channels from `channel` on, at most Vectors * lanes of them; the lanes beyond are filled with zeros.
template <int Taps, int Vectors>
void convolve(const Convolution& job, std::int64_t channel, std::int64_t count) {
    constexpr int width = Vectors * lanes;
    constexpr int past = Taps - 1;
    alignas(64) float buffer[Taps][width] = {};
    const auto vector = [&](int row, int v) { return load(buffer[row] + v * lanes); };
    F w[Taps][Vectors], h[past + 1][Vectors];
    for (std::int64_t c = 0; c < count; ++c) {
        for (int tap = 0; tap < Taps; ++tap) buffer[tap][c] = job.weight[(channel + c) * Taps + tap];
    }
    for (int tap = 0; tap < Taps; ++tap) {
        for (int v = 0; v < Vectors; ++v) w[tap][v] = vector(tap, v);
    }
    for (std::int64_t c = 0; c < count; ++c) {
        for (int tap = 0; tap < past; ++tap) buffer[tap][c] = job.state[(channel + c) * past + tap];
    }
    for (int tap = 0; tap < past; ++tap) {
        for (int v = 0; v < Vectors; ++v) h[tap][v] = vector(tap, v);
    }
    for (std::int64_t t = 0; t < job.tokens; ++t) {
        const float* x = job.x + t * job.x_step + channel;
        float* out = job.out + t * job.out_step + channel;
        for (int c = 0; c < width; c += line) {
            prefetch(x + convolution_ahead * job.x_step + c);
            prefetch_to_change(out + convolution_ahead * job.out_step + c);
        }
        if (count < width) {
            std::copy_n(x, count, buffer[0]);
            x = buffer[0];
        }
        for (int v = 0; v < Vectors; ++v) {
            h[past][v] = load(x + v * lanes);
            F total = w[0][v] * h[0][v];
            for (int tap = 1; tap < Taps; ++tap) total = fma(w[tap][v], h[tap][v], total);
            const F result = silu(total);
            if (count == width) store(out + v * lanes, result);
            else store(buffer[0] + v * lanes, result);
        }
        if (count < width) std::copy_n(buffer[0], count, out);
        for (int tap = 0; tap < past; ++tap) {
            for (int v = 0; v < Vectors; ++v) h[tap][v] = h[tap + 1][v];
        }
    }
    for (int tap = 0; tap < past; ++tap) {
        for (int v = 0; v < Vectors; ++v) store(buffer[tap] + v * lanes, h[tap][v]);
    }
    for (std::int64_t c = 0; c < count; ++c) {
        for (int tap = 0; tap < past; ++tap) job.new_state[(channel + c) * past + tap] = buffer[tap][c];
    }
}

template <int Taps>
void convolve_all(const Convolution& job) {
    constexpr int vectors = 2;
    const std::int64_t end = job.first_channel + job.channels;
    for (std::int64_t channel = job.first_channel; channel < end; channel += vectors * lanes) {
        convolve<Taps, vectors>(job, channel, std::min<std::int64_t>(vectors * lanes, end - channel));
    }
}

inline void causal_conv1d_silu(const Convolution& job) {
    switch (job.kernel) {
        case 2: return convolve_all<2>(job);
        case 3: return convolve_all<3>(job);
        case 4: return convolve_all<4>(job);
        case 5: return convolve_all<5>(job);
        case 6: return convolve_all<6>(job);
        case 7: return convolve_all<7>(job);
        case 8: return convolve_all<8>(job);
        default: return;  // callers refuse others
    }
}

// NF4, the four-bit type of QLoRA (arXiv 2305.14314, 3 and appendix E): a block of 64 numbers is its largest magnitude and,
// for each number divided by that, the nearest of 16 levels. The levels are quantiles of the normal distribution: seven
// below zero, zero, eight above, scaled to [-1, 1]. Shared by the CPU and CUDA kernels.
//
// Levels are those of bitsandbytes to the bit; so are the thresholds, the mid-points of neighbours rounded to f32, and the order
// of the halves of a byte. We divide by the magnitude, where its CUDA kernel multiplies by a rounded reciprocal: numbers
// within a rounding of a threshold may get the neighbouring code there. A block of zeros has the level 0 everywhere.
#pragma once
#include <cstdint>

namespace ws {

constexpr int64_t nf4_block = 64;         // elements that share an absmax
constexpr int64_t blockwise_block = 256;  // elements of dequantize_blockwise that share an absmax

constexpr float nf4_levels[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

/// The code of x is how many of these it exceeds.
constexpr float nf4_threshold(int i) { return (nf4_levels[i] + nf4_levels[i + 1]) * 0.5f; }

}  // namespace ws

// How weights lie in memory, and how rows of inputs are laid out to meet them.
#pragma once

#include <cmath>

#include "vectors.h"

constexpr int64_t BLOCK = 2 * LANES;  // columns that are read together, as two vectors
constexpr int64_t GROUP = 32;         // int4 weights that share a scale
#ifdef __AVX512F__
constexpr int64_t ROWS = 16;  // whose inputs lie together: a block of columns of each, then the next block
#else
constexpr int64_t ROWS = 2;
#endif
constexpr float ZERO_POINT = 128.0f;
constexpr float BYTE_LIMIT = 127.0f;
constexpr float SMALLEST = 1e-12f;  // keeps the step of an all-zero row from dividing by zero

enum Kind : int32_t { FLOAT32, BFLOAT16, INT4, INT8, INT8_FINE };

// How weights lie, and what makes two vectors of them. Inputs lie so that they meet: see `prepare`.

struct Float32 {
    static constexpr Kind kind = FLOAT32;
    const float* weights;
    int64_t n_in;
    Float32(const void* weights, const void*, int64_t n_in) : weights((const float*)weights), n_in(n_in) {}
    void prefetch(int64_t out, int64_t column) const {
        const char* from = (const char*)(weights + out * n_in + column);
        __builtin_prefetch(from, 0, 2);
        __builtin_prefetch(from + 64, 0, 2);
    }
    [[gnu::always_inline]] Pair at(int64_t out, int64_t column) const {
        const float* from = weights + out * n_in + column;
        return {load<Floats>(from), load<Floats>(from + LANES)};
    }
    float one(int64_t out, int64_t column) const { return weights[out * n_in + column]; }
};

struct BFloat16 {
    static constexpr Kind kind = BFLOAT16;
    const uint16_t* weights;
    int64_t n_in;
    BFloat16(const void* weights, const void*, int64_t n_in) : weights((const uint16_t*)weights), n_in(n_in) {}
    void prefetch(int64_t out, int64_t column) const { __builtin_prefetch(weights + out * n_in + column, 0, 2); }
    [[gnu::always_inline]] Pair at(int64_t out, int64_t column) const {
        Words two = load<Words>(weights + out * n_in + column);
        return {(Floats)(two << 16), (Floats)(two & 0xffff0000u)};
    }
    float one(int64_t out, int64_t column) const { return widen(weights[out * n_in + column]); }
};

// 16 levels; byte k of a group holds column k in its lower half and column k + 16 in its upper one.
struct Int4 {
    static constexpr Kind kind = INT4;
    const uint8_t* weights;
    const uint16_t* scales;  // of each group the size of a step, and what level 8 means
    int64_t n_in;
    Int4(const void* weights, const void* scales, int64_t n_in)
        : weights((const uint8_t*)weights), scales((const uint16_t*)scales), n_in(n_in) {}
    void prefetch(int64_t out, int64_t column) const {
        if (column % (4 * GROUP)) return;
        __builtin_prefetch(weights + (out * n_in + column) / 2, 0, 2);
    }
    [[gnu::always_inline]] Pair at(int64_t out, int64_t column) const {
        int64_t group = (out * n_in + column) / GROUP;
        Words both = widen(load<Nibbles>(weights + group * LANES));
        Words scale = Words{} + load<uint32_t>(scales + 2 * group);
        Floats step = (Floats)(scale << 16), middle = (Floats)(scale & 0xffff0000u);
        return {level(both) * step + middle, level(both >> 4) * step + middle};
    }
    float one(int64_t, int64_t) const { return 0; }  // rows are whole groups
};

struct Matrix {
    const void* weights;  // (n_out, n_in)
    const void* scales;   // of int8: float32 (n_out,); of int4: bfloat16 (n_out, n_in / GROUP, 2)
    const int32_t* sums;  // of int8: of each row's weights
    int64_t n_out, n_in;
    int32_t kind;
};

// Rows are in as few groups as may be, all of about the same height.
inline int64_t groups_of(int64_t n_rows) { return (n_rows + ROWS - 1) / ROWS; }
inline int64_t first_row(int64_t group, int64_t n_rows) { return n_rows * group / groups_of(n_rows); }
inline int64_t group_of(int64_t row, int64_t n_rows) { return ((row + 1) * groups_of(n_rows) - 1) / n_rows; }

// Rows as a product wants them: floats in the order of the weights, or bytes with the size of their steps.
struct Inputs {
    float* floats;   // of each group (n_in / BLOCK, rows, BLOCK), then what lies behind the last block, by rows
    uint8_t* bytes;  // (digits · rows, n_in)
    float* steps;    // (digits · rows,)
};

inline int64_t digits_of(int32_t kind) { return kind == INT8_FINE ? 2 : 1; }
inline bool is_bytes(int32_t kind) { return kind >= INT8; }

// The largest magnitude; NaN if any is NaN.
inline float largest_of(const float* x, int64_t n) {
    Words most = {};  // positive floats are ordered as their bits are, NaN above all
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        Words some = load<Words>(x + i) & 0x7fffffffu;
        most = some > most ? some : most;
    }
    uint32_t largest = 0;
    for (int lane = 0; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
    for (; i < n; i++) {
        uint32_t one = load<uint32_t>(x + i) & 0x7fffffffu;
        largest = one > largest ? one : largest;
    }
    return load<float>(&largest);
}

// Puts a row of inputs where a product with weights of that kind looks for it.
inline void prepare(int32_t kind, const float* x, int64_t n_in, int64_t row, int64_t n_rows, const Inputs& in) {
    if (is_bytes(kind)) {
        float* rest = in.floats + row * n_in;
        for (int64_t digit = 0; digit < digits_of(kind); digit++, x = rest) {
            float largest = largest_of(x, n_in);
            float step = (largest < SMALLEST ? SMALLEST : largest) / BYTE_LIMIT;
            uint8_t* into = in.bytes + (digit * n_rows + row) * n_in;
            for (int64_t i = 0; i < n_in; i++) into[i] = uint8_t(int32_t(x[i] / step + (ZERO_POINT + 0.5f)));
            in.steps[digit * n_rows + row] = step;
            if (digit + 1 == digits_of(kind)) break;
            for (int64_t i = 0; i < n_in; i++) rest[i] = x[i] - step * (float(into[i]) - ZERO_POINT);
        }
        return;
    }
    const int64_t group = group_of(row, n_rows), first = first_row(group, n_rows), place = row - first;
    const int64_t rows = first_row(group + 1, n_rows) - first, whole = n_in / BLOCK * BLOCK;
    float* const of_group = in.floats + first * n_in;
    for (int64_t i = 0; i < whole; i += BLOCK) {
        Pair both = {load<Floats>(x + i), load<Floats>(x + i + LANES)};
        if (kind == BFLOAT16)
            both = {pick(both.first, both.second, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                    pick(both.first, both.second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)};
        memcpy(of_group + i * rows + place * BLOCK, &both, sizeof both);
    }
    float* const behind = of_group + whole * rows + place * (n_in - whole);
    memcpy(behind, x + whole, (n_in - whole) * sizeof *x);
}

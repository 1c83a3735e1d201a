// Arithmetic on sixteen numbers at a time.
#pragma once

#include "target.h"

template <class Vector, class Value>
inline Vector load(const Value* from) {
    Vector loaded;
    memcpy(&loaded, from, sizeof loaded);
    return loaded;
}

template <class Vector>
inline auto total(Vector v) {
    v += pick(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    v += pick(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    v += pick(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return v[0] + v[1];
}

// Up to sixteen totals in one vector, each added up in the order of `total`: halves meet halves of their neighbours.
template <int N, class Vector>
inline Vector totals(Vector (&v)[N]) {
    constexpr int PAIRS = (N + 1) / 2, FOURS = (N + 3) / 4, EIGHTS = (N + 7) / 8;
    const auto beside = [](int i, int n) { return i + 1 < n ? i + 1 : i; };
    for (int i = 0; i < PAIRS; i++) {
        const Vector a = v[2 * i], b = v[beside(2 * i, N)];
        v[i] = pick(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               pick(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
    for (int i = 0; i < FOURS; i++) {
        const Vector a = v[2 * i], b = v[beside(2 * i, PAIRS)];
        v[i] = pick(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               pick(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
    for (int i = 0; i < EIGHTS; i++) {
        const Vector a = v[2 * i], b = v[beside(2 * i, FOURS)];
        v[i] = pick(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
               pick(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    }
    const Vector a = v[0], b = v[beside(0, EIGHTS)];
    return pick(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           pick(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

inline Floats add_products(Floats sums, Floats w, Floats x) { return sums + w * x; }

inline float upcast(uint16_t bfloat16) {
    uint32_t word = uint32_t(bfloat16) << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

// To the nearest bfloat16, ties to even; NaN stays NaN.
inline float rounded(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    word = (word + 0x7fff + ((word >> 16) & 1)) & 0xffff0000u;
    float result;
    memcpy(&result, &word, sizeof result);
    return value == value ? result : value;
}

inline uint16_t narrow(float value) {
    float result = rounded(value);
    uint32_t word;
    memcpy(&word, &result, sizeof word);
    return uint16_t(word >> 16);
}

// e^x to 2 units in the last place: 2^n by the exponent, the rest by its series.
inline Floats exponential(Floats given) {
    const Floats zero = {};
    Floats x = given > -87.0f ? given : zero - 87.0f;  // NaN has no whole number either
    x = x > 88.0f ? zero + 88.0f : x;
    const Floats shift = zero + 12582912.0f;  // 1.5 · 2^23: adding it rounds to a whole number
    Floats n = (x * 1.44269504f + shift) - shift;
    Floats r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    Floats series = zero + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    const Floats power = series * (Floats)((__builtin_convertvector(n, Ints) + 127) << 23);
    return given == given ? power : given;
}

// Vectors that are made together.
template <class Vector, int N>
struct Several {
    typedef Vector One;
    static constexpr int n = N;
    Vector of[N];
};
typedef Several<Floats, 2> Pair;

inline float maybe_rounded(float value, bool rounds) { return rounds ? rounded(value) : value; }

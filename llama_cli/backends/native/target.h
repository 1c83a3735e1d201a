// All that differs by processor and compiler: vectors of sixteen numbers, tiles as the registers allow, and the few
// instructions that a compiler does not find by itself. Every other line of the kernels is the same for all.
#pragma once

#include <cstdint>
#include <cstring>

constexpr int64_t LANES = 16;

// Vectors of GCC and Clang: AVX-512, AVX2 and NEON are served by the same lines.
typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint8_t Nibbles __attribute__((vector_size(LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 4)));

// Elements of two vectors, counted from the first of `a` on.
#if defined(__clang__) || __GNUC__ >= 12
#define pick(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define pick(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif

#ifdef __x86_64__
#include <immintrin.h>
#endif

// ROWS whose inputs lie together: a block of columns of each, then the next block. How many numbers a tile may have,
// and how many outputs meet how many groups of rows before the next ones, their weights staying in a core's cache.
#ifdef __AVX512F__
constexpr int64_t ROWS = 4;
constexpr int OUTS_OF_ONE = 8, LARGEST_TILE = 16;
constexpr int64_t NEAR_OUTS = 64, NEAR_GROUPS = 32;

inline Words upcast(Nibbles bytes) { return (Words)_mm512_cvtepu8_epi32((__m128i)bytes); }

// The lower four bits less 8.
inline Floats level(Words bits) {
    const Floats levels = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    return (Floats)_mm512_permutexvar_ps((__m512i)bits, (__m512)levels);  // looks at no other bits
}
#else
constexpr int64_t ROWS = 2;
constexpr int OUTS_OF_ONE = 4, LARGEST_TILE = 4;
constexpr int64_t NEAR_OUTS = 16, NEAR_GROUPS = 32;

inline Words upcast(Nibbles bytes) { return __builtin_convertvector(bytes, Words); }

// The lower four bits less 8.
inline Floats level(Words bits) { return __builtin_convertvector((Ints)(bits & 15) - 8, Floats); }
#endif

// Adds, in each of 16 sums, four products of a signed byte of w and an unsigned one of x; where there is no instruction
// for it, products are of floats.
#if defined(__AVX512VNNI__)
#define HAS_BYTE_PRODUCTS 1
inline Ints add_products(Ints sums, Bytes w, Bytes x) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)w);
}
#elif defined(__AVXVNNI__)
#define HAS_BYTE_PRODUCTS 1
inline Ints add_products(Ints sums, Bytes w, Bytes x) {
    __m256i halves[3][2];
    memcpy(halves[0], &sums, sizeof sums), memcpy(halves[1], &x, sizeof x), memcpy(halves[2], &w, sizeof w);
    for (int half = 0; half < 2; half++)
        halves[0][half] = _mm256_dpbusd_avx_epi32(halves[0][half], halves[1][half], halves[2][half]);
    memcpy(&sums, halves[0], sizeof sums);
    return sums;
}
#else
#define HAS_BYTE_PRODUCTS 0
#endif

// Adds, in each of 16 sums, the products of a pair of bfloat16 of w and one of x; without the instruction for it, their
// products are of floats.
#if defined(__AVX512BF16__) && !defined(SLOW_BFLOAT16_PRODUCTS)
#define HAS_BFLOAT16_PRODUCTS 1
inline Floats add_products(Floats sums, Halves w, Halves x) {
    return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)x, (__m512bh)w);
}

// To the nearest bfloat16, ties to even, one behind the other.
inline Halves narrow(Floats first, Floats second) {
    return (Halves)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}
#else
#define HAS_BFLOAT16_PRODUCTS 0
#endif

// Attention of one token: the query heads of a key head over the cache, some positions at a time.
#pragma once

#include <cfloat>

#include "products.h"

constexpr int64_t POSITIONS = 128;  // attended at a time
constexpr int64_t MOST_HEAD_DIM = 256;
constexpr int QUERIES = 4;  // of one key head, attended together

struct Layer {
    Matrix wq, wk, wv, wo, w1, w2, w3;
    const float* attention_norm;  // (dim,)
    const float* ffn_norm;        // (dim,)
    void* keys;                   // (n_slots, n_kv_heads, max_seq_len, head_dim)
    void* values;
};

struct Model {
    int64_t n_layers, dim, ffn_dim, n_heads, n_kv_heads, head_dim, max_seq_len;
    const Layer* layers;
    const float* norm;  // (dim,)
    Matrix output;
    const float* rope;  // (positions, head_dim / 2, 2): cosine and sine
    float norm_eps;
    int32_t rounds;   // activations are bfloat16
    int32_t narrows;  // the cache is bfloat16
};

// Turns the pairs of a head by a row of the rotation table.
inline void turn(const float* x, const float* turns, int64_t head_dim, bool rounds, float* into) {
    for (int64_t i = 0; i < head_dim; i += 2) {
        float c = turns[i], s = turns[i + 1], a = x[i], b = x[i + 1];
        into[i] = maybe_rounded(a * c - b * s, rounds);
        into[i + 1] = maybe_rounded(a * s + b * c, rounds);
    }
}

inline void store(const float* x, int64_t n, float* into) { memcpy(into, x, n * sizeof *x); }
inline void store(const float* x, int64_t n, uint16_t* into) {
    for (int64_t i = 0; i < n; i++) into[i] = narrow(x[i]);
}

// sums (N, head_dim) = sums · corrections + shares (N, n) · values (n, head_dim)
template <class Weights, int N>
inline void mix(const Weights& values, int64_t n, const float* shares, const float* corrections, float* sums) {
    const int64_t head_dim = values.n_in, whole = head_dim / BLOCK * BLOCK;
    for (int64_t column = 0; column < whole; column += BLOCK) {
        Floats first[N], second[N];
        for (int q = 0; q < N; q++) {
            first[q] = load<Floats>(sums + q * MOST_HEAD_DIM + column) * corrections[q];
            second[q] = load<Floats>(sums + q * MOST_HEAD_DIM + column + LANES) * corrections[q];
        }
        for (int64_t position = 0; position < n; position++) {
            Pair pair = values.at(position, column);
            for (int q = 0; q < N; q++) {
                first[q] += pair.of[0] * shares[q * POSITIONS + position];
                second[q] += pair.of[1] * shares[q * POSITIONS + position];
            }
        }
        for (int q = 0; q < N; q++) {
            memcpy(sums + q * MOST_HEAD_DIM + column, &first[q], sizeof first[q]);
            memcpy(sums + q * MOST_HEAD_DIM + column + LANES, &second[q], sizeof second[q]);
        }
    }
    for (int64_t column = whole; column < head_dim; column++)
        for (int q = 0; q < N; q++) {
            float sum = sums[q * MOST_HEAD_DIM + column] * corrections[q];
            for (int64_t position = 0; position < n; position++)
                sum += shares[q * POSITIONS + position] * values.one(position, column);
            sums[q * MOST_HEAD_DIM + column] = sum;
        }
}

// The query heads of one key head over `length` positions, some positions at a time, with a running softmax.
template <class Weights, class Value, int N>
inline void attend(const Value* keys, const Value* values, int64_t length, int64_t head_dim, const Inputs& queries,
                   float* mixed, bool rounds) {
    float shares[N * POSITIONS], sums[N * MOST_HEAD_DIM] = {}, largest[N], totals[N] = {}, corrections[N];
    for (int q = 0; q < N; q++) largest[q] = -FLT_MAX;
    const float scale = 1.0f / sqrtf(float(head_dim));
    for (int64_t first = 0; first < length; first += POSITIONS) {
        const int64_t n = length - first < POSITIONS ? length - first : POSITIONS;
        const Weights some_keys(keys + first * head_dim, head_dim);
        multiply(some_keys, {0, n}, N, queries.floats, {shares, POSITIONS, N, nullptr});
        for (int q = 0; q < N; q++) {
            float* of_query = shares + q * POSITIONS;
            float most = largest[q];
            for (int64_t i = 0; i < n; i++) {
                of_query[i] *= scale;
                most = of_query[i] > most || of_query[i] != of_query[i] ? of_query[i] : most;
            }
            for (int64_t i = n; i < POSITIONS; i++) of_query[i] = -FLT_MAX;
            Floats sum = {};
            for (int64_t i = 0; i < POSITIONS; i += LANES) {
                Floats some = exponential(load<Floats>(of_query + i) - most);
                memcpy(of_query + i, &some, sizeof some);
            }
            for (int64_t i = n; i < POSITIONS; i++) of_query[i] = 0;
            for (int64_t i = 0; i < POSITIONS; i += LANES) sum += load<Floats>(of_query + i);
            corrections[q] = first == 0 ? 0.0f : expf(largest[q] - most);
            totals[q] = totals[q] * corrections[q] + total(sum);
            largest[q] = most;
        }
        mix<Weights, N>(Weights(values + first * head_dim, head_dim), n, shares, corrections, sums);
    }
    const int64_t whole = Weights::kind == BFLOAT16 ? head_dim / BLOCK * BLOCK : 0;
    for (int q = 0; q < N; q++)
        for (int64_t i = 0; i < head_dim; i++) {
            int64_t from = i < whole ? i / BLOCK * BLOCK + i % 2 * LANES + i % BLOCK / 2 : i;
            mixed[q * head_dim + i] = maybe_rounded(sums[q * MOST_HEAD_DIM + from] / totals[q], rounds);
        }
}

// One key head of one row: its new key and value go into the cache, then its queries look at all of it.
template <class Weights, class Value>
inline void attend_head(const Model& m, const Layer& layer, int64_t head, int64_t slot, int64_t position,
                        const float* side_by_side, float* mixed) {
    const int64_t head_dim = m.head_dim, group = m.n_heads / m.n_kv_heads;
    const int64_t place = (slot * m.n_kv_heads + head) * m.max_seq_len * head_dim;
    Value *keys = (Value*)layer.keys + place, *values = (Value*)layer.values + place;
    const float* turns = m.rope + position * head_dim;
    float turned[MOST_HEAD_DIM], of_queries[QUERIES * MOST_HEAD_DIM];
    turn(side_by_side + (m.n_heads + head) * head_dim, turns, head_dim, m.rounds, turned);
    store(turned, head_dim, keys + position * head_dim);
    store(side_by_side + (m.n_heads + m.n_kv_heads + head) * head_dim, head_dim, values + position * head_dim);
    const Inputs queries = {of_queries, nullptr, nullptr};
    for (int64_t done = 0; done < group;) {
        const int64_t n = group - done < QUERIES ? group - done : QUERIES, first = head * group + done;
        for (int64_t q = 0; q < n; q++) {
            turn(side_by_side + (first + q) * head_dim, turns, head_dim, m.rounds || m.narrows, turned);
            prepare(Weights::kind, turned, head_dim, q, n, queries);
        }
        float* into = mixed + first * head_dim;
        switch (n) {
            case 1:
                attend<Weights, Value, 1>(keys, values, position + 1, head_dim, queries, into, m.narrows);
                break;
            case 2:
                attend<Weights, Value, 2>(keys, values, position + 1, head_dim, queries, into, m.narrows);
                break;
            case 3:
                attend<Weights, Value, 3>(keys, values, position + 1, head_dim, queries, into, m.narrows);
                break;
            default:
                attend<Weights, Value, QUERIES>(keys, values, position + 1, head_dim, queries, into, m.narrows);
        }
        done += n;
    }
}

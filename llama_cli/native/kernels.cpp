// Decode steps of a Llama on a CPU: linear layers on weights as they lie in the file, and everything between them.
//
// Few rows wait for weights, so what counts is that every byte is read once, in long runs and early enough, and that
// nothing else takes time: one parallel region computes a whole step.

#include <omp.h>

#include "attention.h"

namespace {

// Where a step keeps its numbers, cut from one block.
struct Scratch {
    float *wide, *side_by_side, *mixed, *hidden, *up, *out;
    Inputs in;

    Scratch(float* from, const Model& m, int64_t n_rows) {
        int64_t q_dim = m.n_heads * m.head_dim, widest = widest_of(m);
        auto take = [&](int64_t n) {
            float* taken = from;
            from += (n + LANES - 1) / LANES * LANES;
            return taken;
        };
        wide = take(n_rows * m.dim);
        side_by_side = take(n_rows * (q_dim + 2 * m.n_kv_heads * m.head_dim));
        mixed = take(n_rows * q_dim);
        hidden = take(n_rows * m.ffn_dim);
        up = take(n_rows * m.ffn_dim);
        out = take(n_rows * m.dim);
        in.floats = take(n_rows * widest);
        in.bytes = (uint8_t*)take(n_rows * widest / 2 + LANES);
        in.steps = take(2 * n_rows);
        end = from;
    }
    float* end;

    static int64_t widest_of(const Model& m) {
        int64_t q_dim = m.n_heads * m.head_dim, widest = q_dim > m.dim ? q_dim : m.dim;
        return m.ffn_dim > widest ? m.ffn_dim : widest;
    }
};

void norm(const float* x, const float* weight, const Model& m, float* into) {
    Floats squares = {};
    int64_t i = 0;
    for (; i + LANES <= m.dim; i += LANES) {
        Floats some = load<Floats>(x + i);
        squares += some * some;
    }
    float sum = total(squares);
    for (; i < m.dim; i++) sum += x[i] * x[i];
    float factor = 1.0f / sqrtf(sum / float(m.dim) + m.norm_eps);
    const bool rounds = m.rounds;
    for (i = 0; i < m.dim; i++) into[i] = maybe_rounded(maybe_rounded(x[i] * factor, rounds) * weight[i], rounds);
}

inline void activate(float* gate, const float* up, Range outs, bool rounds) {
    for (int64_t i = outs.first; i < outs.end; i += LANES) {
        const int64_t n = outs.end - i < LANES ? outs.end - i : LANES;
        Floats x = {};
        memcpy(&x, gate + i, n * sizeof(float));
        x = x / (1.0f + exponential(-x));
        float values[LANES];
        memcpy(values, &x, sizeof x);
        for (int64_t k = 0; k < n; k++)
            gate[i + k] = maybe_rounded(maybe_rounded(values[k], rounds) * up[i + k], rounds);
    }
}

inline void round_all(float* y, Range outs, int64_t n_rows, int64_t stride, bool rounds) {
    if (!rounds) return;
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t i = outs.first; i < outs.end; i++) y[row * stride + i] = rounded(y[row * stride + i]);
}

// x += m · in, of the thread's share of the outputs.
inline void add_product(const Model& m, const Matrix& matrix, const Inputs& in, Range outs, int64_t n_rows, float* out,
                        float* x) {
    product(matrix, in, outs, n_rows, out, m.dim);
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t i = row * m.dim + outs.first; i < row * m.dim + outs.end; i++)
            x[i] = maybe_rounded(x[i] + maybe_rounded(out[i], m.rounds), m.rounds);
}

}  // namespace

extern "C" {

int multiplies_bytes() { return HAS_BYTE_PRODUCTS; }

int64_t most_head_dim() { return MOST_HEAD_DIM; }

int64_t scratch_floats(const Model* m, int64_t n_rows) { return Scratch(nullptr, *m, n_rows).end - (float*)nullptr; }

// One token of each row: x (n_rows, dim) are their embeddings, and are overwritten; logits (n_rows, vocab_size).
void decode(const Model* model, int64_t n_rows, const int64_t* positions, const int64_t* slots, float* x, float* logits,
            float* scratch, int n_threads) {
    const Model& m = *model;
    const Scratch s(scratch, m, n_rows);
    const int64_t q_dim = m.n_heads * m.head_dim, kv_dim = m.n_kv_heads * m.head_dim, all = q_dim + 2 * kv_dim;
#pragma omp parallel num_threads(n_threads)
    {
        const int thread = omp_get_thread_num(), n = omp_get_num_threads();
        const Range dim = share(m.dim, STRIDE, thread, n), ffn = share(m.ffn_dim, STRIDE, thread, n);
        const Range rows = share(n_rows, 1, thread, n);
        const Range queries = share(q_dim, STRIDE, thread, n), pairs = share(kv_dim, STRIDE, thread, n);
        for (int64_t l = 0; l < m.n_layers; l++) {
            const Layer& layer = m.layers[l];
            for (int64_t row = rows.first; row < rows.end; row++) {
                norm(x + row * m.dim, layer.attention_norm, m, s.wide + row * m.dim);
                prepare(layer.wq.kind, s.wide + row * m.dim, m.dim, row, n_rows, s.in);
            }
#pragma omp barrier
            product(layer.wq, s.in, queries, n_rows, s.side_by_side, all);
            round_all(s.side_by_side, queries, n_rows, all, m.rounds);
            product(layer.wk, s.in, pairs, n_rows, s.side_by_side + q_dim, all);
            round_all(s.side_by_side + q_dim, pairs, n_rows, all, m.rounds);
            product(layer.wv, s.in, pairs, n_rows, s.side_by_side + q_dim + kv_dim, all);
            round_all(s.side_by_side + q_dim + kv_dim, pairs, n_rows, all, m.rounds);
#pragma omp barrier
#pragma omp for schedule(dynamic)
            for (int64_t unit = 0; unit < n_rows * m.n_kv_heads; unit++) {
                const int64_t row = unit / m.n_kv_heads, head = unit % m.n_kv_heads;
                const float* of_row = s.side_by_side + row * all;
                float* into = s.mixed + row * q_dim;
                if (m.narrows)
                    attend_head<BFloat16, uint16_t>(m, layer, head, slots[row], positions[row], of_row, into);
                else
                    attend_head<Float32, float>(m, layer, head, slots[row], positions[row], of_row, into);
            }
            for (int64_t row = rows.first; row < rows.end; row++)
                prepare(layer.wo.kind, s.mixed + row * q_dim, q_dim, row, n_rows, s.in);
#pragma omp barrier
            add_product(m, layer.wo, s.in, dim, n_rows, s.out, x);
#pragma omp barrier
            for (int64_t row = rows.first; row < rows.end; row++) {
                norm(x + row * m.dim, layer.ffn_norm, m, s.wide + row * m.dim);
                prepare(layer.w1.kind, s.wide + row * m.dim, m.dim, row, n_rows, s.in);
            }
#pragma omp barrier
            product(layer.w1, s.in, ffn, n_rows, s.hidden, m.ffn_dim);
            product(layer.w3, s.in, ffn, n_rows, s.up, m.ffn_dim);
            round_all(s.hidden, ffn, n_rows, m.ffn_dim, m.rounds);
            round_all(s.up, ffn, n_rows, m.ffn_dim, m.rounds);
            for (int64_t row = 0; row < n_rows; row++)
                activate(s.hidden + row * m.ffn_dim, s.up + row * m.ffn_dim, ffn, m.rounds);
#pragma omp barrier
            for (int64_t row = rows.first; row < rows.end; row++)
                prepare(layer.w2.kind, s.hidden + row * m.ffn_dim, m.ffn_dim, row, n_rows, s.in);
#pragma omp barrier
            add_product(m, layer.w2, s.in, dim, n_rows, s.out, x);
#pragma omp barrier
        }
        for (int64_t row = rows.first; row < rows.end; row++) {
            norm(x + row * m.dim, m.norm, m, s.wide + row * m.dim);
            prepare(m.output.kind, s.wide + row * m.dim, m.dim, row, n_rows, s.in);
        }
#pragma omp barrier
        const Range words = share(m.output.n_out, STRIDE, thread, n);
        product(m.output, s.in, words, n_rows, logits, m.output.n_out);
        round_all(logits, words, n_rows, m.output.n_out, m.rounds);
    }
}

// y (n_rows, n_out) = x (n_rows, n_in) · weights; room has n_rows · (2 n_in + 2) + 64 floats.
void linear(const Matrix* matrix, int64_t n_rows, const float* x, float* y, float* room, int n_threads) {
    const Matrix& m = *matrix;
    const Inputs in = {room, (uint8_t*)(room + n_rows * m.n_in), room + n_rows * m.n_in + (n_rows * m.n_in + 1) / 2};
#pragma omp parallel num_threads(n_threads)
    {
        const int thread = omp_get_thread_num(), n = omp_get_num_threads();
        const Range rows = share(n_rows, 1, thread, n);
        for (int64_t row = rows.first; row < rows.end; row++)
            prepare(m.kind, x + row * m.n_in, m.n_in, row, n_rows, in);
#pragma omp barrier
        product(m, in, share(m.n_out, STRIDE, thread, n), n_rows, y, m.n_out);
    }
}

// Rows of int4 weights as floats, (n_rows, n_in).
void widen_int4(const Matrix* matrix, int64_t first, int64_t n_rows, float* into, int n_threads) {
    const Int4 w(matrix->weights, matrix->scales, matrix->n_in);
#pragma omp parallel for num_threads(n_threads)
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t column = 0; column < w.n_in; column += BLOCK) {
            Pair pair = w.at(first + row, column);
            memcpy(into + row * w.n_in + column, &pair, sizeof pair);
        }
}

// The sum of each row of int8 weights.
void sum_rows(const int8_t* weights, int64_t n_out, int64_t n_in, int32_t* sums, int n_threads) {
#pragma omp parallel for num_threads(n_threads)
    for (int64_t out = 0; out < n_out; out++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < n_in; i++) sum += weights[out * n_in + i];
        sums[out] = sum;
    }
}
}

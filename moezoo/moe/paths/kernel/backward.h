// The backward pass: the gradients of rows task by task, then those of the weights strip by strip.

#pragma once

#include "forward.h"

namespace {

constexpr int64_t DEPTH = 384;  // of a strip: k is summed in such pieces

template <typename T> struct Backward {
  Shape s;
  const T *x, *w_in, *w_out, *h, *dy;
  T *dx, *dw_in, *db_in, *dw_out, *db_out;  // dx or all the others may be null
  std::vector<Task> tasks;                  // in order
  // By place: transposed gradients (H_in or D, P) and column panels of x and a.
  T *dh_T, *dy_T;
  float *x_columns, *a_columns;

  ColumnPanels<T> columns(const Task& task, float* base, int64_t width) const {
    return {task.m, width, base + task.place / PER_UNIT<T> * padded(width)};
  }

  int64_t rows_scratch() const {
    return PANEL * (units<T>(s.D) + (s.gated() ? 2 : 1) * units<T>(s.H)) + 3 * (STRIP + 1) * PANEL + DEPTH * STRIP + 4 * W;
  }

  // out (n, P) = w^T (n, K) x, where w is (K, ldw) and its next n columns are wanted soon.
  void multiply_transposed(int64_t n, const T* w, int64_t ldw, const float* x_panel, int64_t K, int64_t P,
                           const T* next_w, float* strip, float* out) const {
    for (int64_t k = 0; k < K; k += DEPTH) {
      const int64_t depth = std::min(DEPTH, K - k);
      to_strip(w + k * ldw, ldw, depth, n, strip);
      const T* next = k + DEPTH < K ? w + (k + DEPTH) * ldw : next_w;
      multiply<T, true>(n, reinterpret_cast<const T*>(strip), 0, x_panel + k / PER_UNIT<T> * P, depth, P, out, P,
                        {.add = k > 0, .next = next, .next_stride = ldw});
    }
  }

  // The gradients of one task's rows, and what the weights' gradients need of them.
  void rows(const Task& task, float* scratch) const {
    constexpr int64_t U = PER_UNIT<T>;
    const int64_t P = padded(task.m), D = s.D, H = s.H;
    alignas(64) T a_block[STRIP * PANEL];
    float* dy_panel = scratch;
    float* dh_panel = dy_panel + PANEL * units<T>(D);
    float* da = dh_panel + PANEL * (s.gated() ? 2 : 1) * units<T>(s.H);
    float* h_block = da + (STRIP + 1) * PANEL;
    float* up = h_block + (STRIP + 1) * PANEL;
    float* strip = up + (STRIP + 1) * PANEL;
    pack(dy + task.row * D, task.m, D, P, dy_panel);
    const auto a_out = columns(task, a_columns, H);
    if (dw_in) {
      columns(task, x_columns, D).fill(x + task.row * D);
      T* dy_out = dy_T + task.place * D;  // the panel's rows, one by one
      for (int64_t d = 0; d < D; ++d)
        for (int64_t t = 0; t < P; ++t) dy_out[d * P + t] = reinterpret_cast<const T*>(dy_panel)[(d / U * P + t) * U + d % U];
    }
    const T* w = w_out + task.expert * D * H;
    const T* h_T = h + task.place * s.H_in;
    for (int64_t i = 0; i < H; i += STRIP) {
      const int64_t n = std::min<int64_t>(STRIP, H - i);
      multiply_transposed(n, w + i, H, dy_panel, D, P, i + 2 * STRIP <= H ? w + i + STRIP : nullptr, strip, da);
      for (int64_t j = 0; j < n * P; ++j) h_block[j] = static_cast<float>(h_T[i * P + j]);
      if (s.gated())
        for (int64_t j = 0; j < n * P; ++j) up[j] = static_cast<float>(h_T[(H + i) * P + j]);
      nonlinearity_backward(s.activation, h_block, s.gated() ? up : nullptr, da, n * P);
      if (dw_in) {
        T* dh_out = dh_T + task.place * s.H_in;
        convert(h_block, n * P, dh_out + i * P);
        if (s.gated()) convert(up, n * P, dh_out + (H + i) * P);
        convert(da, n * P, a_block);
        a_out.fill_columns(a_block, n, P, i);
      }
      if (dx) {
        to_panel(h_block, n, P, dh_panel + i / PER_UNIT<T> * P, static_cast<T*>(nullptr));
        if (s.gated()) to_panel(up, n, P, dh_panel + (units<T>(H) + i / PER_UNIT<T>) * P, static_cast<T*>(nullptr));
      }
    }
    if (!dx) return;
    w = w_in + task.expert * s.H_in * D;
    for (int64_t d = 0; d < D; d += STRIP) {
      const int64_t n = std::min<int64_t>(STRIP, D - d);
      const T* next = d + 2 * STRIP <= D ? w + d + STRIP : nullptr;
      multiply_transposed(n, w + d, D, dh_panel, H, P, s.gated() ? w + H * D + d : next, strip, da);
      if (s.gated()) {
        // The halves are summed apart: with an odd H a pair must not reach from one into the other.
        multiply_transposed(n, w + H * D + d, D, dh_panel + units<T>(H) * P, H, P, next, strip, up);
        for (int64_t j = 0; j < n * P; j += W) store(da + j, load(da + j) + load(up + j));
      }
      unpack(da, n, task.m, P, D, dx + task.row * D + d);
    }
  }

  // Rows first to first + n of one weight's gradient: sums over the expert's tasks [begin, end), in order.
  void weight(const T* left, int64_t left_rows, float* right, int64_t columns_, int64_t begin, int64_t end,
              int64_t first, int64_t n, T* dw, T* db, float* block) const {
    for (int64_t c = 0; c < columns_; c += PANEL) {
      const int64_t width = std::min<int64_t>(PANEL, columns_ - c);
      const bool direct = std::is_same_v<T, float> && width % HALF == 0;
      float* out = direct ? reinterpret_cast<float*>(dw) + first * columns_ + c : block;
      const int64_t ldo = direct ? columns_ : PANEL;
      for (int64_t i = begin; i < end; ++i) {
        const Task& task = tasks[i];
        const auto panels = columns(task, right, columns_);
        const int64_t P = padded(task.m);
        multiply<T>(n, left + task.place * left_rows + first * P, P, panels.panel(c), task.m, panels.width(c), out, ldo,
                    {.add = i > begin});
      }
      if (!direct)
        for (int64_t r = 0; r < n; ++r) convert(block + r * PANEL, width, dw + (first + r) * columns_ + c);
    }
    for (int64_t r = first; r < first + n; ++r) {
      float lanes[HALF] = {};  // what is padded is zero
      for (int64_t i = begin; i < end; ++i) {
        const int64_t P = padded(tasks[i].m);
        const T* values = left + tasks[i].place * left_rows + r * P;
        for (int64_t t = 0; t < P; t += HALF)
          for (int l = 0; l < HALF; ++l) lanes[l] += static_cast<float>(values[t + l]);
      }
      float sum = 0;
      for (float lane : lanes) sum += lane;
      db[r] = static_cast<T>(sum);
    }
  }

  void run(int64_t experts) {
    {
      const auto order = longest_first(tasks);
      run_tasks(order.size(), rows_scratch(), [&](int64_t i, float* memory) { rows(order[i], memory); });
    }
    if (!dw_in) return;
    std::vector<int64_t> first(experts + 1, 0);
    for (const Task& task : tasks) ++first[task.expert + 1];
    for (int64_t e = 0; e < experts; ++e) first[e + 1] += first[e];
    const int64_t in_strips = (s.H_in + STRIP - 1) / STRIP, out_strips = (s.D + STRIP - 1) / STRIP;
    const int64_t each = in_strips + out_strips;
    run_tasks(experts * each, STRIP * PANEL + W, [&](int64_t i, float* block) {
      const int64_t e = i / each, j = i % each;
      const bool in = j < in_strips;
      const int64_t rows = in ? s.H_in : s.D, width = in ? s.D : s.H, row = (in ? j : j - in_strips) * STRIP;
      const int64_t n = std::min<int64_t>(STRIP, rows - row);
      T *dw = (in ? dw_in : dw_out) + e * rows * width, *db = (in ? db_in : db_out) + e * rows;
      if (first[e] == first[e + 1]) {
        std::memset(dw + row * width, 0, n * width * sizeof(T));
        std::memset(db + row, 0, n * sizeof(T));
      } else {
        weight(in ? dh_T : dy_T, rows, in ? x_columns : a_columns, width, first[e], first[e + 1], row, n, dw, db, block);
      }
    });
  }
};

}  // namespace

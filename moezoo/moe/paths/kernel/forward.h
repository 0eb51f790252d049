// The forward pass.

#pragma once

#include "nonlinearity.h"
#include "panels.h"
#include "tasks.h"
#include "tile.h"

namespace {

struct Shape {
  int64_t D, H, H_in, activation;
  bool gated() const { return H_in != H; }
};

template <typename T>
void forward_task(const Shape& s, const Task& task, const T* x, const T* w_in, const T* b_in, const T* w_out,
                  const T* b_out, T* y, T* h_saved, float* scratch) {
  const int64_t x_stride = units<T>(s.D) * PANEL, a_stride = units<T>(s.H) * PANEL;
  float* x_panel = scratch;
  float* a_panel = x_panel + PANELS * x_stride;
  float* block = a_panel + PANELS * a_stride;
  float* up = block + (STRIP + 1) * PANEL;
  const int64_t panels = (task.m + PANEL - 1) / PANEL;
  auto length = [&](int64_t p) { return std::min<int64_t>(PANEL, task.m - p * PANEL); };
  for (int64_t p = 0; p < panels; ++p)
    pack(x + (task.row + p * PANEL) * s.D, length(p), s.D, padded(length(p)), x_panel + p * x_stride);
  w_in += task.expert * s.H_in * s.D, b_in += task.expert * s.H_in;
  w_out += task.expert * s.D * s.H, b_out += task.expert * s.D;
  for (int64_t h = 0; h < s.H; h += STRIP) {
    const int64_t n = std::min<int64_t>(STRIP, s.H - h);
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t P = padded(length(p));
      const float* x_p = x_panel + p * x_stride;
      multiply<T>(n, w_in + h * s.D, s.D, x_p, s.D, P, block, P, {.bias = b_in + h});
      if (h_saved) convert(block, n * P, h_saved + (task.place + p * PANEL) * s.H_in + h * P);
      if (s.gated()) {
        multiply<T>(n, w_in + (s.H + h) * s.D, s.D, x_p, s.D, P, up, P, {.bias = b_in + s.H + h});
        if (h_saved) convert(up, n * P, h_saved + (task.place + p * PANEL) * s.H_in + (s.H + h) * P);
      }
      activate_block(s.activation, block, s.gated() ? up : nullptr, n * P);
      to_panel(block, n, P, a_panel + p * a_stride + h / PER_UNIT<T> * P, static_cast<T*>(nullptr));
    }
  }
  for (int64_t d = 0; d < s.D; d += STRIP) {
    const int64_t n = std::min<int64_t>(STRIP, s.D - d);
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t P = padded(length(p));
      multiply<T>(n, w_out + d * s.H, s.H, a_panel + p * a_stride, s.H, P, block, P, {.bias = b_out + d});
      unpack(block, n, length(p), P, s.D, y + (task.row + p * PANEL) * s.D + d);
    }
  }
}

template <typename T>
void forward_all(const Shape& s, const at::Tensor& x, const at::Tensor& w_in,
                 const at::Tensor& b_in, const at::Tensor& w_out, const at::Tensor& b_out, at::Tensor& y, T* h_,
                 const std::vector<Task>& tasks) {
  const int64_t scratch = PANELS * PANEL * (units<T>(s.D) + units<T>(s.H)) + 2 * (STRIP + 1) * PANEL + W;
  const T *x_ = x.const_data_ptr<T>(), *w_in_ = w_in.const_data_ptr<T>(), *b_in_ = b_in.const_data_ptr<T>(),
          *w_out_ = w_out.const_data_ptr<T>(), *b_out_ = b_out.const_data_ptr<T>();
  T* y_ = y.mutable_data_ptr<T>();
  run_tasks(tasks.size(), scratch, [&](int64_t i, float* memory) {
    forward_task<T>(s, tasks[i], x_, w_in_, b_in_, w_out_, b_out_, y_, h_, memory);
  });
}

}  // namespace

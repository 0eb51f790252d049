// Stacked MLP experts on a CPU, computed transposed: h^T = W_in x^T, so that weights are read once, as they lie.
//
// A task is one expert and up to CHUNK of its rows. The rows are packed into panels (one panel: `k` major, tokens side
// by side), a vector holds tokens, and every weight is broadcast. Each result is one chain of multiply-adds over k in
// ascending order, whatever its tile, task and thread: results do not depend on how the work was split.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "kernel/backward.h"

namespace {

Shape check(const at::Tensor& x, at::IntArrayRef sizes, const at::Tensor& w_in, const at::Tensor& b_in,
            const at::Tensor& w_out, const at::Tensor& b_out, int64_t activation) {
  TORCH_CHECK(x.dim() == 2 && w_in.dim() == 3 && w_out.dim() == 3, "native: x (N, D), w_in and w_out (E, ., .)");
  const int64_t E = w_in.size(0), D = x.size(1), H_in = w_in.size(1), H = w_out.size(2);
  TORCH_CHECK(w_in.size(2) == D && w_out.size(0) == E && w_out.size(1) == D && (H_in == H || H_in == 2 * H),
              "native: w_in (E, H or 2H, D) and w_out (E, D, H) must fit x (N, D)");
  TORCH_CHECK(b_in.sizes() == at::IntArrayRef({E, H_in}) && b_out.sizes() == at::IntArrayRef({E, D}),
              "native: biases must fit the weights");
  int64_t rows = 0;
  for (int64_t size : sizes) {
    TORCH_CHECK(size >= 0, "native: sizes must not be negative");
    rows += size;
  }
  TORCH_CHECK(static_cast<int64_t>(sizes.size()) == E && rows == x.size(0), "native: sizes must sum to the rows");
  for (const at::Tensor* t : {&x, &w_in, &b_in, &w_out, &b_out})
    TORCH_CHECK(t->is_contiguous() && t->device().is_cpu() && t->scalar_type() == x.scalar_type(),
                "native: tensors must be contiguous, on the CPU and of one dtype");
  TORCH_CHECK(activation >= GELU && activation <= SILU, "native: unknown activation");
  return {D, H, H_in, activation};
}

[[noreturn]] void unsupported() {
  TORCH_CHECK(false, "native: this build computes float32", MOEZOO_BF16 ? " and bfloat16" : "");
}

// y, and with `save` also h by place, which the backward pass takes with the same limit.
std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& x, at::IntArrayRef sizes, const at::Tensor& w_in,
                                           const at::Tensor& b_in, const at::Tensor& w_out, const at::Tensor& b_out,
                                           int64_t activation, int64_t limit, bool save) {
  const Shape s = check(x, sizes, w_in, b_in, w_out, b_out, activation);
  TORCH_CHECK(limit >= HALF && limit <= (save ? PANEL : CHUNK), "native: limit is out of range");
  const auto tasks = tasks_of(sizes, limit);
  at::Tensor y = at::empty(x.sizes(), x.options());
  at::Tensor h = at::empty({save ? all_places(tasks) : 0, s.H_in}, x.options());
  const auto order = longest_first(tasks);
  if (x.scalar_type() == at::kFloat) {
    forward_all<float>(s, x, w_in, b_in, w_out, b_out, y, save ? h.mutable_data_ptr<float>() : nullptr, order);
#if MOEZOO_BF16
  } else if (x.scalar_type() == at::kBFloat16) {
    forward_all<bf16>(s, x, w_in, b_in, w_out, b_out, y, save ? h.mutable_data_ptr<bf16>() : nullptr, order);
#endif
  } else {
    unsupported();
  }
  return {y, h};
}

template <typename T>
void backward_all(const Shape& s, std::vector<Task> tasks, const at::Tensor& x, const at::Tensor& w_in,
                  const at::Tensor& w_out, const at::Tensor& h, const at::Tensor& dy, std::vector<at::Tensor>& grads) {
  const bool weights = grads[1].defined();
  const int64_t places = weights ? all_places(tasks) : 0;
  auto data = [](at::Tensor& t) { return t.defined() ? t.mutable_data_ptr<T>() : nullptr; };
  at::Tensor dh_T = at::empty({places, s.H_in}, x.options()), dy_T = at::empty({places, s.D}, x.options());
  at::Tensor x_columns = at::empty({places, padded(s.D)}, x.options());
  at::Tensor a_columns = at::empty({places, padded(s.H)}, x.options());
  Backward<T> backward{s,
                       x.const_data_ptr<T>(),
                       w_in.const_data_ptr<T>(),
                       w_out.const_data_ptr<T>(),
                       h.const_data_ptr<T>(),
                       dy.const_data_ptr<T>(),
                       data(grads[0]),
                       data(grads[1]),
                       data(grads[2]),
                       data(grads[3]),
                       data(grads[4]),
                       std::move(tasks),
                       data(dh_T),
                       data(dy_T),
                       reinterpret_cast<float*>(data(x_columns)),
                       reinterpret_cast<float*>(data(a_columns))};
  backward.run(w_in.size(0));
}

// The gradients of x, w_in, b_in, w_out and b_out; of x and of the weights only where wanted, else empty tensors.
std::vector<at::Tensor> backward(const at::Tensor& dy, const at::Tensor& x, at::IntArrayRef sizes,
                                 const at::Tensor& w_in, const at::Tensor& b_in, const at::Tensor& w_out,
                                 const at::Tensor& b_out, const at::Tensor& h, int64_t activation, int64_t limit,
                                 bool for_x, bool for_weights) {
  const Shape s = check(x, sizes, w_in, b_in, w_out, b_out, activation);
  TORCH_CHECK(limit >= HALF && limit <= PANEL, "native: limit is out of range");
  auto tasks = tasks_of(sizes, limit);
  TORCH_CHECK(dy.sizes() == x.sizes() && dy.is_contiguous() && dy.scalar_type() == x.scalar_type() &&
                  h.is_contiguous() && h.scalar_type() == x.scalar_type() &&
                  h.sizes() == at::IntArrayRef({all_places(tasks), s.H_in}),
              "native: dy must fit x, and h must be the forward pass's");
  std::vector<at::Tensor> grads(5);
  if (for_x) grads[0] = at::empty(x.sizes(), x.options());
  if (for_weights) {
    const at::Tensor* like[] = {&w_in, &b_in, &w_out, &b_out};
    for (int i = 0; i < 4; ++i) grads[i + 1] = at::empty(like[i]->sizes(), x.options());
  }
  if (x.scalar_type() == at::kFloat) {
    backward_all<float>(s, std::move(tasks), x, w_in, w_out, h, dy, grads);
#if MOEZOO_BF16
  } else if (x.scalar_type() == at::kBFloat16) {
    backward_all<bf16>(s, std::move(tasks), x, w_in, w_out, h, dy, grads);
#endif
  } else {
    unsupported();
  }
  for (at::Tensor& grad : grads)
    if (!grad.defined()) grad = at::empty({0}, x.options());
  return grads;
}

int64_t limit_of(at::IntArrayRef sizes, bool save) { return chunk_limit(sizes, save ? PANEL : CHUNK); }

bool has_bf16() { return MOEZOO_BF16; }

}  // namespace

TORCH_LIBRARY(moezoo_native, m) {
  m.def("has_bf16() -> bool", &has_bf16);
  m.def("limit(int[] sizes, bool save) -> int", &limit_of);
  m.def(
      "forward(Tensor x, int[] sizes, Tensor w_in, Tensor b_in, Tensor w_out, Tensor b_out, int activation, int limit, "
      "bool save) -> (Tensor, Tensor)");
  m.def(
      "backward(Tensor dy, Tensor x, int[] sizes, Tensor w_in, Tensor b_in, Tensor w_out, Tensor b_out, Tensor h, "
      "int activation, int limit, bool for_x, bool for_weights) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(moezoo_native, CPU, m) {
  m.impl("forward", &forward);
  m.impl("backward", &backward);
}

// The activations and their derivatives, exact to the rounding of float32.

#pragma once

#include "vectors.h"

namespace {

enum Activation { GELU, GELU_TANH, QUICK_GELU, RELU, SILU };

// 2^n times a Taylor polynomial on [-ln 2 / 2, ln 2 / 2].
template <bool POSITIVE = true> INLINE vf exp_(vf x) {
  x = x < -87.f ? splat(-87.f) : x;
  if (POSITIVE) x = x > 88.f ? splat(88.f) : x;
  const vf magic = splat(12582912.f);  // its last bits are the rounded integer
  vf shifted = x * 1.44269504f + magic;
  vf n = shifted - magic;
  vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vf p = splat(1.f / 5040);
  p = p * r + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  return (vf)((vi)p + ((vi)shifted << 23));
}

INLINE vf sigmoid(vf x) { return 1.f / (1.f + exp_(-x)); }

// The normal distribution's tail behind u >= 0: exp of a polynomial fitted to its logarithm on [0, 8], falling on.
INLINE vf tail(vf u) {
  constexpr float c[] = {-0.6931471824645996f,     -0.7978845834732056f,    -0.3183101713657379f,
                         -0.03633315488696098f,    0.004772897809743881f,   5.6125751143554226e-05f,
                         -0.00023653462994843721f, 7.271162030519918e-05f,  -1.3263769687910099e-05f,
                         1.5990641486496315e-06f,  -1.2480747102472378e-07f, 5.713852502253758e-09f,
                         -1.1637386193585897e-10f};
  vf p = splat(c[12]);
  UNROLL for (int i = 11; i >= 0; --i) p = p * u + c[i];
  return exp_<false>(p);
}

INLINE vf bounded_abs(vf x) {
  vf u = (vf)((vi)x & 0x7fffffff);
  return u > 14.f ? splat(14.f) : u;
}

template <int A> INLINE vf activate(vf x) {
  if constexpr (A == GELU) {
    vf u = bounded_abs(x);
    return (x > 0.f ? x : vf{}) - u * tail(u);
  } else if constexpr (A == GELU_TANH) {
    return x * sigmoid(x * (1.5957691216057308f + 0.07135481282f * x * x));
  } else if constexpr (A == QUICK_GELU) {
    return x * sigmoid(1.702f * x);
  } else if constexpr (A == RELU) {
    return x < 0.f ? vf{} : x;
  } else {
    return x * sigmoid(x);
  }
}

// act(x) and its derivative there.
struct Slope {
  vf value, slope;
};

// x sigmoid(g), where dg is the derivative of g.
INLINE Slope gated_by(vf x, vf g, vf dg) {
  vf s = sigmoid(g);
  return {x * s, s + x * s * (1.f - s) * dg};
}

template <int A> INLINE Slope with_slope(vf x) {
  if constexpr (A == GELU) {
    vf u = bounded_abs(x), t = tail(u);
    return {(x > 0.f ? x : vf{}) - u * t, (x > 0.f ? 1.f - t : t) + x * 0.3989422804014327f * exp_<false>(-0.5f * u * u)};
  } else if constexpr (A == GELU_TANH) {
    vf b = x < 0.f ? -bounded_abs(x) : bounded_abs(x);  // so that no square overflows
    return gated_by(x, b * (1.5957691216057308f + 0.07135481282f * b * b), 1.5957691216057308f + 0.21406444846f * b * b);
  } else if constexpr (A == QUICK_GELU) {
    return gated_by(x, 1.702f * x, splat(1.702f));
  } else if constexpr (A == RELU) {
    return {x < 0.f ? vf{} : x, x > 0.f ? splat(1.f) : vf{}};
  } else {
    return gated_by(x, x, splat(1.f));
  }
}

// a becomes act(a), or act(a) * up.
template <int A> void apply(float* a, const float* up, int64_t count) {
  for (int64_t i = 0; i < count; i += W) {
    vf v = activate<A>(load(a + i));
    store(a + i, up ? v * load(up + i) : v);
  }
}

void activate_block(int64_t activation, float* a, const float* up, int64_t count) {
  switch (activation) {
    case GELU: return apply<GELU>(a, up, count);
    case GELU_TANH: return apply<GELU_TANH>(a, up, count);
    case QUICK_GELU: return apply<QUICK_GELU>(a, up, count);
    case RELU: return apply<RELU>(a, up, count);
    case SILU: return apply<SILU>(a, up, count);
  }
}

// Of one strip, from h and da: dh and a, in the memory of h and da; of a gated MLP also of its other half.
template <int A> void backward_block(float* h, float* up, float* da, int64_t count) {
  for (int64_t i = 0; i < count; i += W) {
    Slope s = with_slope<A>(load(h + i));
    vf g = load(da + i);
    if (up) {
      vf u = load(up + i);
      store(up + i, g * s.value);
      store(da + i, s.value * u);
      store(h + i, g * u * s.slope);
    } else {
      store(da + i, s.value);
      store(h + i, g * s.slope);
    }
  }
}

void nonlinearity_backward(int64_t activation, float* h, float* up, float* da, int64_t count) {
  switch (activation) {
    case GELU: return backward_block<GELU>(h, up, da, count);
    case GELU_TANH: return backward_block<GELU_TANH>(h, up, da, count);
    case QUICK_GELU: return backward_block<QUICK_GELU>(h, up, da, count);
    case RELU: return backward_block<RELU>(h, up, da, count);
    case SILU: return backward_block<SILU>(h, up, da, count);
  }
}

}  // namespace

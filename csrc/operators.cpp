// The CPU kernels of the operators declared in bumpnet_fast/core/ops.py.
//
// Only the libtorch stable ABI is used, so that one module serves every Python >= 3.10 and every
// torch >= 2.10.  Memory beyond the results is O(N + M).  Results do not depend on the number of
// threads: a point's sum over bumps and a bump's sum over points are always taken in one order.
#include <Python.h>

#include "blocks.h"
#include "by_tiles.h"

namespace bump {
namespace {

#define BUMP_DISPATCH(rows, function, ...) \
  ((rows).scalar_type() == ScalarType::Float ? function<float>(__VA_ARGS__) : function<double>(__VA_ARGS__))

// Empty results for a jet: lead dimensions, then those of the derivatives, then `tail` if any.
std::tuple<Tensor, Tensor, Tensor> empty_jet(const Tensor& like, std::vector<int64_t> lead, std::vector<int64_t> tail,
                                             int64_t dim, int64_t want) {
  auto make = [&](bool wanted, int64_t dims) {
    if (!wanted) return empty(like, {0});
    std::vector<int64_t> size = lead;
    size.insert(size.end(), dims, dim);
    size.insert(size.end(), tail.begin(), tail.end());
    return empty(like, size);
  };
  return {make(true, 0), make(want >= 1, 1), make(want >= 2, want == 2 ? 1 : want == 3 ? 2 : 0)};
}

template <class T>
JetView<T> view(std::tuple<Tensor, Tensor, Tensor>& jet, int64_t outputs, int64_t dim, int want) {
  auto& [value, gradient, second] = jet;
  return points_first<T>(data<T>(value), data<T>(gradient), data<T>(second), outputs, dim, want);
}

// --- jet -----------------------------------------------------------------------------------------

// Points per task: all threads have work, and a chunk's scratch stays small.
int64_t forward_chunk(int64_t points, int64_t bumps, int64_t lanes) {
  if (points * bumps <= 2 * kTaskPairs) return std::min(kChunk, round_up(std::max<int64_t>(points, 1), lanes));
  const int64_t share = round_up(divide_up(points, 4 * int64_t(torch::stable::get_num_threads())), lanes);
  return std::min(kChunk, std::max(lanes, share));
}

template <class T>
void jet_of_all(const Bumps<T>& b, const JetView<T>& out) {
  const int64_t chunk = forward_chunk(b.points, b.count, b.kernels.lanes), size = b.components() * chunk;
  parallel(divide_up(b.points, chunk), chunk * b.count, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(b.dim * chunk + (b.outputs + 1) * size);
    T *xs = scratch.data(), *one = xs + b.dim * chunk, *sums = one + size;
    for (int64_t first = begin * chunk; first < std::min(end * chunk, b.points); first += chunk) {
      const Points<T> points = b.load_points(first, std::min(chunk, b.points - first), chunk, xs);
      if (b.outputs == 1)
        b.kernels.jet[b.want](points, b.bump(0), b.count, sums, chunk);
      else
        jet_of_many(b, All{b.count}, points, chunk, one, sums);
      for (int64_t o = 0; o < b.outputs; o++)
        store_jet(sums + o * size, chunk, points.n, b.dim, b.want, output_of(out, first, o, b.dim, b.want));
    }
  });
}

template <class T>
std::tuple<Tensor, Tensor, Tensor> jet_as(const Tensor& x, const Tensor& rows, const Tensor& frame, int64_t want,
                                          bool tied) {
  Bumps<T> b(x, rows, frame, want, tied, true);
  const auto sorted = sort_if_it_pays(b, x);
  auto result = empty_jet(x, {b.points, b.outputs}, {}, b.dim, want);
  const JetView<T> out = view<T>(result, b.outputs, b.dim, b.want);
  if (!sorted) {
    jet_of_all(b, out);
    return result;
  }
  jet_by_tiles(b, *sorted->tiles, out);
  auto& [value, gradient, second] = result;
  return {sorted->put_back(value), sorted->put_back(gradient), sorted->put_back(second)};
}

std::tuple<Tensor, Tensor, Tensor> jet(Tensor x, Tensor rows, Tensor frame, int64_t want, bool tied) {
  check(x, rows, frame, want, tied);
  return BUMP_DISPATCH(rows, jet_as, x, rows, frame, want, tied);
}

// --- gradients ---------------------------------------------------------------------------------------

// How far the given cotangents reach: what is absent costs nothing.
int64_t reach(int64_t want, const MaybeTensor& g1, const MaybeTensor& g2) {
  if (want >= 2 && g2) return want;
  return want >= 1 && g1 ? 1 : 0;
}

// Sums over the points for every bump and stretch of points, partial [stretches, bumps, width].  Tasks are blocks of
// bumps, and with few bumps also stretches, in a division that depends on the sizes alone.
template <class T>
void sums_of_all(const Bumps<T>& b, const Blocked<T>& k, const Cotangents<T>& cotangents, int64_t stretches,
                 double* partial, int64_t width) {
  const int64_t per_block = std::max<int64_t>(1, std::min<int64_t>(8, b.count / 16)),
                blocks = divide_up(b.count, per_block), sums = width - b.outputs;
  parallel(stretches * blocks, per_block * (b.points / stretches + 1), [&](int64_t begin, int64_t end) {
    std::unique_ptr<T[]> scratch(new T[2 * k.cot_size]);
    for (int64_t task = begin; task < end; task++) {
      const int64_t stretch = task / blocks, first = task % blocks * per_block,
                    last = std::min(b.count, first + per_block);
      for (int64_t c = stretch * k.chunks / stretches; c < (stretch + 1) * k.chunks / stretches; c++)
        for (int64_t m = first; m < last; m++) {
          double* out = partial + (stretch * b.count + m) * width;
          b.kernels.vjp_rows[b.want](k.at(c), b.bump(m), cotangents.of(m, c, scratch.get()), k.chunk, out);
          if (k.outputs > 1) add_amplitude_gradients(b, k, m, c, scratch.get() + k.cot_size, out + sums);
        }
    }
  });
}

// Gradient of the rows from their sums.
template <class T>
void unpack_gradients(const Bumps<T>& b, const Cotangents<T>& cotangents, int64_t stretches, const double* partial,
                      int64_t width, T* grad) {
  const int64_t sums = width - b.outputs;
  parallel(b.count, 64, [&](int64_t begin, int64_t end) {
    std::vector<double> total(width), shape(b.shape_columns);
    for (int64_t m = begin; m < end; m++) {
      std::fill(total.begin(), total.end(), 0.);
      for (int64_t s = 0; s < stretches; s++)
        for (int64_t i = 0; i < width; i++) total[i] += partial[(s * b.count + m) * width + i];
      if (cotangents.blocked.outputs == 1) total[sums] = total[0];
      const double weight = cotangents.weight(m);
      b.kernels.unpack_gradient(b.row(m), b.frame_data(), b.tied, total.data(), shape.data());
      for (int64_t i = 0; i < b.shape_columns; i++) grad[m * b.columns + i] = T(weight * shape[i]);
      for (int64_t o = 0; o < b.outputs; o++) grad[m * b.columns + b.shape_columns + o] = T(total[sums + o]);
    }
  });
}

// Gradients of x and rows; with tiles of the points by their active pairs alone.
template <class T>
std::tuple<Tensor, Tensor> gradients(const Bumps<T>& b, const Blocked<T>& k, const Cotangents<T>& cotangents,
                                     const Tensor& x, const Tensor& rows, bool need_x, bool need_rows,
                                     Tiles<T>* tiles = nullptr) {
  Tensor gx = need_x ? empty(x, {b.points, b.dim}) : empty(x, {0});
  Tensor grows = need_rows ? empty(rows, {b.count, b.columns}) : empty(rows, {0});
  const std::vector<double> values = tiles ? value_cotangents(b, k, *tiles) : std::vector<double>();
  if (need_x && tiles) {
    x_gradient_by_tiles(b, k, cotangents, *tiles, data<T>(gx));
  } else if (need_x) {
    T* to = data<T>(gx);
    parallel(k.chunks, k.chunk * b.count, [&](int64_t begin, int64_t end) {
      std::unique_ptr<T[]> scratch(new T[k.cot_size + k.x_size]);
      for (int64_t c = begin; c < end; c++) x_gradient_of_chunk(b, k, cotangents, c, All{b.count}, scratch.get(), to);
    });
  }
  if (need_rows) {
    const int64_t width = sums_count(b.dim) + b.outputs;
    const int64_t few = divide_up(32, std::max<int64_t>(b.count, 1));
    const int64_t stretches = tiles ? 1 : std::max<int64_t>(1, std::min(k.chunks, few));
    std::vector<double> partial(stretches * b.count * width, 0.);
    if (tiles)
      sums_by_tiles(b, k, cotangents, *tiles, values, partial.data(), width);
    else
      sums_of_all(b, k, cotangents, stretches, partial.data(), width);
    unpack_gradients(b, cotangents, stretches, partial.data(), width, data<T>(grows));
  }
  return {gx, grows};
}

template <class T>
std::tuple<Tensor, Tensor> jet_vjp_as(MaybeTensor g0, MaybeTensor g1, MaybeTensor g2, const Tensor& x,
                                      const Tensor& rows, const Tensor& frame, int64_t want, bool tied, bool need_x,
                                      bool need_rows) {
  Bumps<T> b(x, rows, frame, want, tied, false);
  const auto sorted = sort_if_it_pays(b, x);
  if (sorted) g0 = sorted->taken(g0), g1 = sorted->taken(g1), g2 = sorted->taken(g2);
  const auto g = points_first<const T>(data<T>(g0), data<T>(g1), data<T>(g2), b.outputs, b.dim, b.want);
  const Blocked<T> k = block(b, g, b.outputs, sorted ? kTile : kChunk);
  Tiles<T>* tiles = sorted ? sorted->tiles.get() : nullptr;
  auto result = gradients(b, k, Cotangents<T>{b, k, {}}, x, rows, need_x, need_rows, tiles);
  if (sorted && need_x) std::get<0>(result) = sorted->put_back(std::get<0>(result));
  return result;
}

std::tuple<Tensor, Tensor> jet_vjp(MaybeTensor g0, MaybeTensor g1, MaybeTensor g2, Tensor x, Tensor rows, Tensor frame,
                                   int64_t want, bool tied, bool need_x, bool need_rows) {
  check(x, rows, frame, want, tied);
  const int64_t d = x.size(1), outputs = rows.size(1) - 2 * d - d * (d - 1) / 2 - (tied ? 1 : 2);
  make_contiguous(g0, g1, g2, x.size(0) * outputs, x, want);
  return BUMP_DISPATCH(rows, jet_vjp_as, g0, g1, g2, x, rows, frame, reach(want, g1, g2), tied, need_x, need_rows);
}

// --- basis -----------------------------------------------------------------------------------------

// Tensors [M, ..., N]: one bump's entries follow each other N apart.
template <class T>
JetView<T> points_last(T* value, T* gradient, T* second, int64_t points) {
  return {value, gradient, second, 1, 1, 1, points};
}

template <class T>
std::tuple<Tensor, Tensor, Tensor> basis_as(const Tensor& x, const Tensor& rows, const Tensor& frame, int64_t want,
                                            bool tied) {
  const Bumps<T> b(x, rows, frame, want, tied, false);
  auto result = empty_jet(x, {b.count}, {b.points}, b.dim, want);
  auto& [value, gradient, second] = result;
  const JetView<T> out = points_last(data<T>(value), data<T>(gradient), data<T>(second), b.points);
  const Blocked<T> k = block(b, JetView<const T>{}, 0);
  const int64_t seconds = second_size(b.dim, b.want);
  parallel(b.count * k.chunks, k.chunk, [&](int64_t begin, int64_t end) {
    std::unique_ptr<T[]> jet(new T[k.cot_size]);
    for (int64_t task = begin; task < end; task++) {
      const int64_t m = task / k.chunks, c = task % k.chunks, first = c * k.chunk, row = m * b.points;
      const Points<T> points = k.at(c);
      b.kernels.basis[b.want](points, b.bump(m), jet.get(), k.chunk);
      store_jet(jet.get(), k.chunk, points.n, b.dim, b.want,
                out.at(row + first, row * b.dim + first, row * seconds + first));
    }
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor> basis(Tensor x, Tensor rows, Tensor frame, int64_t want, bool tied) {
  check(x, rows, frame, want, tied);
  return BUMP_DISPATCH(rows, basis_as, x, rows, frame, want, tied);
}

template <class T>
std::tuple<Tensor, Tensor> basis_vjp_as(const MaybeTensor& g0, const MaybeTensor& g1, const MaybeTensor& g2,
                                        const Tensor& x, const Tensor& rows, const Tensor& frame, int64_t want,
                                        bool tied, bool need_x, bool need_rows) {
  const Bumps<T> b(x, rows, frame, want, tied, false);
  const Blocked<T> k = block(b, JetView<const T>{}, 0);
  const Cotangents<T> cotangents{b, k, points_last(data<T>(g0), data<T>(g1), data<T>(g2), b.points)};
  return gradients(b, k, cotangents, x, rows, need_x, need_rows);
}

std::tuple<Tensor, Tensor> basis_vjp(MaybeTensor g0, MaybeTensor g1, MaybeTensor g2, Tensor x, Tensor rows,
                                     Tensor frame, int64_t want, bool tied, bool need_x, bool need_rows) {
  check(x, rows, frame, want, tied);
  make_contiguous(g0, g1, g2, x.size(0) * rows.size(0), x, want);
  return BUMP_DISPATCH(rows, basis_vjp_as, g0, g1, g2, x, rows, frame, reach(want, g1, g2), tied, need_x, need_rows);
}

// --- design matrix ---------------------------------------------------------------------------------

template <class T>
std::tuple<Tensor, Tensor> design_as(const MaybeTensor& c0, const MaybeTensor& c1, const MaybeTensor& c2,
                                     const Tensor& x, const Tensor& rows, const Tensor& frame, int64_t want, bool tied,
                                     bool derivatives) {
  const Bumps<T> b(x, rows, frame, want, tied, false);
  const int64_t columns = derivatives ? b.shape_columns : 0;
  Tensor Phi = empty(x, {b.count, b.points}), D = derivatives ? empty(x, {b.count, columns, b.points}) : empty(x, {0});
  T *phi = data<T>(Phi), *d = derivatives ? data<T>(D) : nullptr;
  const Blocked<T> k = block(b, points_first<const T>(data<T>(c0), data<T>(c1), data<T>(c2), 1, b.dim, b.want), 1);
  parallel(b.count * k.chunks, k.chunk, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t m = task / k.chunks, c = task % k.chunks, at = m * b.points + c * k.chunk;
      T* out = d ? d + m * columns * b.points + c * k.chunk : nullptr;
      b.kernels.design[b.want](k.at(c), b.bump(m), k.cotangents(c, 0), k.chunk, tied, phi + at, out, b.points);
    }
  });
  return {Phi, D};
}

std::tuple<Tensor, Tensor> design(MaybeTensor c0, MaybeTensor c1, MaybeTensor c2, Tensor x, Tensor rows, Tensor frame,
                                  int64_t want, bool tied, bool derivatives) {
  check(x, rows, frame, want, tied);
  make_contiguous(c0, c1, c2, x.size(0), x, want);
  return BUMP_DISPATCH(rows, design_as, c0, c1, c2, x, rows, frame, reach(want, c1, c2), tied, derivatives);
}

// --- variants --------------------------------------------------------------------------------------

// Bit i is set when variant i is built and this processor runs it.
int64_t cpu_variants() {
  int64_t mask = 0;
  for (int v = 0; v < kVariants; v++) mask |= int64_t(runs(v)) << v;
  return mask;
}

// The variant in use, after choosing one if asked (not negative).
int64_t cpu_variant(int64_t choose) {
  if (choose >= 0) {
    STD_TORCH_CHECK(choose < kVariants && runs(int(choose)), "this processor cannot run the chosen variant");
    chosen_variant() = int(choose);
  }
  return chosen_variant();
}

// Whether pairs that add nothing are left out (cull.h), after a choice if not negative.
int64_t cpu_culling(int64_t choose) {
  if (choose >= 0) {
    STD_TORCH_CHECK(choose <= kAlways, "culling is 0 (never), 1 (where it pays) or 2 (always)");
    chosen_culling() = int(choose);
  }
  return chosen_culling();
}

}  // namespace
}  // namespace bump

STABLE_TORCH_LIBRARY_FRAGMENT(bumpnet_fast, m) {
  m.def("_cpu_variants() -> int");
  m.def("_cpu_variant(int choose) -> int");
  m.def("_cpu_culling(int choose) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(bumpnet_fast, CompositeExplicitAutograd, m) {
  m.impl("_cpu_variants", TORCH_BOX(&bump::cpu_variants));
  m.impl("_cpu_variant", TORCH_BOX(&bump::cpu_variant));
  m.impl("_cpu_culling", TORCH_BOX(&bump::cpu_culling));
}

STABLE_TORCH_LIBRARY_IMPL(bumpnet_fast, CPU, m) {
  m.impl("jet", TORCH_BOX(&bump::jet));
  m.impl("jet_vjp", TORCH_BOX(&bump::jet_vjp));
  m.impl("basis", TORCH_BOX(&bump::basis));
  m.impl("basis_vjp", TORCH_BOX(&bump::basis_vjp));
  m.impl("design", TORCH_BOX(&bump::design));
}

// The module has no Python content: importing it registers the operators.
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}

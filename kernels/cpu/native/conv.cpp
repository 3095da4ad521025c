// Convolution on plain NHWC activations and KRSC weights: 3x3 filters of 16 channels and more by
// Winograd's algorithm (winograd.cpp), where that pays, and all others by oneDNN where its wheel
// was there when this was built, else by our own products (direct.cpp). Ours take 1.0 to 1.2 times
// as long a step, and exist wherever a C++ compiler does.
//
// Memory and plans are kept from call to call, so a training step allocates nothing after the
// first, but for the vector of a few pointers in which oneDNN's `execute` passes its arguments on.
//
// x, y and their gradients are float, or bf16; W and b are float; dW and db have the type of dy.
// Read next: buffer.h.

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "common.h"
#include "winograd.h"

#if LSUV_ONEDNN
#include "amx.h"
#include "onednn_conv.h"
#else
#include "direct.h"
#include "parallel.h"
#endif

namespace {

using namespace lsuv;

#if LSUV_ONEDNN && LSUV_AMX
// oneDNN's, but for the filter gradient in bf16: by AMX ours takes 0.55 to 0.98 of its time.
class Others : public OneDnnConvolutions {
public:
    template <class T>
    void backward_filter(const T* x, const T* dy, T* dW, T* db, const ConvShape& s) {
        if (ours<T>()) return direct_.backward_filter(x, dy, dW, db, s);
        OneDnnConvolutions::backward_filter(x, dy, dW, db, s);
    }
    template <class T>
    std::string name(Pass pass, const ConvShape& s) {
        if (pass == Pass::backward_filter && ours<T>()) return direct_.name<T>(pass, s);
        return OneDnnConvolutions::name<T>(pass, s);
    }

private:
    template <class T>
    static bool ours() {
        return std::is_same_v<T, bf16> && Amx::permitted();
    }

    DirectConvolutions direct_;
};
#elif LSUV_ONEDNN
using Others = OneDnnConvolutions;
#else
using Others = DirectConvolutions;
#endif

constexpr std::int64_t FARTHEST = 1 << 20;  // the widest stride and padding

// Checks the shapes against each other; in a backward pass x, W or y is a gradient of that shape.
ConvShape shape_of(const Argument& x, const Argument& W, const Argument& y, std::int64_t stride,
                   std::int64_t pad, std::int64_t groups) {
    for (const Argument* argument : {&x, &W, &y}) countable(argument->array);
    dimensions(x.array, x.name, 4);
    dimensions(W.array, W.name, 4);
    const auto in = x.array.shape(), filter = W.array.shape();
    ConvShape s{in[0],     in[1], in[2], in[3],  filter[0], filter[1],
                filter[2], 0,     0,     stride, pad,       groups};
    const auto about = [&W] { return std::string(W.name) + " " + shape_text(W.array); };
    if (s.C < 1 || s.K < 1) {
        fail(about() + ": " + std::to_string(s.C) + " inputs and " + std::to_string(s.K) +
             " outputs; both must be at least 1");
    }
    if (stride < 1 || stride > FARTHEST) {
        fail(about() + ": stride " + std::to_string(stride) + " is not in 1 .. " +
             std::to_string(FARTHEST));
    }
    if (pad < 0 || pad > FARTHEST) {
        fail(about() + ": pad " + std::to_string(pad) + " is not in 0 .. " +
             std::to_string(FARTHEST));
    }
    if (groups < 1 || s.C % groups || s.K % groups) {
        fail(about() + ": " + std::to_string(s.C) + " inputs and " + std::to_string(s.K) +
             " outputs do not split into " + std::to_string(groups) + " groups");
    }
    if (filter[3] != s.C / groups) {
        fail(about() + " reads " + std::to_string(filter[3]) + " channels, a group of " +
             shape_text(x.array) + " has " + std::to_string(s.C / groups));
    }
    if (s.R < 1 || s.S < 1 || s.H + 2 * pad < s.R || s.W + 2 * pad < s.S) {
        fail(about() + " does not fit into " + shape_text(x.array) + " with pad " +
             std::to_string(pad));
    }
    s.Ho = (s.H + 2 * pad - s.R) / stride + 1;
    s.Wo = (s.W + 2 * pad - s.S) / stride + 1;
    shaped(y.array, y.name, {s.N, s.Ho, s.Wo, s.K});
    return s;
}

// The memory of one device object's convolutions; one call at a time uses it (cpu_lock).
class Convolutions {
public:
    // direct: none by Winograd's algorithm, for comparison.
    explicit Convolutions(bool direct) : direct_(direct) {}

    template <class T>
    void forward(const py::array& x, const py::array& W, const Optional& b, const py::array& y,
                 std::int64_t stride, std::int64_t pad, std::int64_t groups) {
        const Argument ax{x, "conv_forward: x"}, aW{W, "conv_forward: W"}, ay{y, "conv_forward: y"};
        const ConvShape s = shape_of(ax, aW, ay, stride, pad, groups);
        if (b) shaped(*b, "conv_forward: b", {s.K});
        const T* x_data = input<T>(x, ax.name);
        const float* W_data = input<float>(W, aW.name);
        const float* b_data = b ? input<float>(*b, "conv_forward: b") : nullptr;
        T* y_data = output<T>(y, ay.name);
        apart({ay}, {ax, aW, {or_empty(b), "b"}});
        if (s.N == 0) return;

        py::gil_scoped_release release;
        std::lock_guard<std::mutex> guard(cpu_lock());
        if (minimal<T>(Pass::forward, s)) {
            return winograd_forward(x_data, W_data, b_data, y_data, winograd_shape(s), workspace_);
        }
        others_.forward(x_data, W_data, b_data, y_data, s);
    }

    template <class T>
    void backward_data(const py::array& dy, const py::array& W, const py::array& dx,
                       std::int64_t stride, std::int64_t pad, std::int64_t groups) {
        const Argument ay{dy, "conv_backward_data: dy"}, aW{W, "conv_backward_data: W"},
            ax{dx, "conv_backward_data: dx"};
        const ConvShape s = shape_of(ax, aW, ay, stride, pad, groups);
        const T* dy_data = input<T>(dy, ay.name);
        const float* W_data = input<float>(W, aW.name);
        T* dx_data = output<T>(dx, ax.name);
        apart({ax}, {ay, aW});
        if (s.N == 0) return;

        py::gil_scoped_release release;
        std::lock_guard<std::mutex> guard(cpu_lock());
        if (minimal<T>(Pass::backward_data, s)) {
            return winograd_backward_data(dy_data, W_data, dx_data, winograd_shape(s), workspace_);
        }
        others_.backward_data(dy_data, W_data, dx_data, s);
    }

    template <class T>
    void backward_filter(const py::array& x, const py::array& dy, const py::array& dW,
                         const Optional& db, std::int64_t stride, std::int64_t pad,
                         std::int64_t groups) {
        const Argument ax{x, "conv_backward_filter: x"}, ay{dy, "conv_backward_filter: dy"},
            aW{dW, "conv_backward_filter: dW"};
        const ConvShape s = shape_of(ax, aW, ay, stride, pad, groups);
        if (db) shaped(*db, "conv_backward_filter: db", {s.K});
        const T* x_data = input<T>(x, ax.name);
        const T* dy_data = input<T>(dy, ay.name);
        T* dW_data = output<T>(dW, aW.name);
        T* db_data = db ? output<T>(*db, "conv_backward_filter: db") : nullptr;
        apart({aW, {or_empty(db), "conv_backward_filter: db"}}, {ax, ay});
        if (s.N == 0) {
            std::fill_n(dW_data, dW.size(), T{});
            if (db_data) std::fill_n(db_data, s.K, T{});
            return;
        }

        py::gil_scoped_release release;
        std::lock_guard<std::mutex> guard(cpu_lock());
        if (minimal<T>(Pass::backward_filter, s)) {
            return winograd_backward_filter(x_data, dy_data, dW_data, db_data, winograd_shape(s),
                                            workspace_);
        }
        others_.backward_filter(x_data, dy_data, dW_data, db_data, s);
    }

    // How every convolution so far was computed, by its shapes, in words.
    std::map<std::string, std::string> plans() const {
        py::gil_scoped_release release;
        std::lock_guard<std::mutex> guard(cpu_lock());
        std::map<std::string, std::string> names;
        for (const auto& [key, how] : calls_) names[words(key)] = how;
        return names;
    }

private:
    static WinogradShape winograd_shape(const ConvShape& s) { return {s.N, s.H, s.W, s.C, s.K}; }

    // Whether Winograd's minimal filtering computes it.
    template <class T>
    bool minimal(Pass pass, const ConvShape& s) {
        const bool pays = !direct_ && s.R == 3 && s.S == 3 && s.stride == 1 && s.pad == 1 &&
                          s.groups == 1 &&
                          winograd_pays<T>(winograd_shape(s), pass == Pass::backward_filter);
        const ConvKey key = s.key(pass, sizeof(T));
        if (!calls_.count(key)) calls_[key] = pays ? "winograd" : others_.template name<T>(pass, s);
        return pays;
    }

    // "conv_forward 128x32x32x16 -> 32, 3x3, stride 1, pad 1, groups 1, f32, 2 threads"
    static std::string words(const ConvKey& key) {
        const auto [pass, N, H, W, C, K, R, S, stride, pad, groups, bytes, threads] = key;
        const char* names[] = {"conv_forward", "conv_backward_data", "conv_backward_filter"};
        const auto text = [](std::int64_t value) { return std::to_string(value); };
        return names[pass] + (" " + text(N)) + "x" + text(H) + "x" + text(W) + "x" + text(C) +
               " -> " + text(K) + ", " + text(R) + "x" + text(S) + ", stride " + text(stride) +
               ", pad " + text(pad) + ", groups " + text(groups) +
               (bytes == sizeof(bf16) ? ", bf16, " : ", f32, ") + text(threads) +
               (threads == 1 ? " thread" : " threads");
    }

    const bool direct_;
    std::map<ConvKey, std::string> calls_;  // how each so far was computed
    WinogradWorkspace workspace_;
    Others others_;
};

}  // namespace

void bind_conv(py::module_& m) {
    using namespace py::literals;
    using Array = const py::array&;
    using Whole = std::int64_t;
    py::class_<Convolutions>(m, "Convolutions", "convolutions, with the memory that they keep")
        .def(py::init<bool>(), "direct"_a.noconvert() = false)
        .def(
            "conv_forward",
            [](Convolutions& all, Array x, Array W, const Optional& b, Array y, Whole stride,
               Whole pad, Whole groups) {
                by_type(x,
                        [&](auto t) { all.forward<decltype(t)>(x, W, b, y, stride, pad, groups); });
            },
            "x"_a, "W"_a, "b"_a, "y"_a, "stride"_a.noconvert(), "pad"_a.noconvert(),
            "groups"_a.noconvert())
        .def(
            "conv_backward_data",
            [](Convolutions& all, Array dy, Array W, Array dx, Whole stride, Whole pad,
               Whole groups) {
                by_type(dy, [&](auto t) {
                    all.backward_data<decltype(t)>(dy, W, dx, stride, pad, groups);
                });
            },
            "dy"_a, "W"_a, "dx"_a, "stride"_a.noconvert(), "pad"_a.noconvert(),
            "groups"_a.noconvert())
        .def(
            "conv_backward_filter",
            [](Convolutions& all, Array x, Array dy, Array dW, const Optional& db, Whole stride,
               Whole pad, Whole groups) {
                by_type(x, [&](auto t) {
                    all.backward_filter<decltype(t)>(x, dy, dW, db, stride, pad, groups);
                });
            },
            "x"_a, "dy"_a, "dW"_a, "db"_a, "stride"_a.noconvert(), "pad"_a.noconvert(),
            "groups"_a.noconvert())
        .def("plans", &Convolutions::plans, "how each so far was computed, by its shapes");
}

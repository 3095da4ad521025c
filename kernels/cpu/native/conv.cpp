// Convolution on plain NHWC activations and KRSC weights: 3x3 filters of 16 channels and more by
// Winograd's algorithm (winograd.cpp), where that pays, and all others by oneDNN.
//
// A plan (conv_plan.h) is built at the first use of its shapes and kept, so a training step
// allocates nothing after the first, but for the vector of a few pointers in which oneDNN's
// `execute` passes its arguments on. Weights are copied into oneDNN's format, and their gradient
// back, at every call: 80 -> 160 filters take 0.02 to 0.04 ms beside 14 ms of arithmetic,
// 128 -> 256 on 8x8 images 0.04 to 0.05 beside 8, never more than 0.6 %, and in bf16, where the
// copy also rounds, 1.3 %. That is too little to ask whether a copy is current.
//
// x, y and their gradients are float, or bf16; W and b are float; dW and db have the type of dy.
// Read next: conv_plan.h.

#include <omp.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "columns.h"
#include "common.h"
#include "conv_plan.h"
#include "winograd.h"

namespace {

using namespace lsuv;

constexpr std::int64_t FARTHEST = 1 << 20;  // the widest stride and padding

// Checks the shapes against each other; in a backward pass x, W or y is a gradient of that shape.
// T: the elements of x and y.
template <class T>
ConvShape shape_of(const Argument& x, const Argument& W, const Argument& y, std::int64_t stride,
                   std::int64_t pad, std::int64_t groups) {
    for (const Argument* argument : {&x, &W, &y}) countable(argument->array);
    dimensions(x.array, x.name, 4);
    dimensions(W.array, W.name, 4);
    const auto in = x.array.shape(), filter = W.array.shape();
    ConvShape s{in[0], in[1], in[2],  in[3], filter[0], filter[1],     filter[2],
                0,     0,     stride, pad,   groups,    data_type<T>()};
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

// total += part, both `count` floats.
void accumulate(float* total, const float* part, std::int64_t count) {
#pragma omp parallel for simd schedule(static) if (count > 16384)
    for (std::int64_t i = 0; i < count; ++i) total[i] += part[i];
}

using Key = std::array<std::int64_t, 13>;

struct KeyHash {
    std::size_t operator()(const Key& key) const {
        std::size_t hash = 0;
        for (std::int64_t value : key) hash = hash * 1000003 + static_cast<std::size_t>(value);
        return hash;
    }
};

// The plans of one device object, and Winograd's memory; one call at a time uses them (cpu_lock).
class Convolutions {
public:
    // direct: all by oneDNN, for comparison.
    explicit Convolutions(bool direct) : direct_(direct) {}

    template <class T>
    void forward(const py::array& x, const py::array& W, const Optional& b, const py::array& y,
                 std::int64_t stride, std::int64_t pad, std::int64_t groups) {
        const Argument ax{x, "conv_forward: x"}, aW{W, "conv_forward: W"}, ay{y, "conv_forward: y"};
        const ConvShape s = shape_of<T>(ax, aW, ay, stride, pad, groups);
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
        ConvPlan& plan = plan_for(Pass::forward, s);
        point(plan.krsc, W_data);
        point(plan.x, x_data);
        point(plan.bias, b_data ? b_data : no_bias(s.K));
        point(plan.y, y_data);
        plan.reorder_weights();
        plan.run();
    }

    template <class T>
    void backward_data(const py::array& dy, const py::array& W, const py::array& dx,
                       std::int64_t stride, std::int64_t pad, std::int64_t groups) {
        const Argument ay{dy, "conv_backward_data: dy"}, aW{W, "conv_backward_data: W"},
            ax{dx, "conv_backward_data: dx"};
        const ConvShape s = shape_of<T>(ax, aW, ay, stride, pad, groups);
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
        ConvPlan& plan = plan_for(Pass::backward_data, s);
        point(plan.krsc, W_data);
        point(plan.y, dy_data);
        point(plan.x, dx_data);
        plan.reorder_weights();
        plan.run();
    }

    template <class T>
    void backward_filter(const py::array& x, const py::array& dy, const py::array& dW,
                         const Optional& db, std::int64_t stride, std::int64_t pad,
                         std::int64_t groups) {
        const Argument ax{x, "conv_backward_filter: x"}, ay{dy, "conv_backward_filter: dy"},
            aW{dW, "conv_backward_filter: dW"};
        const ConvShape s = shape_of<T>(ax, aW, ay, stride, pad, groups);
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
        ConvPlan& plan = plan_for(Pass::backward_filter, s);
        point(plan.krsc, dW_data);
        // Not reordered, the primitive's format is KRSC itself, and of floats.
        float* const total = floats(plan.reordered ? plan.copy : plan.krsc);
        point(plan.weights, total);  // a call that failed may have left it at `partial`
        const std::int64_t count = plan.weights.get_desc().get_size() / sizeof(float);
        bias_.start(s.K);
        for (std::int64_t image = 0; image < s.N; image += plan.chunk) {
            point(plan.x, x_data + image * s.x_image());
            point(plan.y, dy_data + image * s.y_image());
            if (db_data) bias_.add(dy_data + image * s.y_image(), plan.chunk * s.Ho * s.Wo);
            if (image > 0) point(plan.weights, floats(plan.partial));
            plan.run();
            if (image > 0) accumulate(total, floats(plan.partial), count);
        }
        point(plan.weights, total);
        plan.reorder_weights();
        if (db_data) bias_.finish(db_data);
    }

    // How every convolution so far was computed, by its shapes, in words.
    std::map<std::string, std::string> plans() const {
        py::gil_scoped_release release;
        std::lock_guard<std::mutex> guard(cpu_lock());
        std::map<std::string, std::string> names;
        for (const auto& [key, plan] : plans_) names[words(key)] = implementation(plan);
        for (const Key& key : minimal_) names[words(key)] = "winograd";
        return names;
    }

private:
    static WinogradShape winograd_shape(const ConvShape& s) { return {s.N, s.H, s.W, s.C, s.K}; }

    static Key key_of(Pass pass, const ConvShape& s) {
        return {static_cast<std::int64_t>(pass),
                s.N,
                s.H,
                s.W,
                s.C,
                s.K,
                s.R,
                s.S,
                s.stride,
                s.pad,
                s.groups,
                static_cast<std::int64_t>(s.type),
                omp_get_max_threads()};
    }

    // Whether Winograd's minimal filtering computes it.
    template <class T>
    bool minimal(Pass pass, const ConvShape& s) {
        const bool pays = !direct_ && s.R == 3 && s.S == 3 && s.stride == 1 && s.pad == 1 &&
                          s.groups == 1 &&
                          winograd_pays<T>(winograd_shape(s), pass == Pass::backward_filter);
        if (pays) minimal_.insert(key_of(pass, s));
        return pays;
    }

    // "conv_forward 128x32x32x16 -> 32, 3x3, stride 1, pad 1, groups 1, f32, 2 threads"
    static std::string words(const Key& key) {
        const auto [pass, N, H, W, C, K, R, S, stride, pad, groups, type, threads] = key;
        const char* names[] = {"conv_forward", "conv_backward_data", "conv_backward_filter"};
        const auto text = [](std::int64_t value) { return std::to_string(value); };
        const bool narrow = type == static_cast<std::int64_t>(data_type<bf16>());
        return names[pass] + (" " + text(N)) + "x" + text(H) + "x" + text(W) + "x" + text(C) +
               " -> " + text(K) + ", " + text(R) + "x" + text(S) + ", stride " + text(stride) +
               ", pad " + text(pad) + ", groups " + text(groups) +
               (narrow ? ", bf16, " : ", f32, ") + text(threads) +
               (threads == 1 ? " thread" : " threads");
    }

    // oneDNN's own name for how a plan computes, such as brgconv:avx512_core.
    static std::string implementation(const ConvPlan& plan) {
        const char* name = nullptr;
        dnnl_primitive_desc_query(plan.primitive.get_primitive_desc(), dnnl_query_impl_info_str, 0,
                                  &name);
        return std::string("oneDNN ") + (name ? name : "unknown");
    }

    ConvPlan& plan_for(Pass pass, const ConvShape& s) {
        const Key key = key_of(pass, s);
        const auto entry = plans_.find(key);
        if (entry != plans_.end()) return entry->second;
        if (pass == Pass::forward) return plans_.emplace(key, plan_forward(s)).first->second;
        if (pass == Pass::backward_data) {
            return plans_.emplace(key, plan_backward_data(s)).first->second;
        }
        return plans_.emplace(key, plan_backward_filter(s)).first->second;
    }

    const bool direct_;
    std::unordered_map<Key, ConvPlan, KeyHash> plans_;
    std::unordered_set<Key, KeyHash> minimal_;  // what Winograd's minimal filtering computed
    WinogradWorkspace workspace_;
    ColumnSums bias_;
};

}  // namespace

void bind_conv(py::module_& m) {
    using namespace py::literals;
    using Array = const py::array&;
    using Whole = std::int64_t;
    py::class_<Convolutions>(m, "Convolutions", "convolution plans by shape, built at first use")
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

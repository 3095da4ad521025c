// Convolutions by oneDNN, with the interface of direct.h. A plan is built at the first use of its
// shapes and kept.
//
// Weights are copied into oneDNN's format, and their gradient back, at every call: 80 -> 160
// filters take 0.02 to 0.04 ms beside 14 ms of arithmetic, 128 -> 256 on 8x8 images 0.04 to 0.05
// beside 8, never more than 0.6 %, and in bf16, where the copy also rounds, 1.3 %. That is too
// little to ask whether a copy is current. Read next: onednn.h.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "columns.h"
#include "conv_plan.h"
#include "parallel.h"

namespace lsuv {

// total += part, both `count` floats.
inline void accumulate(float* total, const float* part, std::int64_t count) {
#pragma omp parallel for simd schedule(static) if (count > 16384)
    for (std::int64_t i = 0; i < count; ++i) total[i] += part[i];
}

// One call uses it at a time.
class OneDnnConvolutions {
public:
    template <class T>
    void forward(const T* x, const float* W, const float* b, T* y, const ConvShape& shape) {
        ConvPlan& plan = plan_for<T>(Pass::forward, shape);
        point(plan.krsc, W);
        point(plan.x, x);
        point(plan.bias, b ? b : no_bias(shape.K));
        point(plan.y, y);
        plan.reorder_weights();
        plan.run();
    }

    template <class T>
    void backward_data(const T* dy, const float* W, T* dx, const ConvShape& shape) {
        ConvPlan& plan = plan_for<T>(Pass::backward_data, shape);
        point(plan.krsc, W);
        point(plan.y, dy);
        point(plan.x, dx);
        plan.reorder_weights();
        plan.run();
    }

    template <class T>
    void backward_filter(const T* x, const T* dy, T* dW, T* db, const ConvShape& shape) {
        const PlanShape s{shape, data_type<T>()};
        ConvPlan& plan = plan_for<T>(Pass::backward_filter, shape);
        point(plan.krsc, dW);
        // Not reordered, the primitive's format is KRSC itself, and of floats.
        float* const total = floats(plan.reordered ? plan.copy : plan.krsc);
        point(plan.weights, total);  // a call that failed may have left it at `partial`
        const std::int64_t count = plan.weights.get_desc().get_size() / sizeof(float);
        bias_.start(s.K);
        for (std::int64_t image = 0; image < s.N; image += plan.chunk) {
            point(plan.x, x + image * s.x_image());
            point(plan.y, dy + image * s.y_image());
            if (db) bias_.add(dy + image * s.y_image(), plan.chunk * s.Ho * s.Wo);
            if (image > 0) point(plan.weights, floats(plan.partial));
            plan.run();
            if (image > 0) accumulate(total, floats(plan.partial), count);
        }
        point(plan.weights, total);
        plan.reorder_weights();
        if (db) bias_.finish(db);
    }

    // oneDNN's own name for how it computed a pass, such as oneDNN brgconv:avx512_core.
    template <class T>
    std::string name(Pass pass, const ConvShape& shape) {
        const char* name = nullptr;
        dnnl_primitive_desc_query(plan_for<T>(pass, shape).primitive.get_primitive_desc(),
                                  dnnl_query_impl_info_str, 0, &name);
        return std::string("oneDNN ") + (name ? name : "unknown");
    }

private:
    template <class T>
    ConvPlan& plan_for(Pass pass, const ConvShape& shape) {
        const PlanShape s{shape, data_type<T>()};
        const ConvKey key = s.key(pass, sizeof(T));
        const auto entry = plans_.find(key);
        if (entry != plans_.end()) return entry->second;
        if (pass == Pass::forward) return plans_.emplace(key, plan_forward(s)).first->second;
        if (pass == Pass::backward_data) {
            return plans_.emplace(key, plan_backward_data(s)).first->second;
        }
        return plans_.emplace(key, plan_backward_filter(s)).first->second;
    }

    std::map<ConvKey, ConvPlan> plans_;
    ColumnSums bias_;
};

}  // namespace lsuv

// What oneDNN needs to run one pass of one convolution: primitive, reorder and their memory.
//
// oneDNN's kernels read and write NHWC directly, so an activation is never copied. Weights are:
// each pass wants them in a blocked format of its own, and in bf16 rounded on the way.
// Read next: onednn_conv.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "onednn.h"

namespace lsuv {

using dnnl::memory;
using Tag = dnnl::memory::format_tag;
constexpr memory::data_type FLOAT = memory::data_type::f32;

struct PlanShape : ConvShape {
    memory::data_type type;  // of the activations and their gradients

    memory::desc x(std::int64_t images) const { return {{images, C, H, W}, type, Tag::nhwc}; }
    memory::desc y(std::int64_t images) const { return {{images, K, Ho, Wo}, type, Tag::nhwc}; }
    memory::dims weights() const {
        if (groups == 1) return {K, C, R, S};
        return {groups, K / groups, C / groups, R, S};
    }
    // KRSC as oneDNN names it; a group is a block of rows, so groups only split the first axis.
    memory::desc krsc(memory::data_type of) const {
        return {weights(), of, groups == 1 ? Tag::ohwi : Tag::gohwi};
    }
    memory::desc any_weights(memory::data_type of) const { return {weights(), of, Tag::any}; }
    memory::dims strides() const { return {stride, stride}; }
    memory::dims pad_begin() const { return {pad, pad}; }
    // Rows below the last window are not read: the end padding is what the output size uses.
    memory::dims pad_end() const {
        return {(Ho - 1) * stride + R - H - pad, (Wo - 1) * stride + S - W - pad};
    }
    std::int64_t x_image() const { return H * W * C; }    // elements
    std::int64_t y_image() const { return Ho * Wo * K; }  // elements
};

// One pass: its primitive, and the weights' way from KRSC into the primitive's format or back.
struct ConvPlan {
    std::int64_t chunk = 0;  // images of one execution
    dnnl::primitive primitive;
    memory x, y, bias;  // views of the caller's arrays; `arguments` share them
    memory krsc;        // view of the caller's weights
    memory weights;     // in the primitive's format: a view of `copy`, or krsc itself
    memory copy;        // the weights in that format
    memory partial;     // filter gradient of a later chunk, in that format
    dnnl::primitive reorder;
    Arguments arguments, reorder_arguments;
    bool reordered = false;

    void run() { primitive.execute(cpu_stream(), arguments); }
    void reorder_weights() {
        if (reordered) reorder.execute(cpu_stream(), reorder_arguments);
    }
};

inline dnnl::primitive_attr scratchpad_of_plan() {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    return attributes;
}

inline dnnl::convolution_forward::primitive_desc forward_desc(const PlanShape& s,
                                                              std::int64_t images) {
    return {cpu_engine(),
            dnnl::prop_kind::forward_training,
            dnnl::algorithm::convolution_direct,
            s.x(images),
            s.any_weights(s.type),
            float_desc({s.K}, Tag::x),
            s.y(images),
            s.strides(),
            s.pad_begin(),
            s.pad_end(),
            scratchpad_of_plan()};
}

// What is the same in all three passes, once primitive and weight format are known. krsc: the
// caller's weights, read or (from_user false) written.
inline void finish(ConvPlan& plan, const PlanShape& s, std::int64_t images,
                   const memory::desc& weights, const memory::desc& krsc,
                   const memory::desc& scratchpad, bool from_user) {
    plan.chunk = images;
    plan.x = view_of(s.x(images));
    plan.y = view_of(s.y(images));
    plan.bias = view_of(float_desc({s.K}, Tag::x));
    plan.krsc = view_of(krsc);
    plan.reordered = weights != krsc;
    plan.weights = plan.krsc;
    if (plan.reordered) {
        plan.copy = buffer_of(weights);
        plan.weights = view_of(weights);
        point(plan.weights, floats(plan.copy));
        const memory& source = from_user ? plan.krsc : plan.weights;
        const memory& target = from_user ? plan.weights : plan.krsc;
        plan.reorder = dnnl::reorder(source, target);
        plan.reorder_arguments = {{DNNL_ARG_SRC, source}, {DNNL_ARG_DST, target}};
    }
    plan.arguments[DNNL_ARG_SCRATCHPAD] = buffer_of(scratchpad);
}

inline ConvPlan plan_forward(const PlanShape& s) {
    const auto desc = forward_desc(s, s.N);
    ConvPlan plan;
    plan.primitive = dnnl::convolution_forward(desc);
    finish(plan, s, s.N, desc.weights_desc(), s.krsc(FLOAT), desc.scratchpad_desc(), true);
    plan.arguments.insert({{DNNL_ARG_SRC, plan.x},
                           {DNNL_ARG_WEIGHTS, plan.weights},
                           {DNNL_ARG_BIAS, plan.bias},
                           {DNNL_ARG_DST, plan.y}});
    return plan;
}

inline ConvPlan plan_backward_data(const PlanShape& s) {
    const dnnl::convolution_backward_data::primitive_desc desc(
        cpu_engine(), dnnl::algorithm::convolution_direct, s.x(s.N), s.any_weights(s.type),
        s.y(s.N), s.strides(), s.pad_begin(), s.pad_end(), forward_desc(s, s.N),
        scratchpad_of_plan());
    ConvPlan plan;
    plan.primitive = dnnl::convolution_backward_data(desc);
    finish(plan, s, s.N, desc.weights_desc(), s.krsc(FLOAT), desc.scratchpad_desc(), true);
    plan.arguments.insert({{DNNL_ARG_DIFF_DST, plan.y},
                           {DNNL_ARG_WEIGHTS, plan.weights},
                           {DNNL_ARG_DIFF_SRC, plan.x}});
    return plan;
}

// Images that conv_backward_filter hands to oneDNN at a time.
//
// oneDNN's filter gradient reads NHWC with a stride, which streams badly from memory: 32x32 images,
// 32 -> 64 filters, batch 128, take 12.8 ms. In chunks that fit the last-level cache, each just
// read in full by the bias sum, they take 10.4 ms with that sum; 48 -> 96 goes from 26 to 22.5 ms.
// A blocked layout takes 9.6 ms, but 13.5 ms with the reordering of x and dy, and 11.7 ms at best
// with that done chunk by chunk. Where x and dy of the batch fit whole (8x8 images), smaller chunks
// only lose time. In bf16 oneDNN turns its operands itself, and chunks change nothing.
inline std::int64_t images_of_chunk(const PlanShape& s) {
    constexpr std::int64_t CACHE = 13 << 20;  // bytes
    if (s.type != FLOAT) return s.N;
    const std::int64_t bytes = 4 * s.N * (s.x_image() + s.y_image());
    const std::int64_t fewest = (bytes + CACHE - 1) / CACHE;
    for (std::int64_t parts = fewest; parts <= std::min(2 * fewest, s.N); ++parts) {
        if (s.N % parts == 0) return s.N / parts;
    }
    return s.N;
}

inline ConvPlan plan_backward_filter(const PlanShape& s) {
    const std::int64_t images = images_of_chunk(s);
    // Without oneDNN's bias gradient: in NHWC it costs 4.5 ms where our own sum takes 0.3 ms.
    const dnnl::convolution_backward_weights::primitive_desc desc(
        cpu_engine(), dnnl::algorithm::convolution_direct, s.x(images), s.any_weights(FLOAT),
        s.y(images), s.strides(), s.pad_begin(), s.pad_end(), forward_desc(s, images),
        scratchpad_of_plan());
    ConvPlan plan;
    plan.primitive = dnnl::convolution_backward_weights(desc);
    // Summed in float, whatever the operands; in bf16 the way back to KRSC rounds it once.
    finish(plan, s, images, desc.diff_weights_desc(), s.krsc(s.type), desc.scratchpad_desc(),
           false);
    if (images < s.N) plan.partial = buffer_of(desc.diff_weights_desc());
    plan.arguments.insert({{DNNL_ARG_SRC, plan.x},
                           {DNNL_ARG_DIFF_DST, plan.y},
                           {DNNL_ARG_DIFF_WEIGHTS, plan.weights}});
    return plan;
}

}  // namespace lsuv

// Memory that stays allocated from call to call and only ever grows.
//
// Read next: product.h.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>

namespace lsuv {

// Aligned to a page. One call uses it at a time.
class Buffer {
public:
    // Room for at least `count` elements; what it held is not kept when it grows.
    template <class T = float>
    T* reserve(std::int64_t count) {
        constexpr std::int64_t PAGE = 4096;
        const std::int64_t bytes =
            (static_cast<std::int64_t>(sizeof(T)) * count + PAGE - 1) / PAGE * PAGE;
        if (bytes > bytes_) {
            data_.reset();
            bytes_ = 0;
            data_.reset(std::aligned_alloc(PAGE, bytes));
            if (!data_) throw std::bad_alloc();
            bytes_ = bytes;
        }
        return static_cast<T*>(data_.get());
    }

private:
    struct Free {
        void operator()(void* data) const { std::free(data); }
    };
    std::unique_ptr<void, Free> data_;
    std::int64_t bytes_ = 0;
};

// Held by a call that uses memory kept from call to call: calls from several Python threads wait
// for each other.
inline std::mutex& cpu_lock() {
    static std::mutex lock;
    return lock;
}

}  // namespace lsuv

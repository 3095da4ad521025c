// What the threads of a launch do, written down as they do it: every access to an array or to
// shared memory, every wait, and the path through the code.
//
// The kernels are compiled with ThreadSanitizer's instrumentation and without its run time: before
// every access the compiler has put a call, and here is what it calls. At the beginning of every
// basic block stands one more, of -fsanitize-coverage=trace-pc. An access counts where it lies in
// an array of the launch or in shared memory; so locals, which lie on a fiber's stack, do not. One
// that lies nowhere of these is the last that its thread does: the launch ends with an error before
// it.
//
// Read next: double/__init__.py.

#include "emulator.h"

#include <dlfcn.h>

#include <unordered_map>
#include <vector>

namespace {

using emulator::Kind;

constexpr size_t MOST_EVENTS = 12000000;  // 192 MB

struct Event {
    uint64_t address;
    uint32_t place, thread;  // number in `places`; block * threads of a block + thread
};

// Where in the code, called from where: the address behind the call, from the library's start.
struct Place {
    uint64_t code;
    uint32_t caller;  // the place of the call of this function, or NOBODY
    Kind kind;
    uint16_t bytes;
};

constexpr uint32_t NOBODY = ~0u;

struct Range {
    uint64_t begin, end;
};

std::vector<Event> events;
std::vector<Place> places;
std::unordered_map<uint64_t, uint32_t> numbers;             // of the places
std::vector<Range> arrays;                                  // shared memory is the last one
std::unordered_map<uint32_t, std::vector<uint32_t>> calls;  // of the threads that run
uint32_t current, block_threads;
bool recording = false, full = false;

uint64_t start_of_library() {
    Dl_info info;
    dladdr(reinterpret_cast<const void*>(&start_of_library), &info);
    return reinterpret_cast<uint64_t>(info.dli_fbase);
}

const uint64_t library_start = start_of_library();

uint32_t place_of(Kind kind, uint16_t bytes, const void* from) {
    const std::vector<uint32_t>& stack = calls[current];
    const uint32_t caller = stack.empty() ? NOBODY : stack.back();
    const uint64_t code = reinterpret_cast<uint64_t>(from) - library_start;
    // A call's address belongs to one kind and size.
    const uint64_t key = uint64_t(caller) << 32 | (code & 0xffffffffu);
    const auto [at, added] = numbers.try_emplace(key, uint32_t(places.size()));
    if (added) places.push_back({code, caller, kind, bytes});
    return at->second;
}

void note(Kind kind, uint16_t bytes, uint64_t address, const void* from) {
    if (!recording) return;
    if (events.size() == MOST_EVENTS) {
        full = true;
        return;
    }
    const uint32_t place = place_of(kind, bytes, from);
    events.push_back({address, place, current});
}

// What the compiler has put into the library, threadIdx among it, may be read.
#if defined(__APPLE__)
constexpr bool in_library(uint64_t) { return true; }  // where it ends is not known
#else
extern "C" __attribute__((visibility("hidden"))) char _end;
bool in_library(uint64_t address) {
    return library_start <= address && address < reinterpret_cast<uint64_t>(&_end);
}
#endif

void access(Kind kind, uint16_t bytes, const void* pointer, const void* from) {
    if (!recording) return;
    const uint64_t address = reinterpret_cast<uint64_t>(pointer);
    for (const Range& range : arrays) {
        if (range.begin <= address && address + bytes <= range.end) {
            return note(kind, bytes, address, from);
        }
    }
    if (emulator::is_own(address) || (kind == emulator::LOAD && in_library(address))) return;
    note(kind, bytes, address, from);
    emulator::stop(kind == emulator::LOAD ? "reads outside of every array"
                                          : "writes outside of every array");
}

}  // namespace

namespace emulator {

void trace_launch(const Launch& launch) {
    arrays.push_back(
        {reinterpret_cast<uint64_t>(launch.shared), reinterpret_cast<uint64_t>(launch.shared_end)});
    block_threads = launch.block.x * launch.block.y * launch.block.z;
    recording = true;
}

void trace_enter(size_t block, int thread) { current = uint32_t(block) * block_threads + thread; }

void trace_wait(Kind kind, const void* from) { note(kind, 0, 0, from); }

}  // namespace emulator

#define VISIBLE extern "C" __attribute__((visibility("default")))
#define FROM __builtin_return_address(0)

// -- for Python -----------------------------------------------------------------------------------

// The next launch is recorded, of the accesses those to these arrays.
VISIBLE void trace_begin(const Range* of, size_t count) {
    events.clear(), places.clear(), numbers.clear(), calls.clear();
    arrays.assign(of, of + count);
    full = false;
}

// Whether all of it was recorded. What it gives is valid until the next launch.
VISIBLE bool trace_end(const Event** of, size_t* count, const Place** at, size_t* number) {
    recording = false;
    *of = events.data(), *count = events.size();
    *at = places.data(), *number = places.size();
    return !full;
}

// -- what the compiler calls ----------------------------------------------------------------------

extern "C" void __tsan_init() {}
extern "C" void __sanitizer_cov_trace_pc() { note(emulator::BLOCK, 0, 0, FROM); }

extern "C" void __tsan_func_entry(const void* from) {
    if (recording) calls[current].push_back(place_of(emulator::BLOCK, 0, from));
}

extern "C" void __tsan_func_exit() {
    if (!recording) return;
    std::vector<uint32_t>& stack = calls[current];
    if (!stack.empty()) stack.pop_back();  // it is where the launch itself returns
}

#define ACCESSES(bytes)                                             \
    extern "C" void __tsan_read##bytes(const void* at) {            \
        access(emulator::LOAD, bytes, at, FROM);                    \
    }                                                               \
    extern "C" void __tsan_write##bytes(const void* at) {           \
        access(emulator::STORE, bytes, at, FROM);                   \
    }                                                               \
    extern "C" void __tsan_unaligned_read##bytes(const void* at) {  \
        access(emulator::LOAD, bytes, at, FROM);                    \
    }                                                               \
    extern "C" void __tsan_unaligned_write##bytes(const void* at) { \
        access(emulator::STORE, bytes, at, FROM);                   \
    }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

extern "C" void __tsan_read_range(const void* at, size_t bytes) {
    access(emulator::LOAD, uint16_t(bytes), at, FROM);
}
extern "C" void __tsan_write_range(const void* at, size_t bytes) {
    access(emulator::STORE, uint16_t(bytes), at, FROM);
}
extern "C" void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
    access(emulator::LOAD, uint16_t(bytes), from, FROM);
    access(emulator::STORE, uint16_t(bytes), to, FROM);
    return std::memcpy(to, from, bytes);
}
extern "C" void* __tsan_memset(void* to, int value, size_t bytes) {
    access(emulator::STORE, uint16_t(bytes), to, FROM);
    return std::memset(to, value, bytes);
}

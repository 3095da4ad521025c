// The scheduler of emulator.h: fibers, their order, barriers and exchanges.
//
// A fiber is a stack and a saved stack pointer. Most kernels never wait: a thread that ran to its
// end leaves its stack to the next one, and only those that wait keep theirs. Built into every
// kernel's library.
//
// Read next: trace.cpp.

#include "emulator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) && defined(__linux__)
#define OWN_SWITCH  // of stacks; elsewhere the system's, which also asks about signals
// Saves the callee's registers on this stack and its pointer in *from, and goes on where `to` was
// saved.
extern "C" void switch_stacks(void** from, void* to);
asm(R"(
.text
.type switch_stacks, @function
switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size switch_stacks, .-switch_stacks
)");
#else
#include <ucontext.h>
#endif

namespace emulator {

dim3 block, thread, grid_size;

namespace {

constexpr size_t STACK = 256 << 10;

#if defined(OWN_SWITCH)
using Saved = void*;
void change(Saved& from, Saved& to) { switch_stacks(&from, to); }
#else
using Saved = ucontext_t;
void change(Saved& from, Saved& to) { swapcontext(&from, &to); }
#endif

struct Fiber {
    std::unique_ptr<unsigned char[]> stack{new unsigned char[STACK]};
    Saved at;
};

enum State { READY, AT_BARRIER, AT_EXCHANGE, DONE };

struct Thread {
    dim3 index;
    int number;
    State state;
    const char* place;
    std::unique_ptr<Fiber> fiber;
};

struct Warp {
    uint64_t values[2][WARP_THREADS];  // of this exchange, and of the one that some still read
    unsigned arrived, turn, mask;
    const char* place;
};

struct Scheduler {
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<std::unique_ptr<Fiber>> spare;
    Thread* current;
    Saved home;
    const void* home_bottom;
    size_t home_size;
    Body body;
    const void* kernel;
    const uint64_t* arguments;
    size_t count;  // of arguments
    std::string error;
};

Scheduler* scheduler;
std::string failure;

void entering(void* fake) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &scheduler->home_bottom, &scheduler->home_size);
#else
    (void)fake;
#endif
}

// From the running thread's fiber to the scheduler.
void leave() {
    void* fake = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake, scheduler->home_bottom, scheduler->home_size);
#endif
    change(scheduler->current->fiber->at, scheduler->home);
    entering(fake);  // as another thread, if this stack was given on
}

void begin() {
    entering(nullptr);
    for (;;) {
        scheduler->body(scheduler->kernel, scheduler->arguments);
        scheduler->current->state = DONE;
        leave();  // the scheduler may give this stack to another thread, which begins here
    }
}

std::unique_ptr<Fiber> new_fiber() {
    auto fiber = std::make_unique<Fiber>();
    unsigned char* top = fiber->stack.get() + STACK;
    top -= reinterpret_cast<uintptr_t>(top) % 16;
#if defined(OWN_SWITCH)
    void** place = reinterpret_cast<void**>(top);
    *--place = nullptr;  // where `begin` would return to; it never does
    *--place = reinterpret_cast<void*>(&begin);
    for (int i = 0; i < 6; ++i) *--place = nullptr;
    fiber->at = place;
#else
    getcontext(&fiber->at);
    fiber->at.uc_stack.ss_sp = fiber->stack.get();
    fiber->at.uc_stack.ss_size = STACK;
    fiber->at.uc_link = nullptr;
    makecontext(&fiber->at, &begin, 0);
#endif
    return fiber;
}

// From the scheduler to a thread's fiber, until it waits or is done.
void enter(Thread& to) {
    Scheduler& s = *scheduler;
    if (!to.fiber) {
        if (s.spare.empty()) s.spare.push_back(new_fiber());
        to.fiber = std::move(s.spare.back());
        s.spare.pop_back();
    }
    s.current = &to;
    thread = to.index;
#if defined(EMULATOR_TRACE)
    const size_t row = size_t(block.z) * grid_size.y + block.y;
    trace_enter(row * grid_size.x + block.x, to.number);
#endif
    void* fake = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake, to.fiber->stack.get(), STACK);
#endif
    change(s.home, to.fiber->at);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    (void)fake;
#endif
    if (to.state == DONE) s.spare.push_back(std::move(to.fiber));
}

std::string where(const Thread& t) {
    char text[96];
    std::snprintf(text, sizeof text, "thread %d of block (%u, %u, %u)", t.number, block.x, block.y,
                  block.z);
    return text;
}

bool same(const char* place, const char* other) {
    return place == other || std::strcmp(place, other) == 0;
}

// Wakes the block if all of it is at one barrier -> whether anybody may go on.
bool release() {
    Scheduler& s = *scheduler;
    for (Thread& t : s.threads) {
        if (t.state == READY) return true;
    }
    const Thread* waiting = nullptr;
    for (Thread& t : s.threads) {
        if (t.state == AT_EXCHANGE) {
            s.error = where(t) + " waits at " + t.place + " for lanes of its warp that never come";
            return false;
        }
        if (t.state == AT_BARRIER) waiting = &t;
    }
    if (!waiting) return false;  // all are done
    for (Thread& t : s.threads) {
        if (t.state == DONE || !same(t.place, waiting->place)) {
            s.error = where(*waiting) + " waits at the barrier of " + waiting->place + ", thread " +
                      std::to_string(t.number) +
                      (t.state == DONE ? " has ended" : " at that of " + std::string(t.place));
            return false;
        }
    }
    for (Thread& t : s.threads) t.state = READY;
    return true;
}

void run_block(const Launch& given, std::mt19937_64& order) {
    Scheduler& s = *scheduler;
    const dim3 size = given.block;
    const int count = int(size.x * size.y * size.z);
    if (given.shared < given.shared_end) {
        std::memset(given.shared, 0xDB, size_t(given.shared_end - given.shared));
    }
    s.warps.assign(size_t(count + WARP_THREADS - 1) / WARP_THREADS, Warp{});
    s.threads.resize(size_t(count));
    std::vector<int> turns(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) {
        const unsigned n = unsigned(i);
        Thread& t = s.threads[size_t(i)];
        t.index = {n % size.x, n / size.x % size.y, n / (size.x * size.y)};
        t.number = i, t.state = READY, t.place = "";
        turns[size_t(i)] = i;
    }
    do {
        std::shuffle(turns.begin(), turns.end(), order);
        for (int i : turns) {
            Thread& t = s.threads[size_t(i)];
            if (t.state == READY) enter(t);
            if (!s.error.empty()) return;
        }
    } while (release());
}

}  // namespace

int lane() { return scheduler->current->number % WARP_THREADS; }

void barrier(const char* place) {
#if defined(EMULATOR_TRACE)
    trace_wait(BARRIER, __builtin_return_address(0));
#endif
    Thread& self = *scheduler->current;
    self.state = AT_BARRIER, self.place = place;
    leave();
}

#if defined(EMULATOR_TRACE)
bool is_own(uint64_t address) {
    const Scheduler& s = *scheduler;
    const auto inside = [=](const void* from, size_t bytes) {
        return address - reinterpret_cast<uint64_t>(from) < bytes;
    };
    return inside(s.current->fiber->stack.get(), STACK) ||
           inside(s.arguments, s.count * sizeof *s.arguments) ||
           inside(s.warps.data(), s.warps.size() * sizeof(Warp));
}

void stop(const char* does) {
    Thread& self = *scheduler->current;
    scheduler->error = where(self) + " " + does;
    self.state = AT_BARRIER;
    leave();
}
#endif

const uint64_t* exchange(unsigned mask, uint64_t value, const char* place) {
#if defined(EMULATOR_TRACE)
    trace_wait(EXCHANGE, __builtin_return_address(0));
#endif
    Scheduler& s = *scheduler;
    Thread& self = *s.current;
    Warp& warp = s.warps[size_t(self.number / WARP_THREADS)];
    const int count = int(s.threads.size()), first = self.number - self.number % WARP_THREADS;
    const int lanes = std::min(WARP_THREADS, count - first);
    if (lanes < WARP_THREADS) mask &= (1u << lanes) - 1u;
    if (warp.arrived && (warp.mask != mask || !same(warp.place, place))) {
        s.error = where(self) + " exchanges at " + place + ", others of its warp at " + warp.place +
                  (warp.mask != mask ? " with another mask" : "");
        self.state = AT_EXCHANGE, self.place = place;
        leave();
    }
    const unsigned turn = warp.turn;
    warp.mask = mask, warp.place = place;
    warp.values[turn][lane()] = value;
    warp.arrived |= 1u << lane();
    if (warp.arrived == mask) {
        warp.arrived = 0;
        warp.turn = 1 - turn;
        for (int i = 0; i < lanes; ++i) {
            Thread& other = s.threads[size_t(first + i)];
            if (other.state == AT_EXCHANGE && (mask >> i & 1u)) other.state = READY;
        }
    } else {
        self.state = AT_EXCHANGE, self.place = place;
        leave();
    }
    return warp.values[turn];
}

const char* run(const Launch& given, Body body, const void* kernel) {
    // After an error the fibers that still wait are given up with their stacks.
    auto own = std::make_unique<Scheduler>();
    scheduler = own.get();
    scheduler->body = body, scheduler->kernel = kernel, scheduler->arguments = given.arguments;
    scheduler->count = std::strlen(given.types);
    grid_size = given.grid;
#if defined(EMULATOR_TRACE)
    trace_launch(given);
#endif
    std::mt19937_64 order(given.order);
    const size_t blocks = size_t(given.grid.x) * given.grid.y * given.grid.z;
    std::vector<size_t> turns(blocks);
    for (size_t i = 0; i < blocks; ++i) turns[i] = i;
    std::shuffle(turns.begin(), turns.end(), order);
    for (size_t i : turns) {
        block = {unsigned(i % given.grid.x), unsigned(i / given.grid.x % given.grid.y),
                 unsigned(i / given.grid.x / given.grid.y)};
        run_block(given, order);
        if (!scheduler->error.empty()) {
            failure = scheduler->error;
            for (Thread& t : scheduler->threads) (void)t.fiber.release();
            return failure.c_str();
        }
    }
    return nullptr;
}

}  // namespace emulator

// SPDX-License-Identifier: Apache-2.0
/* The scheduler behind shim.h, and the entry for Python. */
#include <stdint.h>
#include <stdlib.h>
#include <ucontext.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels.cu"

#define STACK_SIZE (64 << 10)
#define POISON 0xcd

extern "C" unsigned char __start_shim_shared[], __stop_shim_shared[];

namespace shim {

index block_index, block_size, grid_size;

enum wait { RUNS, IN_WARP, IN_BLOCK, DONE };

struct fiber {
	ucontext_t context;
	void *stack;		/* pointer of a fiber that waits */
	enum wait wait;
	unsigned long long given;
};

struct launch {
	kernel run;
	const void *first;
	const void *second;
};

static std::vector<fiber> fibers;
static std::vector<unsigned char> stacks;
static struct launch launched;
static unsigned current;
static ucontext_t scheduler;
static void *scheduler_stack;
static std::mt19937 rng;

#ifdef __x86_64__
/* swapcontext() asks the kernel for its signal mask: this is twenty times as fast. */
extern "C" void shim_switch(void **from, void *to);
asm(".text\n.globl shim_switch\n.type shim_switch,@function\nshim_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static void leave()
{
	shim_switch(&fibers[current].stack, scheduler_stack);
}

static void enter(unsigned t)
{
	current = t;
	shim_switch(&scheduler_stack, fibers[t].stack);
}
#else
static void leave()
{
	swapcontext(&fibers[current].context, &scheduler);
}

static void enter(unsigned t)
{
	current = t;
	swapcontext(&scheduler, &fibers[t].context);
}
#endif

static void body()
{
	launched.run(launched.first, launched.second);
	fibers[current].wait = DONE;
	leave();
	abort();
}

static void prepare(unsigned t)
{
	unsigned char *stack = stacks.data() + (size_t)t * STACK_SIZE;
	struct fiber *fiber = &fibers[t];

	*fiber = {};
#ifdef __x86_64__
	void **top = (void **)(((uintptr_t)stack + STACK_SIZE) & ~(uintptr_t)15) - 1;

	*--top = (void *)body;
	for (int registers = 0; registers < 6; registers++)
		*--top = nullptr;
	fiber->stack = top;
#else
	getcontext(&fiber->context);
	fiber->context.uc_stack.ss_sp = stack;
	fiber->context.uc_stack.ss_size = STACK_SIZE;
	makecontext(&fiber->context, body, 0);
#endif
}

unsigned thread()
{
	return current;
}

static void wait(enum wait what)
{
	fibers[current].wait = what;
	leave();
}

void meet_block()
{
	wait(IN_BLOCK);
}

void meet_warp()
{
	wait(IN_WARP);
}

unsigned long long exchange(unsigned long long mine, unsigned lane)
{
	unsigned long long theirs;

	fibers[current].given = mine;
	meet_warp();
	theirs = fibers[current / 32 * 32 + lane].given;
	meet_warp();
	return theirs;
}

/* Run the fibers of a warp in random order until each waits. Returns whether any ran. */
static bool step(unsigned warp)
{
	unsigned begin = warp * 32, end = begin + 32, order[32], waiting = 0, alive = 0;
	bool ran = false;

	for (unsigned i = 0; i < 32; i++)
		order[i] = begin + i;
	std::shuffle(order, order + 32, rng);
	for (unsigned t : order) {
		if (fibers[t].wait == RUNS) {
			enter(t);
			ran = true;
		}
	}
	for (unsigned t = begin; t < end; t++) {
		waiting += fibers[t].wait == IN_WARP;
		alive += fibers[t].wait != DONE;
	}
	if (!waiting || waiting != alive)
		return ran;
	for (unsigned t = begin; t < end; t++)
		if (fibers[t].wait == IN_WARP)
			fibers[t].wait = RUNS;
	return true;
}

/* Let all go on who wait for the block. Returns what is wrong, if anything is. */
static const char *pass_barrier(unsigned threads)
{
	unsigned waiting = 0, done = 0;

	for (unsigned t = 0; t < threads; t++) {
		waiting += fibers[t].wait == IN_BLOCK;
		done += fibers[t].wait == DONE;
	}
	if (done == threads)
		return nullptr;
	if (waiting != threads)
		return done ? "a barrier after some threads left the kernel" :
			      "threads wait at different barriers";
	for (unsigned t = 0; t < threads; t++)
		fibers[t].wait = RUNS;
	return nullptr;
}

/*
 * Run a block. With an even seed a warp runs as far as it can before the next one begins, so
 * that it overtakes others as it may on a device; with an odd one all advance together.
 */
static const char *run_block(unsigned threads, unsigned seed)
{
	std::vector<unsigned> warps(threads / 32);
	const char *wrong = nullptr;
	bool done = false;

	/* by hand: shared memory is no memory of the address sanitizer's */
	for (volatile unsigned char *p = __start_shim_shared; p < __stop_shim_shared; p++)
		*p = POISON;
	for (unsigned t = 0; t < threads; t++)
		prepare(t);
	for (unsigned warp = 0; warp < warps.size(); warp++)
		warps[warp] = warp;
	while (!wrong && !done) {
		bool ran = false;

		std::shuffle(warps.begin(), warps.end(), rng);
		for (unsigned warp : warps) {
			bool more = step(warp);

			ran |= more;
			while (more && seed % 2 == 0)
				more = step(warp);
		}
		if (ran)
			continue;
		wrong = pass_barrier(threads);
		done = fibers[0].wait == DONE;
	}
	return wrong;
}

} // namespace shim

/* Run a kernel. Returns NULL, or what is wrong with its barriers. */
extern "C" const char *shim_launch(shim::kernel run, unsigned blocks, unsigned threads,
				   unsigned seed, const void *first, const void *second)
{
	const char *wrong = nullptr;

	shim::rng.seed(seed);
	shim::launched = { run, first, second };
	shim::block_size = { threads };
	shim::grid_size = { blocks };
	shim::fibers.resize(threads);
	if (shim::stacks.size() < (size_t)threads * STACK_SIZE)
		shim::stacks.resize((size_t)threads * STACK_SIZE);
	for (unsigned block = 0; block < blocks && !wrong; block++) {
		shim::block_index = { block };
		wrong = shim::run_block(threads, seed);
	}
	return wrong;
}

/* Bytes of a record that a kernel takes, 0 if it is none. */
extern "C" size_t shim_sizeof(const char *kind)
{
#define SIZE_OF(record)				\
	if (!strcmp(kind, #record))		\
		return sizeof(struct record)

	SIZE_OF(regroup_table);
	SIZE_OF(regroup_batch);
	SIZE_OF(regroup_state);
	SIZE_OF(idle_rows);
	SIZE_OF(row_output);
	SIZE_OF(leaving_flows);
	SIZE_OF(row);
	SIZE_OF(flow_sort_table);
	SIZE_OF(flow_sort_state);
	SIZE_OF(flow_sweep);
	SIZE_OF(sorted_flow);
	SIZE_OF(view_input);
	SIZE_OF(view_output);
	SIZE_OF(feature_plan);
	return 0;
}

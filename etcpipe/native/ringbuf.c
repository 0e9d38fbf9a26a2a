// SPDX-License-Identifier: Apache-2.0
/*
 * The consuming end of a BPF ring buffer. The kernel wakes nobody (BPF_RB_NO_WAKEUP): we
 * look at it in naps, as a wake-up a packet would cost more than the packet.
 * Source: kernel/bpf/ringbuf.c, tools/lib/bpf/ringbuf.c.
 */
#include "ringbuf.h"

#include <linux/bpf.h>
#include <string.h>
#include <time.h>

#include "xsk.h"

#define NAP_NS 500000
#define SLICE_NS 50000000	/* no longer without a look at the signals */
#define RECORD_BYTES_MIN 256	/* the smallest size class, see bpf/records.h */

/* Returns the header word of the record at a position, acquired: then its bytes are there. */
static uint32_t header_at(const struct ringbuf *r, uint64_t position)
{
	return __atomic_load_n((const uint32_t *)(r->data + (position & r->mask)),
			       __ATOMIC_ACQUIRE);
}

static const struct packet_record *record_at(const struct ringbuf *r, uint64_t position)
{
	return (const struct packet_record *)(r->data + (position & r->mask) +
					      BPF_RINGBUF_HDR_SZ);
}

static uint64_t record_size(uint32_t header)
{
	uint64_t len = header & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);

	return (len + BPF_RINGBUF_HDR_SZ + 7) & ~7ull;
}

/* Bytes that the kernel has handed out beyond our position, some perhaps still being written. */
static uint64_t waiting(const struct ringbuf *r)
{
	return __atomic_load_n(r->producer, __ATOMIC_ACQUIRE) - r->next;
}

static int is_ready(const struct ringbuf *r)
{
	return waiting(r) && !(header_at(r, r->next) & BPF_RINGBUF_BUSY_BIT);
}

int ringbuf_wait(struct ringbuf *r, uint32_t max, uint64_t deadline_ns, uint64_t idle_end)
{
	const struct timespec nap = { .tv_nsec = NAP_NS };
	uint64_t slice_end = xsk_now_ns() + SLICE_NS;

	__atomic_store_n(r->consumer, r->next, __ATOMIC_RELEASE);
	for (;;) {
		uint64_t now = xsk_now_ns();

		if (is_ready(r)) {
			uint64_t age = now - record_at(r, r->next)->meta.timestamp_ns;

			/* an age is huge if the stamp is of the future */
			if (waiting(r) >= (uint64_t)max * RECORD_BYTES_MIN || age >= deadline_ns)
				return 0;
		} else if (now >= idle_end) {
			return 0;
		}
		if (now >= slice_end || nanosleep(&nap, NULL))
			return 1;
	}
}

uint32_t ringbuf_take(struct ringbuf *r, const struct packet_columns *columns, uint32_t max)
{
	uint32_t n = 0;

	while (n < max && is_ready(r)) {
		uint32_t header = header_at(r, r->next);
		const struct packet_record *record = record_at(r, r->next);
		uint64_t offset = r->data_offset + (r->next & r->mask) + BPF_RINGBUF_HDR_SZ +
				  sizeof(*record);

		if (!(header & BPF_RINGBUF_DISCARD_BIT))
			columns_set(columns, n++, offset, record->captured, &record->meta);
		r->next += record_size(header);
		if (waiting(r))
			__builtin_prefetch(record_at(r, r->next));
	}
	return n;
}

uint32_t ringbuf_copy(struct ringbuf *r, void *to, uint64_t size, uint32_t max)
{
	uint32_t n = 0;

	while (n < max && is_ready(r)) {
		uint32_t header = header_at(r, r->next);

		if (!(header & BPF_RINGBUF_DISCARD_BIT))
			memcpy((uint8_t *)to + size * n++, record_at(r, r->next), size);
		r->next += record_size(header);
	}
	return n;
}

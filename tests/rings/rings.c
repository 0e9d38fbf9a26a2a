// SPDX-License-Identifier: Apache-2.0
/*
 * Both rings' consumers (etcpipe/native/xsk.c and ringbuf.c as they are) against a thread
 * that does what the kernel does, over shared memory: every packet arrives once, in order and
 * whole, also while indexes turn over, and no byte is written anew while it is ours.
 *
 * ThreadSanitizer sees a missing acquire or release on any machine; run on arm64 it is also
 * the code that runs there. Usage: rings xsk|ringbuf PACKETS
 * Source: net/xdp/xsk_queue.h, kernel/bpf/ringbuf.c.
 */
#define _GNU_SOURCE		/* memfd_create */
#include <linux/bpf.h>
#include <linux/if_xdp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ringbuf.h"
#include "xsk.h"

#define FRAMES 64u
#define FRAME_SIZE 4096u
#define RX_SIZE 32u
#define HEADROOM 256u
#define NEAR_THE_END 0xfffffff0u	/* indexes turn over soon */
#define RING_BYTES 65536u
#define BATCH 24u
#define PAYLOAD_MAX 160u
#define DISCARDED_EVERY 7u
#define FOREVER_NS 1000000000000ull

static uint64_t n_packets;

static void die(const char *what, uint64_t number)
{
	fprintf(stderr, "rings: %s at packet %llu\n", what, (unsigned long long)number);
	exit(1);
}

/* A packet's length and bytes follow from its number. */
static uint32_t payload_len(uint64_t number)
{
	return 1 + number * 37 % PAYLOAD_MAX;
}

static void fill_payload(uint8_t *bytes, uint64_t number)
{
	memset(bytes, (uint8_t)(number * 31 + 7), payload_len(number));
}

static int payload_is_right(const uint8_t *bytes, uint64_t number)
{
	uint8_t wanted[PAYLOAD_MAX];

	fill_payload(wanted, number);
	return !memcmp(bytes, wanted, payload_len(number));
}

static void fill_meta(struct packet_meta *meta, uint64_t number)
{
	memset(meta, 0, sizeof(*meta));
	meta->flow_id = number;
	meta->timestamp_ns = xsk_now_ns();
	meta->wire_len = number * 3;
}

struct table {
	uint64_t offset[BATCH_MAX], timestamp_ns[BATCH_MAX], flow_id[BATCH_MAX];
	uint32_t captured[BATCH_MAX], wire_len[BATCH_MAX], ifindex[BATCH_MAX];
	uint16_t rank[BATCH_MAX], vlan[BATCH_MAX], segment_len[BATCH_MAX];
	uint8_t direction[BATCH_MAX];
};

static struct packet_columns columns_of(struct table *t)
{
	return (struct packet_columns){
		.offset = t->offset, .captured = t->captured, .wire_len = t->wire_len,
		.timestamp_ns = t->timestamp_ns, .flow_id = t->flow_id, .rank = t->rank,
		.direction = t->direction, .vlan = t->vlan, .segment_len = t->segment_len,
		.ifindex = t->ifindex,
	};
}

/* All rows of a batch are the next packets; the second look is after others had time. */
static void check(const struct table *t, uint32_t n, const uint8_t *memory, uint64_t next)
{
	int look;
	uint32_t i;

	for (look = 0; look < 2; look++) {
		for (i = 0; i < n; i++) {
			uint64_t number = next + i;

			if (t->flow_id[i] != number)
				die("another number", number);
			if (t->wire_len[i] != (uint32_t)(number * 3))
				die("another record", number);
			if (t->captured[i] != payload_len(number))
				die("another length", number);
			if (!payload_is_right(memory + t->offset[i], number))
				die(look ? "written while it is ours" : "other bytes", number);
		}
		sched_yield();
	}
}

/* The kernel's end of an AF_XDP socket: frames out of the fill ring, filled, into the other. */
static void *xsk_kernel(void *argument)
{
	struct xsk *xsk = argument;
	uint32_t fill = NEAR_THE_END, rx = NEAR_THE_END;
	struct xdp_desc *descs = xsk->rx.entries;
	uint64_t *free_frames = xsk->fill.entries;
	uint64_t number;

	for (number = 0; number < n_packets; number++) {
		uint8_t *frame;
		uint64_t address;

		while (__atomic_load_n(xsk->fill.producer, __ATOMIC_ACQUIRE) == fill ||
		       rx - __atomic_load_n(xsk->rx.consumer, __ATOMIC_ACQUIRE) == RX_SIZE)
			sched_yield();
		address = free_frames[fill++ & xsk->fill.mask] + HEADROOM;
		frame = xsk->memory + address;
		fill_meta((struct packet_meta *)frame - 1, number);
		fill_payload(frame, number);
		descs[rx & xsk->rx.mask] = (struct xdp_desc){ address, payload_len(number), 0 };
		__atomic_store_n(xsk->rx.producer, ++rx, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void *shared(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die("no memory", 0);
	return memory;
}

static void make_ring(struct ring *ring, uint32_t entries, size_t entry_size)
{
	uint32_t *indexes = shared(4096);

	ring->producer = &indexes[0];
	ring->consumer = &indexes[32];
	*ring->producer = *ring->consumer = NEAR_THE_END;
	ring->entries = shared(entries * entry_size);
	ring->mask = entries - 1;
}

/* Take a batch and another one beside it, give the first one back, look at what is still ours. */
static uint64_t take_two(struct xsk *xsk, uint64_t next)
{
	static struct table tables[XSK_BATCHES];
	uint32_t n[XSK_BATCHES];
	uint32_t i;

	for (i = 0; i < XSK_BATCHES; i++) {
		const struct packet_columns columns = columns_of(&tables[i]);

		n[i] = xsk_take(xsk, &columns, BATCH, i);
		check(&tables[0], n[0], xsk->memory, next);
	}
	xsk_release(xsk, 0);
	check(&tables[1], n[1], xsk->memory, next + n[0]);
	return next + n[0] + n[1];
}

static void run_xsk(void)
{
	static struct xsk xsk;
	pthread_t kernel;
	uint64_t next = 0;
	uint32_t i;

	xsk.fd = socket(AF_UNIX, SOCK_DGRAM, 0);	/* nothing comes, and it has no error */
	xsk.memory = shared(FRAMES * FRAME_SIZE);
	xsk.frame_mask = ~(uint64_t)(FRAME_SIZE - 1);
	make_ring(&xsk.rx, RX_SIZE, sizeof(struct xdp_desc));
	make_ring(&xsk.fill, FRAMES, sizeof(uint64_t));
	xsk.rx_next = xsk.fill_next = NEAR_THE_END;
	for (i = 0; i < FRAMES; i++)	/* given back by the first wait, as a batch is */
		xsk.held[0].address[i] = (uint64_t)i * FRAME_SIZE;
	xsk.held[0].n = FRAMES;
	pthread_create(&kernel, NULL, xsk_kernel, &xsk);
	while (next < n_packets) {
		/* no deadline: what is there is the batch */
		if (xsk_wait(&xsk, 1, 0, xsk_now_ns() + FOREVER_NS) < 0)
			die("wait failed", next);
		next = take_two(&xsk, next);
	}
	pthread_join(kernel, NULL);
}

struct shared_ringbuf {
	struct ringbuf ring;
	uint64_t *consumer, *producer;
	uint8_t *data;
};

/* A header's bytes and those behind it as the kernel reserves them, busy until they are all there. */
static void *ringbuf_kernel(void *argument)
{
	struct shared_ringbuf *r = argument;
	uint64_t position = 0, number = 0, record = 0;

	for (; number < n_packets; record++) {
		int discarded = record % DISCARDED_EVERY == 0;
		uint32_t len = sizeof(struct packet_record) + payload_len(number);
		uint64_t total = (len + BPF_RINGBUF_HDR_SZ + 7) & ~7ull;
		uint8_t *at = r->data + (position & (RING_BYTES - 1));
		struct packet_record *body = (void *)(at + BPF_RINGBUF_HDR_SZ);

		while (position + total - __atomic_load_n(r->consumer, __ATOMIC_ACQUIRE) >
		       RING_BYTES - 1)
			sched_yield();
		__atomic_store_n((uint32_t *)at, len | BPF_RINGBUF_BUSY_BIT, __ATOMIC_RELAXED);
		position += total;
		__atomic_store_n(r->producer, position, __ATOMIC_RELEASE);
		fill_meta(&body->meta, number);
		body->captured = payload_len(number);
		fill_payload((uint8_t *)(body + 1), number);
		__atomic_exchange_n((uint32_t *)at, len | (discarded ? BPF_RINGBUF_DISCARD_BIT : 0),
				    __ATOMIC_SEQ_CST);
		number += !discarded;
	}
	return NULL;
}

/* The data twice in a row, so that no record is ever split. */
static uint8_t *map_twice(uint32_t size)
{
	int fd = memfd_create("ring", 0);
	uint8_t *place = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_FIXED;

	if (fd < 0 || place == MAP_FAILED || ftruncate(fd, size) ||
	    mmap(place, size, prot, flags, fd, 0) == MAP_FAILED ||
	    mmap(place + size, size, prot, flags, fd, 0) == MAP_FAILED)
		die("no memory", 0);
	close(fd);
	return place;
}

static void run_ringbuf(void)
{
	static struct shared_ringbuf r;
	static struct table t;
	const struct packet_columns columns = columns_of(&t);
	pthread_t kernel;
	uint64_t next = 0;

	r.consumer = shared(4096);
	r.producer = shared(4096);
	r.data = map_twice(RING_BYTES);
	r.ring = (struct ringbuf){
		.consumer = r.consumer, .producer = r.producer, .data = r.data,
		.mask = RING_BYTES - 1,
	};
	pthread_create(&kernel, NULL, ringbuf_kernel, &r);
	while (next < n_packets) {
		uint32_t n;

		ringbuf_wait(&r.ring, 1, 0, xsk_now_ns() + FOREVER_NS);
		n = ringbuf_take(&r.ring, &columns, BATCH);
		check(&t, n, r.data, next);
		next += n;
	}
	pthread_join(kernel, NULL);
}

int main(int argc, char **argv)
{
	n_packets = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
	if (!n_packets)
		die("usage: rings xsk|ringbuf PACKETS", 0);
	if (!strcmp(argv[1], "xsk"))
		run_xsk();
	else
		run_ringbuf();
	printf("%s: %llu packets, each once, in order and whole\n", argv[1],
	       (unsigned long long)n_packets);
	return 0;
}

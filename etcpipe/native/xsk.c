// SPDX-License-Identifier: Apache-2.0
/*
 * An AF_XDP socket that receives: raw system calls and linux/if_xdp.h, no libxdp. The
 * memory is the caller's; etcpipe/ring.py owns it and is the only caller.
 */
#define _GNU_SOURCE		/* MAP_POPULATE */
#include "xsk.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000
/*
 * Packets are waited for in naps: a wake-up a packet costs ten times what the packet
 * itself does, as the consumer then works against the sender on every one. And no more
 * naps than one a batch: after each the caches are cold.
 */
#define NAP_NS 1000000
#define SLICE_NS 50000000	/* a signal between two naps interrupts none: let the caller look */
#define COMPLETIONS 64		/* the kernel wants the ring even where nothing is sent */
#define PREFETCH_AHEAD 8

uint64_t xsk_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static int nap(uint64_t ns)
{
	struct timespec t = { .tv_nsec = ns < NAP_NS ? ns : NAP_NS };

	return nanosleep(&t, NULL);
}

static int map_ring(struct ring *ring, int fd, const struct xdp_ring_offset *offset,
		    uint32_t entries, size_t entry_size, uint64_t page_offset)
{
	size_t len = offset->desc + entries * entry_size;
	uint8_t *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
			    page_offset);

	if (map == MAP_FAILED)
		return -1;
	ring->map = map;
	ring->map_len = len;
	ring->producer = (uint32_t *)(map + offset->producer);
	ring->consumer = (uint32_t *)(map + offset->consumer);
	ring->entries = map + offset->desc;
	ring->mask = entries - 1;
	return 0;
}

/* The mappings hold the socket, and that its queue: unmap them before it is closed. */
void xsk_close(struct xsk *xsk)
{
	if (xsk->rx.map)
		munmap(xsk->rx.map, xsk->rx.map_len);
	if (xsk->fill.map)
		munmap(xsk->fill.map, xsk->fill.map_len);
	if (xsk->fd >= 0)
		close(xsk->fd);
	xsk->rx.map = xsk->fill.map = NULL;
	xsk->fd = -1;
}

static int set_option(int fd, int option, uint32_t value)
{
	return setsockopt(fd, SOL_XDP, option, &value, sizeof(value));
}

static const char *xsk_prepare(struct xsk *xsk, const struct xsk_setup *setup)
{
	struct xdp_umem_reg umem = {
		.addr = (uintptr_t)setup->memory,
		.len = (uint64_t)setup->frames * setup->frame_size,
		.chunk_size = setup->frame_size,
	};
	struct xdp_mmap_offsets offsets = {};
	socklen_t len = sizeof(offsets);

	xsk->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (xsk->fd < 0)
		return "socket";
	if (setsockopt(xsk->fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)))
		return "memory";
	if (set_option(xsk->fd, XDP_UMEM_FILL_RING, setup->frames) ||
	    set_option(xsk->fd, XDP_UMEM_COMPLETION_RING, COMPLETIONS) ||
	    set_option(xsk->fd, XDP_RX_RING, setup->ring_size) ||
	    getsockopt(xsk->fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &len) ||
	    map_ring(&xsk->rx, xsk->fd, &offsets.rx, setup->ring_size, sizeof(struct xdp_desc),
		     XDP_PGOFF_RX_RING) ||
	    map_ring(&xsk->fill, xsk->fd, &offsets.fr, setup->frames, sizeof(uint64_t),
		     XDP_UMEM_PGOFF_FILL_RING))
		return "rings";
	return NULL;
}

/* The fill ring holds all frames, so there is room for whatever comes back. */
static void fill_put(struct xsk *xsk, uint64_t address)
{
	uint64_t *entries = xsk->fill.entries;

	entries[xsk->fill_next++ & xsk->fill.mask] = address;
}

static void fill_publish(struct xsk *xsk)
{
	__atomic_store_n(xsk->fill.producer, xsk->fill_next, __ATOMIC_RELEASE);
}

static void fill_all(struct xsk *xsk, const struct xsk_setup *setup)
{
	uint32_t i;

	for (i = 0; i < setup->frames; i++)
		fill_put(xsk, (uint64_t)i * setup->frame_size);
	fill_publish(xsk);
}

const char *xsk_open(struct xsk *xsk, const struct xsk_setup *setup)
{
	const char *step;

	xsk->memory = setup->memory;
	xsk->frame_mask = ~((uint64_t)setup->frame_size - 1);
	step = xsk_prepare(xsk, setup);
	if (!step)
		fill_all(xsk, setup);
	return step;
}

int xsk_bind(struct xsk *xsk, uint32_t ifindex, uint32_t queue, int zero_copy)
{
	struct sockaddr_xdp address = {
		.sxdp_family = AF_XDP,
		.sxdp_flags = XDP_USE_NEED_WAKEUP | (zero_copy ? XDP_ZEROCOPY : XDP_COPY),
		.sxdp_ifindex = ifindex,
		.sxdp_queue_id = queue,
	};

	return bind(xsk->fd, (struct sockaddr *)&address, sizeof(address));
}

uint32_t xsk_available(const struct xsk *xsk)
{
	return __atomic_load_n(xsk->rx.producer, __ATOMIC_ACQUIRE) - xsk->rx_next;
}

static const struct xdp_desc *rx_at(const struct xsk *xsk, uint32_t i)
{
	return &((const struct xdp_desc *)xsk->rx.entries)[i & xsk->rx.mask];
}

/* Right before the frame; written by the program that redirected it. */
static const struct packet_meta *meta_of(const struct xsk *xsk, const struct xdp_desc *desc)
{
	return (const struct packet_meta *)(xsk->memory + desc->addr) - 1;
}

void xsk_release(struct xsk *xsk, uint32_t batch)
{
	struct batch_frames *held = &xsk->held[batch];
	uint32_t i;

	for (i = 0; i < held->n; i++)
		fill_put(xsk, held->address[i]);
	held->n = 0;
	fill_publish(xsk);
}

int xsk_statistics(const struct xsk *xsk, struct xdp_statistics *statistics)
{
	socklen_t len = sizeof(*statistics);

	memset(statistics, 0, len);	/* before Linux 5.9 the kernel fills half of it */
	return getsockopt(xsk->fd, SOL_XDP, XDP_STATISTICS, statistics, &len);
}

/* Why the socket is dead, as errno, or 0. ENETDOWN: the device is gone. */
static int socket_error(const struct xsk *xsk)
{
	socklen_t len = sizeof(int);
	int error = 0;

	return getsockopt(xsk->fd, SOL_SOCKET, SO_ERROR, &error, &len) ? errno : error;
}

/* Wait for a first packet. Returns as xsk_wait; 0 also when the time is over. */
static int wait_first(struct xsk *xsk, uint64_t idle_end)
{
	struct pollfd ready = { .fd = xsk->fd, .events = POLLIN };
	uint64_t now = xsk_now_ns();
	uint64_t left = idle_end > now ? idle_end - now : 0;

	if (xsk_available(xsk))
		return 0;
	if (poll(&ready, 1, ((left < SLICE_NS ? left : SLICE_NS) + NS_PER_MS - 1) / NS_PER_MS) < 0)
		return -1;
	if (xsk_available(xsk))
		return 0;
	errno = socket_error(xsk);
	if (errno)
		return -1;
	return xsk_now_ns() < idle_end;
}

/*
 * Wait until @max packets are there, or @deadline_ns after the first one arrived by its
 * own time stamp, so that a consumer that is late does not wait on top.
 */
static int wait_batch(struct xsk *xsk, uint32_t max, uint64_t deadline_ns)
{
	uint64_t first = meta_of(xsk, rx_at(xsk, xsk->rx_next))->timestamp_ns;
	uint64_t slice_end = xsk_now_ns() + SLICE_NS;

	while (xsk_available(xsk) < max) {
		uint64_t now = xsk_now_ns();
		uint64_t age = now - first;	/* huge if the stamp is of the future */

		if (age >= deadline_ns)
			return 0;
		if (now >= slice_end)
			return 1;
		if (nap(deadline_ns - age))
			return -1;
	}
	return 0;
}

/*
 * Packets are flowing: the next batch collects from the end of the last one, without the
 * wake-up by its first packet. Returns 1 if it is there, 0 if not, -1 as nap().
 */
static int wait_flowing(struct xsk *xsk, uint32_t max, uint64_t deadline_ns)
{
	if (xsk_available(xsk) < max && nap(deadline_ns))
		return -1;
	return xsk_available(xsk) && deadline_ns <= NAP_NS;
}

int xsk_wait(struct xsk *xsk, uint32_t max, uint64_t deadline_ns, uint64_t idle_end)
{
	int is_flowing = xsk->is_flowing && deadline_ns;
	uint32_t batch;
	int status;

	for (batch = 0; batch < XSK_BATCHES; batch++)
		xsk_release(xsk, batch);
	xsk->is_flowing = 0;
	if (is_flowing) {
		status = wait_flowing(xsk, max, deadline_ns);
		if (status)
			return status < 0 ? status : 0;
	}
	status = wait_first(xsk, idle_end);
	if (status || !xsk_available(xsk))
		return status;
	return wait_batch(xsk, max, deadline_ns);
}

uint32_t xsk_take(struct xsk *xsk, const struct packet_columns *columns, uint32_t max,
		  uint32_t batch)
{
	uint64_t *held = xsk->held[batch].address;
	uint32_t n = xsk_available(xsk);
	uint32_t i;

	if (n > max)
		n = max;
	for (i = 0; i < n; i++) {
		const struct xdp_desc *desc = rx_at(xsk, xsk->rx_next + i);

		if (i + PREFETCH_AHEAD < n)
			__builtin_prefetch(meta_of(xsk, rx_at(xsk, xsk->rx_next + i + PREFETCH_AHEAD)));
		columns_set(columns, i, desc->addr, desc->len, meta_of(xsk, desc));
		held[i] = desc->addr & xsk->frame_mask;
	}
	xsk->held[batch].n = n;
	xsk->is_flowing = n > 0;
	xsk->rx_next += n;
	__atomic_store_n(xsk->rx.consumer, xsk->rx_next, __ATOMIC_RELEASE);
	return n;
}

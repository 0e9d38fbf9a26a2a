/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An AF_XDP socket that receives: raw system calls and linux/if_xdp.h, no libxdp. The
 * memory of the frames is the caller's.
 */
#ifndef ETCPIPE_XSK_H
#define ETCPIPE_XSK_H

#include <linux/if_xdp.h>
#include <stddef.h>
#include <stdint.h>

#include "columns.h"

#define XSK_BATCHES 2	/* that the caller may hold at a time */

struct ring {
	void *map;
	size_t map_len;
	uint32_t *producer;
	uint32_t *consumer;
	void *entries;
	uint32_t mask;
};

struct xsk {
	int fd;
	uint8_t *memory;
	uint64_t frame_mask;
	struct ring rx;
	struct ring fill;
	uint32_t rx_next;		/* our copy of the consumer index */
	uint32_t fill_next;		/* our copy of the producer index */
	int is_flowing;			/* the last batch had packets */
	struct xdp_statistics told;	/* as of the last batch */
	struct batch_frames {
		uint32_t n;
		uint64_t address[BATCH_MAX];
	} held[XSK_BATCHES];		/* of batches that are still the caller's */
};

struct xsk_setup {
	uint8_t *memory;	/* page-aligned, frames * frame_size bytes */
	uint32_t frames;	/* powers of two, all three */
	uint32_t frame_size;
	uint32_t ring_size;
};

/* Register the memory and make the rings. Returns NULL, or the step that failed with errno. */
const char *xsk_open(struct xsk *xsk, const struct xsk_setup *setup);
/* Free the queue; may be called again, and after a failed xsk_open. */
void xsk_close(struct xsk *xsk);

/* One attempt; EBUSY while the queue's last owner is being torn down. */
int xsk_bind(struct xsk *xsk, uint32_t ifindex, uint32_t queue, int zero_copy);

/* CLOCK_MONOTONIC, as in packet_meta. */
uint64_t xsk_now_ns(void);

/*
 * Give the frames of all batches back and wait for the next: until @max packets are there,
 * or the first is @deadline_ns old, or, where there was a batch, after @deadline_ns from now;
 * or nothing came until @idle_end. Returns 0 then, 1 to
 * be called again (after a look at the signals), or -1 with errno: EINTR to be called
 * again too, or why the socket is dead.
 */
int xsk_wait(struct xsk *xsk, uint32_t max, uint64_t deadline_ns, uint64_t idle_end);

/* How many packets are there. */
uint32_t xsk_available(const struct xsk *xsk);

/*
 * Fill the columns with up to @max packets (at most BATCH_MAX) that are there and return
 * how many. Their frames are the caller's until xsk_wait or xsk_release, as @batch, which
 * holds none now.
 */
uint32_t xsk_take(struct xsk *xsk, const struct packet_columns *columns, uint32_t max,
		  uint32_t batch);

/* What the kernel did not deliver since the start. Returns 0, or -1 with errno. */
int xsk_statistics(const struct xsk *xsk, struct xdp_statistics *statistics);

/* Give a batch's frames back to the kernel. */
void xsk_release(struct xsk *xsk, uint32_t batch);

#endif /* ETCPIPE_XSK_H */

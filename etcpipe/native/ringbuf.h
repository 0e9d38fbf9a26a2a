/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The consuming end of a BPF ring buffer of struct packet_record. Its pages are the
 * caller's mappings: the data twice in a row, so that no record is ever split.
 */
#ifndef ETCPIPE_RINGBUF_H
#define ETCPIPE_RINGBUF_H

#include <stdint.h>

#include "columns.h"

struct ringbuf {
	uint64_t *consumer;		/* position up to which the kernel may write anew */
	const uint64_t *producer;
	const uint8_t *data;
	uint64_t data_offset;		/* of data in the memory that the batch refers to */
	uint64_t mask;			/* size - 1, the size is a power of two */
	uint64_t next;			/* where the next record begins */
};

/*
 * Give the last batch's records back and wait for the next: until @max packets may be
 * there, or the first is @deadline_ns old, or nothing came until @idle_end. Returns 0, or 1
 * to be called again after a look at the signals.
 */
int ringbuf_wait(struct ringbuf *r, uint32_t max, uint64_t deadline_ns, uint64_t idle_end);

/* Fill the columns with up to @max packets and return how many; they stay until ringbuf_wait. */
uint32_t ringbuf_take(struct ringbuf *r, const struct packet_columns *columns, uint32_t max);

/* The same of records that have one size and begin as struct packet_meta does: copied. */
uint32_t ringbuf_copy(struct ringbuf *r, void *to, uint64_t size, uint32_t max);

#endif /* ETCPIPE_RINGBUF_H */

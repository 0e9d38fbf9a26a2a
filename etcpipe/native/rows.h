/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of pending flows: a pool that grows by chunks, and the lists that rows are on. What
 * every packet touches lies together (struct row, 40 bytes); packets and raw bytes, which are
 * written once, lie in chunks. Most flows are short: packets of ranks from HEAD_RANKS on lie
 * in a tail of their row, which is there once one of them is. Rows are named by index, as the
 * pool may move.
 */
#ifndef ETCPIPE_ROWS_H
#define ETCPIPE_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "etcpipe.h"

#define ROW_NONE UINT32_MAX
#define CHUNK_ROWS 1024
#define HEAD_RANKS 10

struct row {
	uint64_t flow_id;
	uint64_t last_ns;	/* newest packet that is in the row */
	uint64_t present;	/* bit by rank; 0 while the row is free */
	uint32_t older;		/* neighbours in the list that the row is on */
	uint32_t newer;
	uint32_t ifindex;
	uint16_t vlan;
	uint8_t initiator;
	uint8_t reason;		/* enum ready_reason, once closed */
};

struct row_list {
	uint32_t oldest;
	uint32_t newest;
	uint32_t count;
};

struct row_pool {
	struct row *rows;
	/* of CHUNK_ROWS: a flow_key, packet_fields[head], the tail's address, raw[N][raw_len] */
	uint8_t **chunks;
	uint32_t n_chunks;
	uint32_t first_n;
	uint32_t head;		/* N, but at most HEAD_RANKS: then there is no tail */
	uint32_t raw_len;
	size_t stride;		/* bytes of a row in its chunk */
	struct row_list free;
};

void list_init(struct row_list *list);
void list_append(struct row_pool *pool, struct row_list *list, uint32_t row);
void list_remove(struct row_pool *pool, struct row_list *list, uint32_t row);

void pool_init(struct row_pool *pool, uint32_t first_n, uint32_t raw_len);
void pool_free(struct row_pool *pool);
/* Return a row that is on no list, or ROW_NONE without memory. */
uint32_t pool_take(struct row_pool *pool);
/* Free a row that is on no list. */
void pool_give_back(struct row_pool *pool, uint32_t row);
/* Make room for the packets of all ranks. Returns -1 without memory. */
int row_reach(struct row_pool *pool, uint32_t row);

/* Ranks below the highest one of the bits @present, and not among them. */
uint32_t ranks_lost(uint64_t present);
/* Copy a row's ranks @present out, all of which it has; others are zero in @packets and @raw. */
void row_copy(const struct row_pool *pool, uint32_t row, uint64_t present,
	      struct packet_fields *packets, uint8_t *raw);

static inline struct flow_key *row_key(const struct row_pool *pool, uint32_t row)
{
	return (struct flow_key *)(pool->chunks[row / CHUNK_ROWS] +
				   row % CHUNK_ROWS * pool->stride);
}

static inline struct packet_fields *row_head(const struct row_pool *pool, uint32_t row)
{
	return (struct packet_fields *)(row_key(pool, row) + 1);
}

static inline struct packet_fields **row_tail(const struct row_pool *pool, uint32_t row)
{
	return (struct packet_fields **)(row_head(pool, row) + pool->head);
}

/* One of HEAD_RANKS or more is there after row_reach(), or if the row has such a packet. */
static inline struct packet_fields *row_packet(const struct row_pool *pool, uint32_t row,
					       uint32_t rank)
{
	return rank < HEAD_RANKS ? row_head(pool, row) + rank :
				   *row_tail(pool, row) + rank - HEAD_RANKS;
}

/* The raw bytes of the packet of rank 0; those of rank r begin r * raw_len bytes behind. */
static inline uint8_t *row_raw(const struct row_pool *pool, uint32_t row)
{
	return (uint8_t *)(row_tail(pool, row) + (pool->first_n > pool->head));
}

#endif /* ETCPIPE_ROWS_H */

// SPDX-License-Identifier: Apache-2.0
#include "rows.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE (2u << 20)

void list_init(struct row_list *list)
{
	*list = (struct row_list){ .oldest = ROW_NONE, .newest = ROW_NONE };
}

void list_append(struct row_pool *pool, struct row_list *list, uint32_t row)
{
	pool->rows[row].older = list->newest;
	pool->rows[row].newer = ROW_NONE;
	if (list->newest == ROW_NONE)
		list->oldest = row;
	else
		pool->rows[list->newest].newer = row;
	list->newest = row;
	list->count++;
}

void list_remove(struct row_pool *pool, struct row_list *list, uint32_t row)
{
	struct row *r = &pool->rows[row];

	if (r->older == ROW_NONE)
		list->oldest = r->newer;
	else
		pool->rows[r->older].newer = r->newer;
	if (r->newer == ROW_NONE)
		list->newest = r->older;
	else
		pool->rows[r->newer].older = r->older;
	list->count--;
}

void pool_init(struct row_pool *pool, uint32_t first_n, uint32_t raw_len)
{
	uint32_t head = first_n < HEAD_RANKS ? first_n : HEAD_RANKS;
	size_t bytes = sizeof(struct flow_key) + head * sizeof(struct packet_fields) +
		       (size_t)first_n * raw_len;

	if (first_n > head)
		bytes += sizeof(struct packet_fields *);
	*pool = (struct row_pool){ .first_n = first_n, .head = head, .raw_len = raw_len };
	pool->stride = (bytes + 7) & ~(size_t)7;
	list_init(&pool->free);
}

/* Ranks of the tail show whether it is there. */
static void free_tail(struct row_pool *pool, uint32_t row)
{
	if (pool->rows[row].present >> HEAD_RANKS)
		free(*row_tail(pool, row));
}

void pool_free(struct row_pool *pool)
{
	uint32_t i;

	for (i = 0; i < pool->n_chunks * CHUNK_ROWS; i++)
		free_tail(pool, i);
	for (i = 0; i < pool->n_chunks; i++)
		free(pool->chunks[i]);
	free(pool->chunks);
	free(pool->rows);
}

/* Rows of raw bytes lie far apart, more of them than a TLB holds pages of 4 KiB. */
static uint8_t *allocate_chunk(size_t size)
{
	void *chunk;

	if (size < HUGE_PAGE)
		return malloc(size);
	if (posix_memalign(&chunk, HUGE_PAGE, size))
		return NULL;
	madvise(chunk, size, MADV_HUGEPAGE);	/* a kernel without them has small ones */
	return chunk;
}

/* Add a chunk. Whatever was allocated stays owned by the pool when the rest fails. */
static int grow(struct row_pool *pool)
{
	uint32_t first = pool->n_chunks * CHUNK_ROWS;
	struct row *rows;
	uint8_t **chunks;
	uint32_t i;

	rows = realloc(pool->rows, (first + CHUNK_ROWS) * sizeof(*rows));
	if (!rows)
		return -1;
	pool->rows = rows;
	chunks = realloc(pool->chunks, (pool->n_chunks + 1) * sizeof(*chunks));
	if (!chunks)
		return -1;
	pool->chunks = chunks;
	chunks[pool->n_chunks] = allocate_chunk(CHUNK_ROWS * pool->stride);
	if (!chunks[pool->n_chunks])
		return -1;
	pool->n_chunks++;
	for (i = first; i < first + CHUNK_ROWS; i++) {
		pool->rows[i].present = 0;
		list_append(pool, &pool->free, i);
	}
	return 0;
}

/* The newest free row is still in the cache. */
uint32_t pool_take(struct row_pool *pool)
{
	uint32_t row;

	if (pool->free.newest == ROW_NONE && grow(pool))
		return ROW_NONE;
	row = pool->free.newest;
	list_remove(pool, &pool->free, row);
	return row;
}

void pool_give_back(struct row_pool *pool, uint32_t row)
{
	free_tail(pool, row);
	pool->rows[row].present = 0;
	list_append(pool, &pool->free, row);
}

int row_reach(struct row_pool *pool, uint32_t row)
{
	struct packet_fields **tail = row_tail(pool, row);

	if (pool->rows[row].present >> HEAD_RANKS)
		return 0;
	*tail = malloc((pool->first_n - HEAD_RANKS) * sizeof(**tail));
	return *tail ? 0 : -1;
}

uint32_t ranks_lost(uint64_t present)
{
	if (!present)	/* no memory for its first packet */
		return 0;
	return 64 - __builtin_clzll(present) - __builtin_popcountll(present);
}

void row_copy(const struct row_pool *pool, uint32_t row, uint64_t present,
	      struct packet_fields *packets, uint8_t *raw)
{
	const uint8_t *raw_from = row_raw(pool, row);
	size_t raw_len = pool->raw_len;
	uint32_t rank;

	for (rank = 0; rank < pool->first_n; rank++, raw += raw_len, raw_from += raw_len) {
		size_t len = 0;

		if (present >> rank & 1) {
			packets[rank] = *row_packet(pool, row, rank);
			len = raw_len ? packets[rank].raw_len : 0;
		} else {
			memset(&packets[rank], 0, sizeof(packets[rank]));
		}
		if (raw_len) {
			memcpy(raw, raw_from, len);
			memset(raw + len, 0, raw_len - len);
		}
	}
}

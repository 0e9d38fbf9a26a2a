/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One regrouping by several threads: each has a regroup of its own, which sees every batch
 * whole and takes the packets of its slots. Together they do what one would, but that each has
 * its share of max_rows and rows come out by thread.
 */
#ifndef ETCPIPE_SHARDS_H
#define ETCPIPE_SHARDS_H

#include "regroup.h"

struct shards;

/* Return NULL without memory or threads. @settings->shards says how many. */
struct shards *shards_new(const struct regroup_settings *settings);
void shards_free(struct shards *s);
/* As those of regroup.h; return how many rows are closed, and shards_add() -1 without memory. */
int64_t shards_add(struct shards *s, const struct packet_batch *batch, uint64_t now_ns);
int64_t shards_expire(struct shards *s, uint64_t now_ns);
int64_t shards_flush(struct shards *s);
void shards_leave(struct shards *s, const uint64_t *flow_id, uint32_t flows);
/* How many early rows shards_take_early() copies out. */
int64_t shards_early(const struct shards *s);
void shards_take_early(struct shards *s, const struct flow_columns *out);
/* Move all closed rows out. */
void shards_take(struct shards *s, const struct flow_columns *out);
uint64_t shards_counter(const struct shards *s, enum regroup_counter counter);
uint32_t shards_pending(const struct shards *s);

#endif /* ETCPIPE_SHARDS_H */

// SPDX-License-Identifier: Apache-2.0
#include "shards.h"

#include <stdlib.h>

#include "crew.h"

struct shards {
	uint32_t n;
	struct crew *crew;
	struct regroup *regroups[SHARDS_MAX];
	/* of the work at hand */
	const struct packet_batch *batch;
	const struct flow_columns *out;
	void (*take)(struct regroup *r, const struct flow_columns *out);
	uint64_t now_ns;
	size_t first[SHARDS_MAX];	/* row that a part begins with */
	int failed[SHARDS_MAX];
};

struct shards *shards_new(const struct regroup_settings *settings)
{
	struct regroup_settings own = *settings;
	struct shards *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	own.max_rows = (settings->max_rows - 1) / settings->shards + 1;
	for (own.shard = 0; own.shard < settings->shards; own.shard++) {
		s->regroups[own.shard] = regroup_new(&own);
		if (!s->regroups[own.shard])
			break;
		s->n++;
	}
	s->crew = s->n == settings->shards ? crew_new(s->n) : NULL;
	if (!s->crew) {
		shards_free(s);
		return NULL;
	}
	return s;
}

void shards_free(struct shards *s)
{
	uint32_t i;

	if (s->crew)
		crew_free(s->crew);
	for (i = 0; i < s->n; i++)
		regroup_free(s->regroups[i]);
	free(s);
}

static int64_t closed(const struct shards *s)
{
	int64_t rows = 0;
	uint32_t i;

	for (i = 0; i < s->n; i++)
		rows += s->regroups[i]->closed.count;
	return rows;
}

static void add_part(void *argument, uint32_t part)
{
	struct shards *s = argument;

	s->failed[part] = regroup_add(s->regroups[part], s->batch, s->now_ns);
}

int64_t shards_add(struct shards *s, const struct packet_batch *batch, uint64_t now_ns)
{
	uint32_t i;

	s->batch = batch;
	s->now_ns = now_ns;
	crew_run(s->crew, add_part, s);
	for (i = 0; i < s->n; i++)
		if (s->failed[i])
			return -1;
	return closed(s);
}

int64_t shards_expire(struct shards *s, uint64_t now_ns)
{
	uint32_t i;

	for (i = 0; i < s->n; i++)
		regroup_expire(s->regroups[i], now_ns);
	return closed(s);
}

int64_t shards_flush(struct shards *s)
{
	uint32_t i;

	for (i = 0; i < s->n; i++)
		regroup_flush(s->regroups[i]);
	return closed(s);
}

void shards_leave(struct shards *s, const uint64_t *flow_id, uint32_t flows)
{
	uint32_t i;

	for (i = 0; i < s->n; i++)	/* each knows its own flows only */
		regroup_leave(s->regroups[i], flow_id, flows);
}

int64_t shards_early(const struct shards *s)
{
	int64_t rows = 0;
	uint32_t i;

	for (i = 0; i < s->n; i++)
		rows += s->regroups[i]->n_early;
	return rows;
}

/* The columns from row @first on. */
static struct flow_columns columns_from(const struct flow_columns *out, size_t first,
					const struct regroup_settings *set)
{
	size_t packet = first * set->first_n;

	return (struct flow_columns){
		.flow_id = out->flow_id + first,
		.key = out->key + first,
		.initiator = out->initiator + first,
		.vlan = out->vlan + first,
		.ifindex = out->ifindex + first,
		.packets = out->packets + packet,
		.raw = out->raw + packet * set->raw_len,
		.lost = out->lost + first,
		.reason = out->reason + first,
		.ready_ns = out->ready_ns + first,
		.depth = out->depth + first,
	};
}

static void take_part(void *argument, uint32_t part)
{
	struct shards *s = argument;
	struct regroup *own = s->regroups[part];
	struct flow_columns out = columns_from(s->out, s->first[part], &own->set);

	s->take(own, &out);
}

/* Begin each part's rows where the one before ends. */
static void take_all(struct shards *s, const struct flow_columns *out)
{
	int is_early = s->take == regroup_take_early;
	size_t first = 0;
	uint32_t i;

	for (i = 0; i < s->n; i++) {
		s->first[i] = first;
		first += is_early ? s->regroups[i]->n_early : s->regroups[i]->closed.count;
	}
	s->out = out;
	crew_run(s->crew, take_part, s);
}

void shards_take_early(struct shards *s, const struct flow_columns *out)
{
	s->take = regroup_take_early;
	take_all(s, out);
}

void shards_take(struct shards *s, const struct flow_columns *out)
{
	s->take = regroup_take;
	take_all(s, out);
}

uint64_t shards_counter(const struct shards *s, enum regroup_counter counter)
{
	uint64_t sum = 0;
	uint32_t i;

	for (i = 0; i < s->n; i++)
		sum += s->regroups[i]->counters[counter];
	return sum;
}

uint32_t shards_pending(const struct shards *s)
{
	uint32_t rows = 0, i;

	for (i = 0; i < s->n; i++)
		rows += s->regroups[i]->pending.count;
	return rows;
}

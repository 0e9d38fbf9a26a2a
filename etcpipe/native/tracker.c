// SPDX-License-Identifier: Apache-2.0
#include "tracker.h"

#include <stdlib.h>
#include <string.h>

#include "flow_table.h"
#include "fragment_table.h"

/*
 * Flows that went silent are found by a hand that walks over the entries, SWEEP_ENTRIES
 * at a time every SWEEP_PACKETS packets, and goes round at most SWEEP_ROUNDS times an
 * idle timeout of the capture's clock: no list to maintain a packet, and a table that
 * holds little more than the flows that are alive.
 */
#define SWEEP_PACKETS 64
#define SWEEP_ENTRIES 256
#define SWEEP_ROUNDS 16
/* The table is full: look for room before a new flow is refused. */
#define SWEEP_ENTRIES_FULL 16
/*
 * Whether a packet begins its tuple anew is decided by flow_restarts() when it comes. The
 * hand stays behind that, as captures of several queues are a little out of order.
 */
#define SWEEP_SLACK_NS 1000000000ull

#define ENDED_KEPT 65536	/* records of memory kept between two takes */

struct tracker {
	struct tracker_settings settings;
	struct flow_table table;
	struct fragment_table fragments;
	uint64_t counters[N_PACKET_COUNTERS];
	uint64_t last_id;
	uint64_t clock_ns;	/* the last packet's */
	uint64_t round_ns;	/* when the hand's round began */
	uint32_t hand;
	uint32_t until_sweep;	/* packets */
	struct flow_record *ended;
	size_t ended_first;
	size_t ended_end;
	size_t ended_room;
};

struct tracker *tracker_new(const struct tracker_settings *settings)
{
	struct tracker *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->settings = *settings;
	if (flow_table_init(&t->table)) {
		tracker_free(t);
		return NULL;
	}
	return t;
}

void tracker_free(struct tracker *t)
{
	flow_table_destroy(&t->table);
	free(t->fragments.entries);
	free(t->ended);
	free(t);
}

static int reserve_ended(struct tracker *t)
{
	size_t room = t->ended_room ? 2 * t->ended_room : 256;
	struct flow_record *ended;

	if (t->ended_end < t->ended_room)
		return 0;
	ended = realloc(t->ended, room * sizeof(*ended));
	if (!ended)
		return -1;
	t->ended = ended;
	t->ended_room = room;
	return 0;
}

/* @slack_ns: how much longer than its timeout the flow must have been silent. */
static int is_silent(const struct tracker *t, const struct flow_state *flow, uint64_t slack_ns)
{
	return flow_is_silent(flow, t->clock_ns - slack_ns, &t->settings.timeouts);
}

static uint8_t silence_reason(const struct flow_state *flow)
{
	return flow_is_half_open(flow) ? END_ESTABLISH : END_IDLE;
}

static struct flow_record record_of(const struct flow_entry *entry, uint8_t open_reason)
{
	struct flow_record record = { .key = entry->key, .state = entry->state };

	record.reason = entry->state.status == FLOW_CLOSED ? END_CLOSED : open_reason;
	return record;
}

/* Note that the flow in @entry fell silent. -1: no memory, the flow stays. */
static int note_end(struct tracker *t, const struct flow_entry *entry)
{
	if (reserve_ended(t))
		return -1;
	t->ended[t->ended_end++] = record_of(entry, silence_reason(&entry->state));
	return 0;
}

/* Move the hand over @n entries, or to the end of its round. */
static void sweep(struct tracker *t, uint32_t n)
{
	for (; n && t->hand < t->table.n_entries; n--, t->hand++) {
		struct flow_entry *entry = flow_table_entry(&t->table, t->hand);

		if (entry->state.flow_id && is_silent(t, &entry->state, SWEEP_SLACK_NS) &&
		    !note_end(t, entry))
			flow_table_remove(&t->table, t->hand);
	}
}

static void sweep_in_rounds(struct tracker *t)
{
	uint64_t since = t->clock_ns - t->round_ns;

	if (t->hand >= t->table.n_entries) {
		/* a clock that went back gives a huge difference, and a new round at once */
		if (since < t->settings.timeouts.idle_ns / SWEEP_ROUNDS)
			return;
		t->hand = 0;
		t->round_ns = t->clock_ns;
	}
	sweep(t, SWEEP_ENTRIES);
}

static int make_room(struct tracker *t)
{
	if (t->table.n_flows < t->settings.flows_max)
		return 0;
	if (t->hand >= t->table.n_entries)
		t->hand = 0;
	sweep(t, SWEEP_ENTRIES_FULL);
	return t->table.n_flows < t->settings.flows_max ? 0 : -1;
}

/* The flow of the packet, begun or begun anew if the rules say so. NULL: no room. */
static struct flow_state *open_flow(struct tracker *t, const struct packet *p, uint64_t now)
{
	uint32_t tag = flow_table_tag(&t->table, &p->key);
	struct flow_entry *entry = flow_table_find(&t->table, &p->key, tag);

	if (!entry) {
		if (make_room(t))
			return NULL;
		entry = flow_table_insert(&t->table, &p->key, tag);
		if (!entry)
			return NULL;
		t->counters[FLOWS_CREATED]++;
	} else if (flow_restarts(&entry->state, p, now, &t->settings.timeouts)) {
		if (note_end(t, entry))
			return NULL;
		t->counters[FLOWS_RESTARTED]++;
	} else {
		return &entry->state;
	}
	flow_begin(&entry->state, p, ++t->last_id, now);
	return &entry->state;
}

void tracker_refuse(struct tracker *t, uint32_t reason)
{
	t->counters[PACKETS_SEEN]++;
	t->counters[reason]++;
}

int tracker_add(struct tracker *t, const struct packet *p, uint32_t wire_len, uint64_t now,
		struct tracked *tracked)
{
	struct flow_state *flow;

	t->clock_ns = now;
	t->counters[PACKETS_SEEN]++;
	if (!t->until_sweep--) {
		t->until_sweep = SWEEP_PACKETS - 1;
		sweep_in_rounds(t);
	}
	if (!flow_is_sampled(&p->key, t->settings.sample_every, t->settings.sample_seed)) {
		t->counters[PACKETS_UNSAMPLED]++;
		return -1;
	}
	flow = open_flow(t, p, now);
	if (!flow) {
		t->counters[PACKETS_TABLE_FULL]++;
		return -1;
	}
	t->counters[PACKETS_TRACKED]++;
	if (p->fragment == FRAGMENT_FIRST)
		fragment_table_put(&t->fragments, &t->table.hash_key, p, now);
	tracked->flow_id = flow->flow_id;
	tracked->direction = flow_direction(flow, p);
	tracked->rank = flow_update(flow, p, wire_len, 1, now, t->settings.count_rule);
	if (tracked->rank < t->settings.first_n)
		t->counters[PACKETS_FIRST_N]++;
	return 0;
}

int tracker_join(const struct tracker *t, struct packet *p, uint64_t now)
{
	const struct fragment_flow *flow;

	if (p->fragment != FRAGMENT_LATER)
		return -1;
	flow = fragment_table_find(&t->fragments, &t->table.hash_key, p, now);
	if (!flow)
		return -1;
	p->key = flow->key;
	p->from_b = flow->from_b;
	return tracker_find(t, &p->key) ? 0 : -1;
}

uint32_t tracker_parse(const struct tracker *t)
{
	return t->settings.parse;
}

const struct flow_state *tracker_find(const struct tracker *t, const struct flow_key *key)
{
	const struct flow_entry *entry =
		flow_table_find(&t->table, key, flow_table_tag(&t->table, key));

	return entry ? &entry->state : NULL;
}

size_t tracker_ended(const struct tracker *t)
{
	return t->ended_end - t->ended_first;
}

size_t tracker_take(struct tracker *t, struct flow_record *records, size_t n)
{
	size_t there = tracker_ended(t);

	if (n > there)
		n = there;
	if (n)
		memcpy(records, t->ended + t->ended_first, n * sizeof(*records));
	t->ended_first += n;
	if (t->ended_first == t->ended_end) {
		t->ended_first = t->ended_end = 0;
		if (t->ended_room > ENDED_KEPT) {
			free(t->ended);
			t->ended = NULL;
			t->ended_room = 0;
		}
	}
	return n;
}

size_t tracker_finish(struct tracker *t, struct flow_record *records, size_t n)
{
	size_t filled = tracker_take(t, records, n);
	uint32_t i;

	for (i = 0; i < t->table.n_entries && filled < n; i++) {
		struct flow_entry *entry = flow_table_entry(&t->table, i);
		uint8_t reason;

		if (!entry->state.flow_id)
			continue;
		reason = is_silent(t, &entry->state, 0) ? silence_reason(&entry->state) : END_SOURCE;
		records[filled++] = record_of(entry, reason);
		flow_table_remove(&t->table, i);
	}
	return filled;
}

const uint64_t *tracker_counters(const struct tracker *t)
{
	return t->counters;
}

uint64_t tracker_flows(const struct tracker *t)
{
	return t->table.n_flows;
}

uint64_t tracker_clock_ns(const struct tracker *t)
{
	return t->clock_ns;
}

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A new flow's way into the table, and which flow makes room for it in a full set: one that
 * was taken out; of those that closed, that nobody answered or that only one packet was seen
 * of the longest idle; of all others the longest idle. So any number of SYNs does not push out
 * flows that were answered.
 */
#ifndef ETCPIPE_INSERT_H
#define ETCPIPE_INSERT_H

#include "parsed.h"

#ifdef ETCPIPE_BCC
#define PUT_TRIES 2	/* the verifier walks each once more, where nothing is walked alone */
#else
#define PUT_TRIES 4
#endif
#define COMPILER_BARRIER() asm volatile("" ::: "memory")

/* How willingly a place is given to another flow; the longer it was idle the more. */
#define CLAIM_FREE (~0ull)
#define CLAIM_CHEAP (1ull << 63)
#define CLAIM_ALIVE (1ull << 62)	/* later than any time */

/* Without branches: the verifier walks each way through every place. */
static __always_inline __u64 entry_claim(const struct table_entry *entry)
{
	const struct flow_state *flow = &entry->state;
	__u64 is_cheap = (flow->status == FLOW_CLOSED) |
			 (flow->packets[0] + flow->packets[1] <= 1) | flow_is_half_open(flow);

	if (!entry_is_used(entry))
		return CLAIM_FREE;
	/* zero: no number that the verifier knows */
	return (CLAIM_ALIVE - flow->last_ns) | is_cheap * CLAIM_CHEAP | entry->zero;
}

/* The place in a set that goes to a new flow, from its home on. */
static __always_inline __u32 set_claim(const struct flow_set *set, __u32 home)
{
	__u32 i, place, chosen = home;
	__u64 claim, best = 0;

NO_UNROLL
	for (i = 0; i < SET_FLOWS; i++) {
		place = (home + i) & (SET_FLOWS - 1);
		claim = entry_claim(set_entry(set, place));
		if (claim > best) {
			best = claim;
			chosen = place;
		}
		if (claim == CLAIM_FREE)
			break;
	}
	return place_any(set, chosen);
}

/*
 * The place of the flow whose packet was parsed last, where it is not at home; SET_FLOWS: it is
 * not in the table. As what follows, a function that the verifier walks once and alone.
 */
VERIFIED_ALONE __u32 flows_search(__u32 index, __u32 tag)
{
	struct flow_tags *tags = flow_tags_at(index);
	struct flow_set *set = flow_set_at(index);
	struct packet *p = parsed();

	return set && tags && p ? set_search(set, tags, &p->key, tag) : SET_FLOWS;
}

/* The place that it gets. */
VERIFIED_ALONE __u32 flows_claim(__u32 index, __u32 home)
{
	struct flow_set *set = flow_set_at(index);

	return set ? set_claim(set, home) : SET_FLOWS;
}

/* The packet's flow, or NULL. */
static __always_inline struct flow_state *flows_find(struct packet *p)
{
	struct flow_place at = flows_place(&p->key);
	__u32 place;

	if (!at.set || !at.tags)
		return NULL;
	place = flow_home(at.hash);
	if (!set_is_home(at.set, at.tags, &p->key, at.hash))
		place = flows_search(at.index, flow_tag(at.hash));
	return set_flow(at.set, place);
}

/*
 * A flow begins in a place: nobody's, then with its key and state, then the new one's.
 *
 * BPF has no barriers between stores. x86 shows them in this order; others, as arm64, may not,
 * but for the lock, which orders writers among each other. A reader has no lock and reads a key
 * word by word, so on any machine it may, in these few ns, find the flow of before, or a key of
 * which half is new; and on arm64 the new id before the new state. In all of these its packet
 * is accounted to another flow, or to none: what it writes to stays this entry, and the next
 * packet finds what is there. User space reads an id before and after all else (flow_table.py).
 */
static __always_inline void entry_write(struct table_entry *entry, const struct flow_key *key,
					struct flow_state *flow)
{
	__u64 flow_id = flow->flow_id;

	entry->taken = flow->flow_id = entry->state.flow_id;
	COMPILER_BARRIER();
	entry->key = *key;
	entry->state = *flow;
	COMPILER_BARRIER();
	entry->state.flow_id = flow->flow_id = flow_id;
}

static __always_inline __u32 flows_version(struct flow_lock *lock)
{
	__u32 version;

	bpf_spin_lock(&lock->lock);	/* what is read after this is not older */
	version = lock->version;
	bpf_spin_unlock(&lock->lock);
	return version;
}

/*
 * Begin a flow in a place, unless the set changed since it had this version. Returns 0 if so,
 * and in @replaced the id of the flow that had the place, 0: it was free.
 */
static __always_inline int flows_write(const struct flow_place *at, struct flow_lock *lock,
				       __u32 version, __u32 place, const struct flow_key *key,
				       struct flow_state *flow, __u64 *replaced)
{
	struct table_entry *entry = set_entry(at->set, place);
	int is_same;

	place &= SET_FLOWS - 1;
	bpf_spin_lock(&lock->lock);
	is_same = lock->version == version;
	if (is_same) {
		lock->version++;
		*replaced = entry_is_used(entry) ? entry->state.flow_id : 0;
		entry_write(entry, key, flow);
		at->tags->tags[place] = flow_tag(at->hash);
	}
	bpf_spin_unlock(&lock->lock);
	return is_same ? 0 : -1;
}

/*
 * Put the packet's flow into the table, in the place of the one that was found, of this id, if
 * any. Returns it, or the one that another CPU put there before, which has another id; NULL
 * where other CPUs changed the set all the time. @replaced is as flows_write() says.
 */
static __always_inline struct flow_state *flows_put(struct packet *p, struct flow_state *flow,
						    __u64 old_id, __u64 *replaced)
{
	struct flow_place at = flows_place(&p->key);
	struct flow_lock *lock = flows_lock(&at);
	__u32 place, version;
	int i;

	if (!at.set || !at.tags || !lock)
		return NULL;
NO_UNROLL
	for (i = 0; i < PUT_TRIES; i++) {
		version = flows_version(lock);
		place = flows_search(at.index, flow_tag(at.hash));
		if (place >= SET_FLOWS)
			place = flows_claim(at.index, flow_home(at.hash));
		else if (set_entry(at.set, place)->state.flow_id != old_id)
			return set_flow(at.set, place);
		if (!flows_write(&at, lock, version, place, &p->key, flow, replaced))
			return set_flow(at.set, place);
	}
	return NULL;
}

#endif /* ETCPIPE_INSERT_H */

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Inserts a new flow into the table, and chooses the flow that it replaces in a full set. A
 * removed flow goes first. Next is the longest idle of those flows that are closed, half open
 * or have one packet only, and at last the longest idle of all others. So a flood of SYNs does
 * not push out flows that were answered.
 */
#ifndef ETCPIPE_INSERT_H
#define ETCPIPE_INSERT_H

#include "parsed.h"

#ifdef ETCPIPE_BCC
#define PUT_TRIES 2	/* bcc's code is one piece, so the verifier walks each try anew */
#else
#define PUT_TRIES 4
#endif
#define COMPILER_BARRIER() asm volatile("" ::: "memory")

/* A higher claim means that the place goes to a new flow sooner; it rises with idle time. */
#define CLAIM_FREE (~0ull)
#define CLAIM_CHEAP (1ull << 63)
#define CLAIM_ALIVE (1ull << 62)	/* greater than any timestamp */

/* Without branches, as the verifier would walk both ways for each place. */
static __always_inline __u64 entry_claim(const struct table_entry *entry)
{
	const struct flow_state *flow = &entry->state;
	__u64 is_cheap = (flow->status == FLOW_CLOSED) |
			 (flow->packets[0] + flow->packets[1] <= 1) | flow_is_half_open(flow);

	if (!entry_is_used(entry))
		return CLAIM_FREE;
	/* entry->zero hides the value from the verifier: see table.h */
	return (CLAIM_ALIVE - flow->last_ns) | is_cheap * CLAIM_CHEAP | entry->zero;
}

/* Returns the place in the set that a new flow gets; the search begins at its home place. */
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
 * Returns the place of the flow of the packet that was parsed last, or SET_FLOWS if it is not in
 * the table. Like the next one, this is a global function, which the verifier checks only once.
 */
VERIFIED_ALONE __u32 flows_search(__u32 index, __u32 tag)
{
	struct flow_tags *tags = flow_tags_at(index);
	struct flow_set *set = flow_set_at(index);
	struct packet *p = parsed();

	return set && tags && p ? set_search(set, tags, &p->key, tag) : SET_FLOWS;
}

/* Returns the place that this flow gets. */
VERIFIED_ALONE __u32 flows_claim(__u32 index, __u32 home)
{
	struct flow_set *set = flow_set_at(index);

	return set ? set_claim(set, home) : SET_FLOWS;
}

/* Returns the packet's flow, or NULL if it is not in the table. */
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
 * Writes a new flow into a place in three steps: mark the place as free, write key and state,
 * then set the new id.
 *
 * BPF has no store barriers. x86 keeps these stores in order; weakly ordered machines such as
 * arm64 may not. The lock orders writers among each other, but readers take no lock and read a
 * key word by word. So for a few ns a reader may find the old flow or a key that is half new,
 * and on arm64 the new id before the new state. Its packet is then accounted to another flow or
 * to none. The harm ends there: it writes to this entry only, and the next packet finds the new
 * flow. User space reads the id before and after everything else (flow_table.py).
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

	bpf_spin_lock(&lock->lock);	/* later reads are at least as new as this version */
	version = lock->version;
	bpf_spin_unlock(&lock->lock);
	return version;
}

/*
 * Write a flow into a place, unless the set has changed since @version. Returns 0 if it was
 * written, with the id of the flow that had the place in @replaced (0: it was free), else -1.
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
 * Put the packet's flow into the table. It replaces the flow with @old_id if that is there with
 * the same key. Returns the flow, or the one that another CPU inserted first, which has another
 * id, or NULL if other CPUs changed the set at each try. @replaced: see flows_write().
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

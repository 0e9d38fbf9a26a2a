/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The flow table: sets of SET_FLOWS places in an array, and in another one 16 bits of each
 * flow's hash, a cache line a set. Its flow's hash says which set a flow is in, and its home,
 * the place where it is mostly found: by one access to memory, with the tag's at the same time.
 *
 * Whoever reads takes no lock and compares the key. Kernel programs alone write places, under
 * the set's lock: insert.h. User space writes only `taken`, the id of a flow that it took out.
 * As ids are never used twice, that has no effect on a newer flow in the same place.
 *
 * For your own programs too: examples/verdict_reader.bpf.c.
 */
#ifndef ETCPIPE_TABLE_H
#define ETCPIPE_TABLE_H

#include "packet.h"

#define TAGS_A_WORD 4
#define TAG_WORDS (SET_FLOWS / TAGS_A_WORD)
#define TAG_ONES (~0ull / 0xffff)	/* 1 in each 16 bits */

struct flow_set {
	struct table_entry entries[SET_FLOWS];
};

/* Of a place that was never used 0. What is there of a flow that has gone means nothing. */
struct flow_tags {
	union {
		__u64 words[TAG_WORDS];
		__u16 tags[SET_FLOWS];
	};
};

/* Where a key's flow is, or would be. */
struct flow_place {
	__u64 hash;
	__u32 index;		/* of its set */
	struct flow_set *set;	/* and tags: NULL only for the verifier */
	struct flow_tags *tags;
};

/* Of the sets that share it. */
struct flow_lock {
	struct bpf_spin_lock lock;
	__u32 version;		/* raised by each change of a place */
};

/* Multiplied by secret numbers, so that nobody can aim flows at one set (Dietzfelbinger). */
static __always_inline __u64 flow_hash(const struct flow_plan *plan, const struct flow_key *key)
{
	const __u64 *words = (const __u64 *)key;
	__u64 hash = 0;
	unsigned int i;

UNROLL
	for (i = 0; i < sizeof(*key) / sizeof(*words); i++)
		hash += words[i] * plan->multipliers[i];
	hash ^= hash >> 32;
	hash *= 0x9e3779b97f4a7c15ull;	/* 2^64 / golden ratio */
	return hash ^ hash >> 32;
}

static __always_inline __u32 flow_set_of(const struct flow_plan *plan, __u64 hash)
{
	return (hash >> 32) * plan->sets >> 32;
}

static __always_inline __u32 flow_home(__u64 hash)
{
	return hash & (SET_FLOWS - 1);
}

static __always_inline __u16 flow_tag(__u64 hash)
{
	return hash >> 5 | 1;
}

/* Is a flow in this place? Not before the first one, nor after it was taken out. */
static __always_inline int entry_is_used(const struct table_entry *entry)
{
	return entry->taken != entry->state.flow_id;
}

static __always_inline int entry_is(const struct table_entry *entry, const struct flow_key *key)
{
	const __u64 *a = (const __u64 *)&entry->key, *b = (const __u64 *)key;
	__u64 differ = 0;
	unsigned int i;

UNROLL
	for (i = 0; i < sizeof(*key) / sizeof(*a); i++)
		differ |= a[i] ^ b[i];
	return !differ && entry_is_used(entry);
}

/* Bit 15 of each tag in a word that is this one, from the lowest on up to the first at least. */
static __always_inline __u64 tags_equal(__u64 word, __u16 tag)
{
	__u64 differ = word ^ tag * TAG_ONES;

	return (differ - TAG_ONES) & ~differ & TAG_ONES << 15;
}

/* Which tag the lowest bit of tags_equal() stands for. */
static __always_inline __u32 tags_first(__u64 equal)
{
	return ((equal & -equal) >> 15) * 0x0000000100020003ull >> 48 & (TAGS_A_WORD - 1);
}

/* The place of this number; the mask is for the verifier, and the compiler must leave it. */
static __always_inline struct table_entry *set_entry(const struct flow_set *set, __u32 place)
{
	OPAQUE(place);
	return (struct table_entry *)&set->entries[place & (SET_FLOWS - 1)];
}

/*
 * The same number, of which the verifier knows no more than that it is a place: it would else
 * walk all that comes after once for each place that a flow may be found in.
 */
static __always_inline __u32 place_any(const struct flow_set *set, __u32 place)
{
	return (place + set_entry(set, place)->zero) & (SET_FLOWS - 1);
}

/* Where the flow is that is not at home; SET_FLOWS: nowhere. */
static __always_inline __u32 set_search(const struct flow_set *set, const struct flow_tags *tags,
					const struct flow_key *key, __u16 tag)
{
	__u32 place, i, j;
	__u64 equal;

NO_UNROLL
	for (i = 0; i < TAG_WORDS; i++) {
		equal = tags_equal(tags->words[i], tag);
NO_UNROLL
		for (j = 0; equal && j < TAGS_A_WORD; j++) {
			place = i * TAGS_A_WORD + tags_first(equal);
			if (entry_is(set_entry(set, place), key))
				return place_any(set, place);
			equal &= equal - 1;
		}
	}
	return SET_FLOWS;
}

static __always_inline int set_is_home(const struct flow_set *set, const struct flow_tags *tags,
				       const struct flow_key *key, __u64 hash)
{
	__u32 home = flow_home(hash);

	return tags->tags[home] == flow_tag(hash) && entry_is(&set->entries[home], key);
}

/* The flow's place in its set, SET_FLOWS: it is not in the table. */
static __always_inline __u32 set_find(const struct flow_set *set, const struct flow_tags *tags,
				      const struct flow_key *key, __u64 hash)
{
	if (set_is_home(set, tags, key, hash))
		return flow_home(hash);
	return set_search(set, tags, key, flow_tag(hash));
}

/* The flow in a place that set_find() said, NULL: there was none. */
static __always_inline struct flow_state *set_flow(const struct flow_set *set, __u32 place)
{
	return place < SET_FLOWS ? &set_entry(set, place)->state : NULL;
}

#endif /* ETCPIPE_TABLE_H */

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The flow table. One array holds sets of SET_FLOWS places; another holds a tag for each place,
 * 16 bits of its flow's hash, with one cache line of tags per set. The hash of a key selects
 * the set, and within the set the home place, where most flows are found. The home place and
 * its tag are read at the same time, so that a lookup mostly waits for memory only once.
 *
 * Readers take no lock and compare the key. Only kernel programs write places, under the set's
 * lock (insert.h). User space writes only `taken`, the id of the flow that it removed. Ids are
 * never reused, so this write cannot remove a newer flow in the same place.
 *
 * Other programs may read the table too: see examples/verdict_reader.bpf.c.
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

/* 0 for a place that was never used. The tag of a removed flow stays: check the entry, too. */
struct flow_tags {
	union {
		__u64 words[TAG_WORDS];
		__u16 tags[SET_FLOWS];
	};
};

/* The set that holds a key's flow if the flow is in the table. */
struct flow_place {
	__u64 hash;
	__u32 index;		/* of the set */
	struct flow_set *set;	/* and tags: NULL only for the verifier */
	struct flow_tags *tags;
};

/* Several sets share one lock. */
struct flow_lock {
	struct bpf_spin_lock lock;
	__u32 version;		/* raised by each change of a place */
};

/* Multiply-shift hash (Dietzfelbinger); its secret multipliers prevent floods of one set. */
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

/* A place is free if it was never used, or once user space has removed its flow. */
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

/*
 * Returns bit 15 of each tag in the word that equals @tag. The lowest bit set is exact. Borrows
 * may set bits above it for other tags, so the caller must compare the keys.
 */
static __always_inline __u64 tags_equal(__u64 word, __u16 tag)
{
	__u64 differ = word ^ tag * TAG_ONES;

	return (differ - TAG_ONES) & ~differ & TAG_ONES << 15;
}

/* Returns the index of the tag that the lowest bit of tags_equal() belongs to. */
static __always_inline __u32 tags_first(__u64 equal)
{
	return ((equal & -equal) >> 15) * 0x0000000100020003ull >> 48 & (TAGS_A_WORD - 1);
}

/* The verifier needs the mask; OPAQUE keeps the compiler from removing it. */
static __always_inline struct table_entry *set_entry(const struct flow_set *set, __u32 place)
{
	OPAQUE(place);
	return (struct table_entry *)&set->entries[place & (SET_FLOWS - 1)];
}

/*
 * Returns @place unchanged (`zero` is 0), but hides its value from the verifier, which would
 * otherwise verify all the code that follows once for each place in the set.
 */
static __always_inline __u32 place_any(const struct flow_set *set, __u32 place)
{
	return (place + set_entry(set, place)->zero) & (SET_FLOWS - 1);
}

/* Returns the place of a flow that is not in its home place, or SET_FLOWS if there is none. */
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

/* Returns the flow's place in its set, or SET_FLOWS if it is not in the table. */
static __always_inline __u32 set_find(const struct flow_set *set, const struct flow_tags *tags,
				      const struct flow_key *key, __u64 hash)
{
	if (set_is_home(set, tags, key, hash))
		return flow_home(hash);
	return set_search(set, tags, key, flow_tag(hash));
}

/* Returns the flow in a place that set_find() returned, or NULL if it found none. */
static __always_inline struct flow_state *set_flow(const struct flow_set *set, __u32 place)
{
	return place < SET_FLOWS ? &set_entry(set, place)->state : NULL;
}

#endif /* ETCPIPE_TABLE_H */

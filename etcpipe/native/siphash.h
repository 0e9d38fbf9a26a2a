/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SipHash-1-3 over whole 64-bit words: a keyed hash, so that nobody who does not know
 * the key can choose flows that collide. Source: Aumasson and Bernstein, "SipHash: a
 * fast short-input PRF", 2012; 1-3 is the variant that Rust and Python use for tables.
 */
#ifndef ETCPIPE_SIPHASH_H
#define ETCPIPE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

struct siphash_key {
	uint64_t k[2];
};

static inline uint64_t siphash_rotate(uint64_t x, int bits)
{
	return x << bits | x >> (64 - bits);
}

static inline void siphash_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = siphash_rotate(v[1], 13) ^ v[0];
	v[3] = siphash_rotate(v[3], 16) ^ v[2];
	v[0] = siphash_rotate(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = siphash_rotate(v[1], 17) ^ v[2];
	v[3] = siphash_rotate(v[3], 21) ^ v[0];
	v[2] = siphash_rotate(v[2], 32);
}

static inline uint64_t siphash_words(const struct siphash_key *key, const uint64_t *words,
				     size_t n_words)
{
	uint64_t v[4] = {
		key->k[0] ^ 0x736f6d6570736575,
		key->k[1] ^ 0x646f72616e646f6d,
		key->k[0] ^ 0x6c7967656e657261,
		key->k[1] ^ 0x7465646279746573,
	};
	uint64_t last = (uint64_t)(n_words * 8) << 56;
	size_t i;

	for (i = 0; i <= n_words; i++) {
		uint64_t word = i < n_words ? words[i] : last;

		v[3] ^= word;
		siphash_round(v);
		v[0] ^= word;
	}
	v[2] ^= 0xff;
	siphash_round(v);
	siphash_round(v);
	siphash_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif /* ETCPIPE_SIPHASH_H */

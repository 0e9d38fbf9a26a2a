// SPDX-License-Identifier: Apache-2.0
/*
 * The view tok: gpu/tokens.py says what it is, gpu/tokens_cpu.py is the definition. Gaps are
 * left to NumPy, which takes their logarithm: the bits of its log1p() are its own.
 */
#include "native.h"

#include "etcpipe.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

#define RANKS 10
#define TOKENS 64
#define NUMBERS 8
#define ROW (TOKENS + NUMBERS)
#define TRANSPORT 20
#define PAYLOAD 40
#define RAW_LEN 144		/* 60 + 60 + TOKENS - PAYLOAD */
#define NO_BYTE 256.0f
#define NOWHERE (-1)
#define UDP_HEADER 8
#define EXTENSIONS_MAX 6

/* Of one batch; addresses come from gpu/tokens_native.py, which keeps the arrays alive. */
struct work {
	const struct flow_key *keys;
	const struct packet_fields *packets;	/* [flows][ranks] */
	const uint8_t *raw;			/* [flows][ranks][raw_len] */
	float *rows;				/* [flows][RANKS][ROW] */
	double *gaps_us;			/* [flows][RANKS], zero where no packet counts */
	long long flows;
	long long ranks;
	long long raw_len;
	long long depth;
};

static bool is_extension(uint8_t kind)
{
	return kind == IPPROTO_HOPOPTS || kind == IPPROTO_ROUTING || kind == IPPROTO_FRAGMENT ||
	       kind == IPPROTO_AH || kind == IPPROTO_DSTOPTS;
}

/* Where what follows the extension headers of IPv6 begins. */
static int behind_extensions(const uint8_t *raw, int kept)
{
	int at = 40, i, size;
	uint8_t kind = raw[6];

	for (i = 0; i < EXTENSIONS_MAX && is_extension(kind) && at + 2 <= kept; i++) {
		if (kind == IPPROTO_FRAGMENT)
			size = 8;
		else if (kind == IPPROTO_AH)
			size = (raw[at + 1] + 2) * 4;
		else
			size = (raw[at + 1] + 1) * 8;
		kind = raw[at];
		at += size;
	}
	return at;
}

/* Where each token of a packet is in its bytes; headers: bytes from IP to the payload. */
static void find_places(const uint8_t *raw, int kept, uint8_t protocol, int64_t headers,
			int64_t *places)
{
	static const int8_t of_ipv6[TRANSPORT] = {
		0, 1, NOWHERE, NOWHERE, 2, 3, NOWHERE, NOWHERE, 7, NOWHERE,
		NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE,
	};
	static const int8_t behind_udp[4] = { 6, 7, 4, 5 };	/* checksum, length */
	bool is_ipv6 = raw[0] >> 4 == 6;
	int64_t transport = is_ipv6 ? behind_extensions(raw, kept) : (raw[0] & 0x0f) * 4;
	int i;

	for (i = 0; i < TRANSPORT; i++)
		places[i] = is_ipv6 ? of_ipv6[i] : i;
	for (i = TRANSPORT; i < TOKENS; i++)
		places[i] = NOWHERE;
	if (protocol == IPPROTO_TCP) {
		for (i = 0; i < PAYLOAD - TRANSPORT; i++)
			places[TRANSPORT + i] = transport + i;
	} else if (protocol == IPPROTO_UDP) {
		for (i = 0; i < 4; i++) {
			places[TRANSPORT + i] = headers - UDP_HEADER + i;
			places[PAYLOAD - 4 + i] = headers - UDP_HEADER + behind_udp[i];
		}
	} else {
		return;
	}
	for (i = PAYLOAD; i < TOKENS; i++)
		places[i] = headers + i - PAYLOAD;
}

static void write_tokens(const struct packet_fields *packet, const uint8_t *raw, uint8_t protocol,
			 int64_t headers, float *row)
{
	int kept = packet->raw_len < RAW_LEN ? packet->raw_len : RAW_LEN, i;
	int64_t places[TOKENS];

	find_places(raw, kept, protocol, headers, places);
	for (i = 0; i < TOKENS; i++)
		if (places[i] >= 0 && places[i] < kept)
			row[i] = raw[places[i]];
	row[2] = packet->ip_len >> 8 & 0xff;
	row[3] = packet->ip_len & 0xff;
	row[9] = protocol;
}

static void write_flow(const struct work *work, long long flow)
{
	const struct packet_fields *packets = work->packets + flow * work->ranks;
	const struct packet_fields *first = NULL, *last = NULL;
	const uint8_t *raw = work->raw + flow * work->ranks * work->raw_len;
	uint8_t protocol = work->keys[flow].protocol;
	long long most = work->ranks < RANKS ? work->ranks : RANKS, rank;
	int before = 0, turns = 0;

	for (rank = 0; rank < most && before < work->depth; rank++) {
		const struct packet_fields *packet = packets + rank;
		float *row = work->rows + (flow * RANKS + rank) * ROW, *numbers = row + TOKENS;
		int64_t headers = (int64_t)packet->ip_len - packet->payload_len;

		if (!packet->present)
			continue;
		first = first ? first : packet;
		write_tokens(packet, raw + rank * work->raw_len, protocol, headers, row);
		if (last) {
			double now = (double)(int64_t)(packet->timestamp_ns - first->timestamp_ns);
			double then = (double)(int64_t)(last->timestamp_ns - first->timestamp_ns);

			work->gaps_us[flow * RANKS + rank] = now > then ? (now - then) / 1e3 : 0;
			turns += (packet->direction == 1) != (last->direction == 1);
		}
		numbers[0] = (float)(packet->ip_len / 1500.0);
		numbers[1] = 1.0f - 2.0f * packet->direction;
		numbers[3] = (float)(__builtin_popcount(packet->tcp_flags) / 8.0);
		numbers[4] = (float)(packet->payload_len / 1500.0);
		numbers[5] = (float)(headers / 64.0);
		numbers[6] = (float)(before / 10.0);
		numbers[7] = (float)(turns / 10.0);
		last = packet;
		before++;
	}
}

static void write_rows(const struct work *work)
{
	float empty[ROW];
	long long i;
	int token;

	for (token = 0; token < ROW; token++)
		empty[token] = token < TOKENS ? NO_BYTE : 0;
	for (i = 0; i < work->flows * RANKS; i++)
		memcpy(work->rows + i * ROW, empty, sizeof(empty));
	for (i = 0; i < work->flows; i++)
		write_flow(work, i);
}

static PyObject *py_tokens(PyObject *module, PyObject *args)
{
	unsigned long long keys, packets, raw, rows, gaps_us;
	struct work work;

	(void)module;
	if (!PyArg_ParseTuple(args, "KKKKKLLLL", &keys, &packets, &raw, &rows, &gaps_us,
			      &work.flows, &work.ranks, &work.raw_len, &work.depth))
		return NULL;
	work.keys = (const struct flow_key *)(uintptr_t)keys;
	work.packets = (const struct packet_fields *)(uintptr_t)packets;
	work.raw = (const uint8_t *)(uintptr_t)raw;
	work.rows = (float *)(uintptr_t)rows;
	work.gaps_us = (double *)(uintptr_t)gaps_us;
	Py_BEGIN_ALLOW_THREADS
	write_rows(&work);
	Py_END_ALLOW_THREADS
	Py_RETURN_NONE;
}

PyMethodDef token_methods[] = {
	{ "tokens_compute", py_tokens, METH_VARARGS,
	  "tokens_compute(keys, packets, raw, rows, gaps_us, flows, ranks, raw_len, depth): "
	  "addresses; see etcpipe.gpu.tokens_native." },
	{ NULL, NULL, 0, NULL },
};

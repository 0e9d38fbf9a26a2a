// SPDX-License-Identifier: Apache-2.0
/* Tokens for gpu/tokens_native.py, which checks all arrays and keeps them alive. */
#include "native.h"

#include "tokens.h"

static PyObject *py_tokens(PyObject *module, PyObject *args)
{
	unsigned long long keys, packets, raw, rows, gaps_us, n, i;
	struct token_flows flows;

	(void)module;
	if (!PyArg_ParseTuple(args, "KKKKKKIII", &keys, &packets, &raw, &rows, &gaps_us, &n,
			      &flows.ranks, &flows.raw_len, &flows.depth))
		return NULL;
	flows.keys = (const struct flow_key *)(uintptr_t)keys;
	flows.packets = (const struct packet_fields *)(uintptr_t)packets;
	flows.raw = (const uint8_t *)(uintptr_t)raw;
	flows.rows = (float *)(uintptr_t)rows;
	Py_BEGIN_ALLOW_THREADS
	for (i = 0; i < n; i++)
		tokens_of_flow(&flows, i, (double *)(uintptr_t)gaps_us + i * TOK_PACKETS);
	Py_END_ALLOW_THREADS
	Py_RETURN_NONE;
}

PyMethodDef token_methods[] = {
	{ "tokens_compute", py_tokens, METH_VARARGS,
	  "tokens_compute(keys, packets, raw, rows, gaps_us, flows, ranks, raw_len, depth): "
	  "addresses; see etcpipe.gpu.tokens_native." },
	{ NULL, NULL, 0, NULL },
};

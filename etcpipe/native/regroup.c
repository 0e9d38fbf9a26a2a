// SPDX-License-Identifier: Apache-2.0
#include "native.h"

PyMethodDef regroup_methods[] = {
	{ NULL, NULL, 0, NULL },
};

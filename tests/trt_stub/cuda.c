// SPDX-License-Identifier: Apache-2.0
/* A CUDA driver that answers as FAILS, STATUS and DEVICES say, for machines without one. */
#include <stdio.h>
#include <string.h>

#define ANSWER(name)	(!strcmp(FAILS, #name) ? STATUS : 0)

int cuInit(unsigned int flags)
{
	return ANSWER(cuInit);
}

int cuDeviceGetCount(int *count)
{
	*count = DEVICES;
	return ANSWER(cuDeviceGetCount);
}

int cuDriverGetVersion(int *version)
{
	*version = 12080;
	return ANSWER(cuDriverGetVersion);
}

int cuDeviceGet(int *device, int ordinal)
{
	*device = 40 + ordinal;
	return ANSWER(cuDeviceGet);
}

int cuDeviceGetName(char *name, int length, int device)
{
	snprintf(name, length, "NVIDIA Test %d", device);
	return ANSWER(cuDeviceGetName);
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
	*value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
	return ANSWER(cuDeviceGetAttribute);
}

int cuGetErrorString(int error, const char **text)
{
	*text = error == 100 ? "no CUDA-capable device is detected" : NULL;
	return 0;
}

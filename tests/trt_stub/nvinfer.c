// SPDX-License-Identifier: Apache-2.0
/*
 * The entry points that TensorRT's Python bindings link to, without any TensorRT behind them:
 * with this in place of its libraries the real bindings can be imported and their interface
 * be looked at. Nothing can be built or run.
 */
#include <stddef.h>

#define NOTHING(name)	void *name(void) { return NULL; }

NOTHING(createInferBuilder_INTERNAL)
NOTHING(createInferRefitter_INTERNAL)
NOTHING(createInferRuntime_INTERNAL)
NOTHING(createNvOnnxParser_INTERNAL)
NOTHING(createNvOnnxParserRefitter_INTERNAL)
NOTHING(getBuilderPluginRegistry)
NOTHING(getPluginRegistry)

int getNvOnnxParserVersion(void)
{
	return 0;
}

_Bool initLibNvInferPlugins(void)
{
	return 0;
}

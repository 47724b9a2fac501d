/* A stand-in for the CUDA driver: a GPU of the compute capability in STANDIN_CAPABILITY (53 is 5.3), which computes nothing. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 0; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = NULL; return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuGetErrorString(int code, const char **text) { *text = "stand-in"; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "stand-in GPU", size); return 0; }
int cuMemGetInfo_v2(size_t *available, size_t *total) { *available = *total = (size_t)2 << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = atoi(getenv("STANDIN_CAPABILITY"));
    *value = attribute == 75 ? capability / 10 : capability % 10;
    return 0;
}

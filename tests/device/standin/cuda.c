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

/* The GPU's memory is the host's, and everything that is started is done at once. */
typedef unsigned long long pointer;
int cuCtxSynchronize(void) { return 0; }
int cuMemAlloc_v2(pointer *address, size_t size) {
    if (size > (size_t)1 << 30) return 2; /* CUDA_ERROR_OUT_OF_MEMORY */
    *address = (pointer)malloc(size);
    return 0;
}
int cuMemFree_v2(pointer address) { free((void *)address); return 0; }
int cuMemAllocHost_v2(void **address, size_t size) { *address = malloc(size); return 0; }
int cuMemcpyHtoD_v2(pointer to, const void *from, size_t size) { memcpy((void *)to, from, size); return 0; }
int cuMemcpyDtoH_v2(void *to, pointer from, size_t size) { memcpy(to, (void *)from, size); return 0; }
int cuMemcpyHtoDAsync_v2(pointer to, const void *from, size_t size, void *stream) { return cuMemcpyHtoD_v2(to, from, size); }
int cuMemcpyDtoHAsync_v2(void *to, pointer from, size_t size, void *stream) { return cuMemcpyDtoH_v2(to, from, size); }
int cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)1; return 0; }
int cuStreamSynchronize(void *stream) { return 0; }
int cuEventCreate(void **event, unsigned flags) { *event = (void *)1; return 0; }
int cuEventRecord(void *event, void *stream) { return 0; }
int cuEventElapsedTime(float *milliseconds, void *start, void *end) { *milliseconds = 0.5f; return 0; }

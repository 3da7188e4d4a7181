/* The CUDA runtime of a machine without a GPU. Memory is the host's, copies copy, and a kernel that is launched is noted
   by its name in the file $CUDA_STAND_IN_LOG and not run. The device says that it is an H100. What is not here returns 0,
   which is success. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void stand_in_note(const char *line) {
  static FILE *log;
  if (!log && getenv("CUDA_STAND_IN_LOG")) log = fopen(getenv("CUDA_STAND_IN_LOG"), "a");
  if (log) fprintf(log, "%s\n", line), fflush(log);
}

static struct { const void *handle; const char *name; } *kernels;
static size_t known, room;

static cudaError_t launched(const void *handle) {
  const char *name = "?";
  for (size_t i = 0; i < known; i++)
    if (kernels[i].handle == handle) name = kernels[i].name;
  stand_in_note(name);
  return cudaSuccess;
}

static void *handle(void) { return calloc(1, 64); }

static cudaError_t memory(void **out, size_t bytes) {
  if (posix_memalign(out, 256, bytes + 256)) return cudaErrorMemoryAllocation;
  /* Fresh pages are zero by themselves, and the large ones need not be touched. */
  if (bytes < (64 << 20)) memset(*out, 0, bytes);
  return cudaSuccess;
}

/* What nvcc's start-up code calls. */
void **__cudaRegisterFatBinary(void *binary) { return handle(); }
void __cudaRegisterFatBinaryEnd(void **binary) {}
void __cudaUnregisterFatBinary(void **binary) {}
void __cudaRegisterVar(void **binary, char *host, char *device, const char *name, int ext, size_t size, int constant,
                       int global) {}
void __cudaRegisterFunction(void **binary, const char *host, char *device, const char *name, int limit, void *a, void *b,
                            void *c, void *d, int *e) {
  if (known == room) kernels = realloc(kernels, (room = room ? 2 * room : 1024) * sizeof *kernels);
  kernels[known].handle = host;
  kernels[known++].name = name;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) { return 0; }
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) { return cudaSuccess; }
cudaError_t __cudaGetKernel(void **kernel, const void *function) { return *kernel = (void *)function, cudaSuccess; }
cudaError_t __cudaLaunchKernel(void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  return launched(kernel);
}
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
  return launched(kernel);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **arguments) {
  return launched(kernel);
}
cudaError_t cudaLaunchCooperativeKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                                        cudaStream_t stream) {
  return launched(kernel);
}

/* The device. */
cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  return *available = (size_t)70 << 30, *total = (size_t)80 << 30, cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
  memset(found, 0, sizeof *found);
  strcpy(found->name, "stand-in");
  found->major = 9;
  found->totalGlobalMem = (size_t)80 << 30;
  found->multiProcessorCount = 132;
  found->warpSize = 32;
  found->maxThreadsPerBlock = found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
  found->maxThreadsDim[2] = 64;
  found->maxThreadsPerMultiProcessor = 2048;
  found->maxGridSize[0] = 0x7fffffff;
  found->maxGridSize[1] = found->maxGridSize[2] = 65535;
  found->sharedMemPerBlock = 48 << 10;
  found->sharedMemPerBlockOptin = 227 << 10;
  found->sharedMemPerMultiprocessor = 228 << 10;
  found->regsPerBlock = 64 << 10;
  found->l2CacheSize = 50 << 20;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  struct cudaDeviceProp found;
  cudaGetDeviceProperties(&found, device);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = found.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = found.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = found.multiProcessorCount; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = found.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = found.maxThreadsPerBlock; break;
    default: *value = 1;
  }
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *kernel) {
  memset(found, 0, sizeof *found);
  found->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel, int threads,
                                                                   size_t shared, unsigned flags) {
  return *blocks = 2, cudaSuccess;
}
const char *cudaGetErrorName(cudaError_t error) { return "an error"; }
const char *cudaGetErrorString(cudaError_t error) { return "an error"; }

/* Memory. */
cudaError_t cudaMalloc(void **out, size_t bytes) { return memory(out, bytes); }
cudaError_t cudaMallocHost(void **out, size_t bytes) { return memory(out, bytes); }
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags) { return memory(out, bytes); }
cudaError_t cudaMallocFromPoolAsync(void **out, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  return memory(out, bytes);
}
cudaError_t cudaFree(void *address) { return free(address), cudaSuccess; }
cudaError_t cudaFreeHost(void *address) { return free(address), cudaSuccess; }
cudaError_t cudaFreeAsync(void *address, cudaStream_t stream) { return free(address), cudaSuccess; }
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *address) {
  memset(found, 0, sizeof *found);
  found->type = cudaMemoryTypeDevice;
  found->devicePointer = (void *)address;
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
  return memcpy(to, from, bytes), cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind != cudaMemcpyDeviceToDevice) stand_in_note(kind == cudaMemcpyHostToDevice ? "copy to device" : "copy to host");
  return memcpy(to, from, bytes), cudaSuccess;
}
cudaError_t cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset, enum cudaMemcpyKind kind) {
  memset(to, 0, bytes);
  if (bytes == sizeof(int)) *(int *)to = 64 << 10; /* the shared memory that a kernel asks for */
  return cudaSuccess;
}
cudaError_t cudaMemset(void *address, int value, size_t bytes) { return memset(address, value, bytes), cudaSuccess; }
cudaError_t cudaMemsetAsync(void *address, int value, size_t bytes, cudaStream_t stream) {
  stand_in_note("memset");
  return memset(address, value, bytes), cudaSuccess;
}

/* Streams, events, graphs. */
cudaError_t cudaStreamCreate(cudaStream_t *out) { return *out = handle(), cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) { return *out = handle(), cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *out) { return *out = handle(), cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) { return *out = handle(), cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *out, cudaEvent_t start, cudaEvent_t stop) { return *out = 1, cudaSuccess; }
cudaError_t cudaMemPoolCreate(cudaMemPool_t *out, const struct cudaMemPoolProps *wanted) {
  return *out = handle(), cudaSuccess;
}
cudaError_t cudaLibraryLoadData(cudaLibrary_t *out, const void *code, enum cudaJitOption *a, void **b, unsigned c,
                                enum cudaLibraryOption *d, void **e, unsigned f) {
  return *out = handle(), cudaSuccess;
}
cudaError_t cudaLibraryGetKernel(cudaKernel_t *out, cudaLibrary_t library, const char *name) {
  return *out = handle(), cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **out, unsigned version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *found) {
  *out = NULL;
  if (found) *found = cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
static int capturing;
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
  stand_in_note("== begin capture");
  return capturing = 1, cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
  stand_in_note("== end capture");
  return capturing = 0, *out = handle(), cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags) {
  return *out = handle(), cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  stand_in_note("== graph launch");
  return cudaSuccess;
}

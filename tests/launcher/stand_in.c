/* A libcuda.so.1 that executes nothing: what Triton's own driver utilities and launcher call, and no more.
 *
 * It has as many devices as it is given by stand_in_device, refuses what those would refuse, and writes down
 * every launch and every module unloaded, as JSON lines that stand_in_events returns. What a launch hands over
 * is read as the driver reads it: the cubin says how many parameters its kernel has, and how large each is.
 */
#include <cuda.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEVICES = 4, PARAMETERS = 64, NAME = 256 };
enum { GRID_YZ = 65535, SHARED_UNASKED = 48 * 1024, LATER_ABI = 8 };

/* Of the attributes in a cubin's .nv.info sections, as `cuobjdump -elf` prints them. */
enum { SIZED = 4, MAX_THREADS = 0x05, REQUIRED_THREADS = 0x10, PARAMETER = 0x17, PARAMETER_V2 = 0x45 };

typedef struct {
  int capability, sms, shared_per_sm, shared_per_block, registers_per_block, threads_per_block;
} Limits;

struct CUctx_st {
  Limits limits;
};

typedef struct CUfunc_st Function;
struct CUfunc_st {
  CUcontext context;
  char name[NAME];
  int shared, dynamic_shared, threads;
  int count, size[PARAMETERS];
  uint64_t code; /* a checksum (FNV-1a) of its instructions */
};

static struct CUctx_st devices[DEVICES];
static _Thread_local CUcontext current;
static FILE *events;
static char *text;
static size_t length;

/* --- for the test ------------------------------------------------------------------------------- */

void stand_in_device(int ordinal, const Limits *limits) { devices[ordinal].limits = *limits; }

void stand_in_use(int ordinal) { current = &devices[ordinal]; }

static FILE *log_file(void) {
  if (!events) events = open_memstream(&text, &length);
  return events;
}

/* All events so far, as JSON lines. */
const char *stand_in_events(void) {
  fflush(log_file());
  return text;
}

/* --- devices and contexts ----------------------------------------------------------------------- */

CUresult cuInit(unsigned flags) { return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS; }

CUresult cuDriverGetVersion(int *version) {
  *version = 13000;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **string) {
  switch (error) {
  case CUDA_ERROR_INVALID_VALUE: *string = "invalid argument"; break;
  case CUDA_ERROR_NO_BINARY_FOR_GPU: *string = "no kernel image is available for execution on the device"; break;
  default: *string = "refused by the stand-in for the driver";
  }
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
  for (*count = 0; *count < DEVICES && devices[*count].limits.capability; ++*count) {}
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  int count;
  cuDeviceGetCount(&count);
  *device = ordinal;
  return 0 <= ordinal && ordinal < count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  const Limits *limits = &devices[device].limits;
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = limits->capability / 10; break;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = limits->capability % 10; break;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = limits->sms; break;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = limits->shared_per_sm; break;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = limits->shared_per_block; break;
  case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = limits->registers_per_block; break;
  case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = limits->threads_per_block; break;
  case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
  default: *value = 0; /* clocks and the like: nothing is timed here */
  }
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  *context = &devices[device];
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
  *context = current;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
  current = context;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device) {
  *device = (CUdevice)(current - devices);
  return current ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

/* Any address is the device's: the test's tensors are the host's. */
CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  if (attribute != CU_POINTER_ATTRIBUTE_DEVICE_POINTER) return CUDA_ERROR_NOT_SUPPORTED;
  *(CUdeviceptr *)data = pointer;
  return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
  (void)stream;
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}

/* --- modules and functions ---------------------------------------------------------------------- */

static uint32_t word(const unsigned char *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

/* Read an .nv.info section: entries of a format, an attribute, and 16 bits of value or of size. */
static int read_info(Function *function, const unsigned char *at, const unsigned char *end) {
  while (at + 4 <= end) {
    unsigned format = at[0], attribute = at[1], size = at[2] | at[3] << 8;
    at += 4;
    if (format != SIZED) continue;
    if (attribute == PARAMETER_V2) return 0; /* of another layout: better no answer than a wrong one */
    if (attribute == PARAMETER) {
      unsigned ordinal = word(at + 4) & 0xffff;
      if (ordinal >= PARAMETERS) return 0;
      function->size[ordinal] = (int)(word(at + 8) >> 18);
      if ((int)ordinal >= function->count) function->count = (int)ordinal + 1;
    }
    if (attribute == MAX_THREADS || attribute == REQUIRED_THREADS)
      function->threads = (int)(word(at) * word(at + 4) * word(at + 8));
    at += size;
  }
  return 1;
}

/* Code for one compute capability runs on later minor ones of the same major. */
static int runs_on(const Elf64_Ehdr *header, int capability) {
  int target = (header->e_flags >> (header->e_ident[EI_ABIVERSION] >= LATER_ABI ? 8 : 0)) & 0xff;
  return target / 10 == capability / 10 && target <= capability;
}

static int starts(const char *string, const char *with) { return !strncmp(string, with, strlen(with)); }

/* A module of Triton's has one kernel, so the module is its function. */
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  const unsigned char *bytes = image;
  if (!current) return CUDA_ERROR_INVALID_CONTEXT;
  if (memcmp(bytes, ELFMAG, SELFMAG)) return CUDA_ERROR_INVALID_IMAGE;
  const Elf64_Ehdr *header = image;
  if (!runs_on(header, current->limits.capability)) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  const Elf64_Shdr *sections = (const void *)(bytes + header->e_shoff);
  const char *names = (const char *)bytes + sections[header->e_shstrndx].sh_offset;
  Function *function = calloc(1, sizeof *function);
  int understood = 1;
  function->context = current;
  function->dynamic_shared = SHARED_UNASKED;
  function->threads = current->limits.threads_per_block;
  function->code = 0xcbf29ce484222325;
  for (int i = 0; i < header->e_shnum; i++) {
    const Elf64_Shdr *section = &sections[i];
    const char *name = names + section->sh_name;
    const unsigned char *at = bytes + section->sh_offset;
    if (starts(name, ".nv.shared.")) function->shared = (int)section->sh_size;
    if (starts(name, ".nv.info.")) understood &= read_info(function, at, at + section->sh_size);
    if (!starts(name, ".text.")) continue;
    snprintf(function->name, NAME, "%s", name + strlen(".text."));
    for (uint64_t byte = 0; byte < section->sh_size; byte++)
      function->code = (function->code ^ at[byte]) * 0x100000001b3;
  }
  if (understood && function->count) {
    *module = (CUmodule)function;
    return CUDA_SUCCESS;
  }
  free(function);
  return CUDA_ERROR_INVALID_IMAGE;
}

CUresult cuModuleUnload(CUmodule module) {
  fprintf(log_file(), "{\"unload\": \"%s\"}\n", ((Function *)module)->name);
  free(module);
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  *function = (Function *)module;
  return strcmp(name, (*function)->name) ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
  switch (attribute) {
  case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = function->shared; break;
  case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = function->threads; break;
  default: *value = 0;
  }
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_NOT_SUPPORTED;
  if (value + function->shared > function->context->limits.shared_per_block) return CUDA_ERROR_INVALID_VALUE;
  function->dynamic_shared = value;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) {
  (void)function, (void)config;
  return CUDA_SUCCESS;
}

/* --- launches ----------------------------------------------------------------------------------- */

static CUresult refused(const CUlaunchConfig *launch, const Function *function) {
  long long threads = 1LL * launch->blockDimX * launch->blockDimY * launch->blockDimZ;
  if (function->context != current) return CUDA_ERROR_INVALID_HANDLE;
  if (launch->gridDimX < 1 || launch->gridDimX > INT32_MAX) return CUDA_ERROR_INVALID_VALUE;
  if (launch->gridDimY < 1 || launch->gridDimY > GRID_YZ) return CUDA_ERROR_INVALID_VALUE;
  if (launch->gridDimZ < 1 || launch->gridDimZ > GRID_YZ) return CUDA_ERROR_INVALID_VALUE;
  if (threads < 1 || threads > function->threads) return CUDA_ERROR_INVALID_VALUE;
  if (launch->sharedMemBytes > (unsigned)function->dynamic_shared) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *launch, CUfunction function, void **parameters, void **extra) {
  CUresult result = extra ? CUDA_ERROR_NOT_SUPPORTED : refused(launch, function);
  if (result != CUDA_SUCCESS) return result;
  FILE *out = log_file();
  fprintf(out, "{\"launch\": \"%s\", \"capability\": %d, ", function->name, current->limits.capability);
  fprintf(out, "\"grid\": [%u, %u, %u], ", launch->gridDimX, launch->gridDimY, launch->gridDimZ);
  fprintf(out, "\"code\": \"%016llx\", ", (unsigned long long)function->code);
  fprintf(out, "\"block\": [%u, %u, %u], ", launch->blockDimX, launch->blockDimY, launch->blockDimZ);
  fprintf(out, "\"shared\": %u, \"stream\": %llu, ", launch->sharedMemBytes, (unsigned long long)launch->hStream);
  fprintf(out, "\"attributes\": [");
  for (unsigned i = 0; i < launch->numAttrs; i++) fprintf(out, "%s%d", i ? ", " : "", (int)launch->attrs[i].id);
  fprintf(out, "], \"parameters\": [");
  for (int i = 0; i < function->count; i++) {
    const unsigned char *value = parameters[i];
    fprintf(out, "%s\"", i ? ", " : "");
    for (int byte = function->size[i] - 1; byte >= 0; byte--) fprintf(out, "%02x", value[byte]);
    fprintf(out, "\"");
  }
  fprintf(out, "]}\n");
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **parameters,
                        void **extra) {
  CUlaunchConfig launch = {0};
  launch.gridDimX = grid_x, launch.gridDimY = grid_y, launch.gridDimZ = grid_z;
  launch.blockDimX = block_x, launch.blockDimY = block_y, launch.blockDimZ = block_z;
  launch.sharedMemBytes = shared, launch.hStream = stream;
  return cuLaunchKernelEx(&launch, function, parameters, extra);
}

/* --- linked by Triton's utilities, never called here --------------------------------------------- */

CUresult cuCtxGetLimit(size_t *value, CUlimit limit) {
  (void)value, (void)limit;
  return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
  (void)limit, (void)value;
  return CUDA_ERROR_NOT_SUPPORTED;
}

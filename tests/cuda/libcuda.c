/* A driver without a GPU: loaded in the place of libcuda.so.1, it lets cuDNN build its plans.

   cuDNN's engines that compile at run time are linked to the driver, look up the functions below by
   name, and load what they have compiled. Loading succeeds here; everything else answers what the
   toolkit's own stub library does, CUDA_ERROR_STUB_LIBRARY, so no device is found and nothing runs.

       cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o libcuda.so.1 libcuda.c

   Read next: plan_check.py. */

enum { CUDA_SUCCESS = 0, CUDA_ERROR_STUB_LIBRARY = 34 };

#define REFUSE(name) \
    int name(void) { return CUDA_ERROR_STUB_LIBRARY; }

REFUSE(cuInit)
REFUSE(cuDriverGetVersion)
REFUSE(cuGetErrorName)
REFUSE(cuGetErrorString)
REFUSE(cuGetProcAddress)
REFUSE(cuGetProcAddress_v2)
REFUSE(cuDeviceGet)
REFUSE(cuDeviceGetCount)
REFUSE(cuCtxGetCurrent)
REFUSE(cuCtxGetLimit)
REFUSE(cuCtxPopCurrent)
REFUSE(cuCtxPushCurrent)
REFUSE(cuStreamGetCtx)
REFUSE(cuLinkCreate)
REFUSE(cuLinkAddData)
REFUSE(cuLinkComplete)
REFUSE(cuLinkDestroy)
REFUSE(cuLibraryLoadFromFile)
REFUSE(cuKernelGetAttribute)
REFUSE(cuKernelSetAttribute)
REFUSE(cuKernelGetFunction)
REFUSE(cuLaunchKernel)
REFUSE(cuLaunchKernelEx)
REFUSE(cuLaunchCooperativeKernel)
REFUSE(cuOccupancyMaxPotentialClusterSize)
REFUSE(cuTensorMapEncodeIm2col)
REFUSE(cuTensorMapEncodeTiled)

static int some_handle;

/* Each has further arguments, which the calling convention lets it ignore. */
#define LOAD(name)              \
    int name(void** loaded) {   \
        *loaded = &some_handle; \
        return CUDA_SUCCESS;    \
    }

LOAD(cuModuleLoadData)
LOAD(cuModuleGetFunction)
LOAD(cuLibraryLoadData)
LOAD(cuLibraryGetKernel)

int cuModuleUnload(void) { return CUDA_SUCCESS; }
int cuLibraryUnload(void) { return CUDA_SUCCESS; }

"""The environment that every stage runs under, so that the same numbers come out on machines with other processors.

Floating-point sums depend on the number of threads and on the processor's vector width. Both are fixed here, at what
every x86 machine has (AVX2), before numpy and torch read them at import. ECGLIB_THREADS=16: faster, other last digits.
"""

import os
import platform

_THREADS = os.environ.get("ECGLIB_THREADS", "1")  # stages run side by side: one thread each wastes nothing
ENVIRONMENT = {
    "OMP_NUM_THREADS": _THREADS,
    "OMP_DYNAMIC": "FALSE",
    "GOMP_SPINCOUNT": "1000",  # threads that wait long in a loop make a busy machine twenty times slower
    "MKL_NUM_THREADS": _THREADS,  # torch takes its own thread count from MKL's
    "MKL_DYNAMIC": "FALSE",
    "OPENBLAS_NUM_THREADS": "1",  # numpy and scipy: the matrices are small and the split changes the sums
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what torch's deterministic algorithms ask for on a GPU
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "946684800",  # matplotlib's PDF and SVG carry this date, not today's
    "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, not one registered by the user
    "JUPYTER_PLATFORM_DIRS": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or every kernel warns about frozen modules
}
if platform.machine().lower() in ("x86_64", "amd64"):
    ENVIRONMENT |= {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",  # COMPATIBLE holds on older processors too, but doubles the time of a transformer step
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    }

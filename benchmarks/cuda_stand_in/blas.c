/* cuBLAS and cuBLASLt: a product is noted and not computed. */
#include <stdlib.h>

extern void stand_in_note(const char *line) __attribute__((weak));

static int made(void **out) { return *out = calloc(1, 256), 0; }
static int product(const char *name) {
  if (stand_in_note) stand_in_note(name);
  return 0;
}

int cublasCreate_v2(void **out) { return made(out); }
int cublasGemmEx(void) { return product("cublasGemmEx"); }
int cublasGemmStridedBatchedEx(void) { return product("cublasGemmStridedBatchedEx"); }
int cublasSgemm_v2(void) { return product("cublasSgemm"); }
int cublasSgemmStridedBatched(void) { return product("cublasSgemmStridedBatched"); }
int cublasLtCreate(void **out) { return made(out); }
int cublasLtMatmul(void) { return product("cublasLtMatmul"); }
int cublasLtMatmulDescCreate(void **out, int compute, int scale) { return made(out); }
int cublasLtMatmulPreferenceCreate(void **out) { return made(out); }
int cublasLtMatrixLayoutCreate(void **out, int type, unsigned long rows, unsigned long columns, long stride) {
  return made(out);
}
int cublasLtMatmulAlgoGetHeuristic(void *lt, void *product, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, void *found, int *count) {
  return *count = 1, 0;
}

#!/bin/sh
# trim.sh SITE_PACKAGES   Takes out of an environment what nothing reads at run time.
set -eu
cd "$1"

# tests, and what compilers read
find . -type d -name tests -prune -exec rm -rf {} +
rm -rf pyarrow/include pyarrow/src torch/include torch/test torch/share onnxruntime/tools onnxruntime/transformers numpy/_core/include opencc/clib/include
find . -type f \( -name '*.a' -o -name '*.pyx' -o -name '*.pxd' \) -delete
# libraries that only Arrow's RPC, C programs and Java programs load, and names that only linkers need
rm -f pyarrow/libarrow_flight* pyarrow/libarrow_python_flight* pyarrow/_flight*
rm -f pyarrow/libarrow_python.so pyarrow/libarrow_python*.so.*.*.* onnxruntime/capi/libonnxruntime.so*
rm -rf ray/jars
find torch/bin -mindepth 1 ! -name torch_shm_manager -exec rm -rf {} + 2>/dev/null || true
# descriptions of the services of AWS other than storage and signing in
find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name 'sso*' ! -name signin -exec rm -rf {} +
# symbols of the libraries that come with them
for library in pyarrow zstandard _brotli* tokenizers cryptography hf_xet yaml xxhash resiliparse fastwarc ray torch; do
  find "$library" -type f \( -name '*.so' -o -name '*.so.*' -o -name raylet -o -name gcs_server \) -exec strip --strip-unneeded {} + 2>/dev/null || true
done

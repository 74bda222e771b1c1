package ebpf

// The objects are the same wherever they are made with this compiler: without debug information but the types, and without a path.
//
//go:generate go tool -modfile=../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -tags linux -target amd64,arm64 -no-global-types tracepoint ../bpf/tracepoint.bpf.c -- -O2 -Wall -Wextra -Werror -mcpu=v2
//go:generate go tool -modfile=../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -tags linux -target amd64,arm64 -no-global-types fexit ../bpf/fexit.bpf.c -- -O2 -Wall -Wextra -Werror -mcpu=v2
//go:generate go tool -modfile=../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -tags linux -target amd64,arm64 -no-global-types sysexit ../bpf/sysexit.bpf.c -- -O2 -Wall -Wextra -Werror -mcpu=v2

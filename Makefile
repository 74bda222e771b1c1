# The habits of this repository: `make help` lists them. All but `race`, `lint`,
# `fmt`, `bench`, `generate` and `kernels` need nothing but Go and make.

GO        ?= go
TESTFLAGS ?=
FUZZTIME  ?= 10s

# Of Debian's cloud kernels, and the packages whose tests depend on the kernel.
KERNELS      ?= 6.1 6.12
KERNEL_TESTS ?= pidfd bindspace internal/notifyd ebpf internal/tracing cmd/sockwatch watch reap

GO_NEEDED := $(shell sed -n 's/^go //p' go.mod)
TOOLS     := .cache/tools

# Only the race detector needs a C compiler.
export CGO_ENABLED = 0

.DEFAULT_GOAL := help

.PHONY: help
help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' Makefile | while IFS="$$(printf '\t')" read -r target line; \
	  do printf 'make %-8s %s\n' "$$target" "$$line"; done

.PHONY: build
build: need-go ## build bin/sockwatch
	$(GO) build -trimpath -ldflags '-s -w' -o bin/sockwatch ./cmd/sockwatch

.PHONY: demo
demo: build ## kill a server for real: the sock-file that stays, the one that goes, and how fast
	$(GO) build -o bin/victim ./test/victim
	@$(GO) run ./test/demo bin/sockwatch bin/victim

# One package at a time: the tests share the machine's processes, sockets and limits, and some look at all of them. A daemon
# that traces has copies of everybody's sockets for a moment, which are alive then.
.PHONY: test
test: need-go ## run the tests (TESTFLAGS: more flags for go test)
	$(GO) build ./...
	$(GO) test -p 1 $(TESTFLAGS) ./...

.PHONY: race
race: need-go ## run the tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) build -race ./...
	CGO_ENABLED=1 $(GO) test -p 1 -race -timeout 30m $(TESTFLAGS) ./...

.PHONY: lint
lint: $(TOOLS)/built ## run golangci-lint, which checks the formatting too
	$(TOOLS)/golangci-lint run

.PHONY: fmt
fmt: $(TOOLS)/built ## format the Go sources with gofumpt
	$(TOOLS)/gofumpt -l -w .

.PHONY: generate
generate: need-go ## compile bpf/ into ebpf/ (needs clang-19 and llvm-19; what is committed was made with it)
	@for tool in clang-19 llvm-strip-19; do command -v $$tool >/dev/null || { \
	  echo "there is no $$tool in PATH: another version would make other objects (Debian: apt-get install clang-19 llvm-19)" >&2; \
	  exit 1; }; done
	$(GO) generate ./ebpf

.PHONY: bench
bench: need-go ## measure, beside others, and write docs/benchmarks.md (PART=peers: one part; LONG=1: the long form)
	$(GO) run ./bench -install $(if $(LONG),-long) $(if $(PART),-part $(PART))
	$(GO) -C tools run ./plot ../bench/results ../docs/pictures

.PHONY: stress
stress: need-go ## look for live sockets lost to races (LONG=1: a million removals)
	$(GO) run ./test/stress $(if $(LONG),-long)

.PHONY: kernels
kernels: need-go ## run the tests that depend on the kernel on other kernels, in QEMU (KERNELS="5.10 6.1 6.12 7.3")
	$(GO) run ./test/kernels -series "$(KERNELS)" $(KERNEL_TESTS)

.PHONY: chaos
chaos: build ## kill servers and the daemon at random: no file is lost or left (LONG=1: 100,000 deaths)
	$(GO) run ./test/chaos $(if $(LONG),-long) bin/sockwatch

.PHONY: faults
faults: need-go ## have each step fail and be killed (ALL=1: each error at each step, which takes hours)
	$(if $(ALL),SOCKWATCH_FAULTS=all) $(GO) test -p 1 -count=1 -tags failpoints -timeout $(if $(ALL),6h,30m) \
	  ./internal/failpoint ./test/faults

.PHONY: fuzz
fuzz: need-go ## run each fuzz target for FUZZTIME (10s)
	@grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort | while IFS=: read -r file func; do \
	  package=$$(dirname "$$file") target=$${func#func }; \
	  echo "$$package: $$target"; \
	  $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" || exit 1; done

.PHONY: clean
clean: ## remove what was built here, the tools included
	rm -rf bin .cache

# The development tools have a go.mod of their own, so that importers of this
# module do not inherit them. Building them takes minutes, once.
$(TOOLS)/built: tools/go.mod tools/go.sum | need-go
	$(GO) -C tools build -ldflags '-s -w' -o ../$(TOOLS)/ tool
	@touch $@

# Go 1.21 and newer fetch the toolchain that go.mod asks for, unless they may not.
.PHONY: need-go
need-go:
	@command -v $(GO) >/dev/null || { \
	  echo "sockwatch needs Go $(GO_NEEDED) or newer, and there is no '$(GO)' in PATH. Get it from https://go.dev/dl/" >&2; \
	  exit 1; }
	@version=$$($(GO) env GOVERSION 2>/dev/null | sed 's/^go//'); \
	[ "$$(printf '%s\n' "$$version" $(GO_NEEDED) | sort -V | head -n 1)" = $(GO_NEEDED) ] || { \
	  echo "sockwatch needs Go $(GO_NEEDED) or newer. This is $$(cd / && $(GO) version)," >&2; \
	  echo "and it did not fetch a newer one (GOTOOLCHAIN=$$(cd / && $(GO) env GOTOOLCHAIN)). Get it from https://go.dev/dl/" >&2; \
	  exit 1; }

# Everything a newcomer needs: `make testnet` and `make test` set up what they need by themselves.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

# One selection and profile for everything, so that nothing is compiled twice.
SEL := --release --locked --workspace --all-targets --features quorum-store/rocksdb

# RocksDB is compiled once, outside the workspace, and linked from here by every other build.
# Its hardware CRC is worth the flags; they apply to that one build only.
ROCKSDB_VERSION := 0.19.0+11.8.1
ARCH := $(shell uname -m)
ifeq ($(ARCH),x86_64)
ROCKSDB_CXXFLAGS := -msse4.2 -mpclmul
else ifeq ($(ARCH),aarch64)
ROCKSDB_CXXFLAGS := -march=armv8-a+crc+crypto
endif
ROCKSDB_LIB := target/rocksdb/lib/librocksdb.a
CACHE_HOME := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)
export ROCKSDB_LIB_DIR := $(CURDIR)/target/rocksdb/lib
export ROCKSDB_STATIC := 1

.PHONY: testnet embed test check bench compare optimistic rocksdb tools simulate mutations power-loss fuzz miri nightly
.DEFAULT_GOAL := testnet

# The main job with defaults: four validators under load, then a summary.
testnet: rocksdb
	cargo build $(SEL)
	target/release/validator testnet $(ARGS)

# The library embedded in a few lines: four nodes, one proof, one commit.
embed: rocksdb
	cargo build $(SEL)
	target/release/examples/embed

test: rocksdb
	cargo test $(SEL)
	cargo test --release --locked --workspace --doc
	cargo test --release --locked $(FUZZ_CRATE)

# Format, lints, docs, and the features that need neither C++ nor tokio.
check: rocksdb
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo fmt --manifest-path benches/peers/Cargo.toml --check
	cargo clippy $(SEL) -- -D warnings
	cargo clippy --release --locked $(FUZZ_CRATE) --all-targets -- -D warnings
	cargo clippy --release --locked $(PEERS_CRATE) -- -D warnings
	cargo check --release --locked --lib --no-default-features
	cargo check --release --locked --lib --no-default-features --features testkit,storage
	cargo clippy --release --locked --no-default-features --features testkit --lib \
	  --test simulation -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --workspace

# BENCH=name runs one of them.
bench: rocksdb
	cargo bench --locked -p quorum-store --features rocksdb $(if $(BENCH),--bench $(BENCH),--benches)

# A workspace of its own: the job of group_commit, done by the logs and stores of others as well.
PEERS_CRATE := --manifest-path benches/peers/Cargo.toml --target-dir target/peers

# One table of all of them, and whether the journal keeps what it promises: BOUND=1 fails if not.
compare: rocksdb
	cargo build --release --locked $(PEERS_CRATE) --features rocksdb
	benches/table target/peers/release/quorum-store-peers

# Latency to execution with and without proofs, in turn: ROUNDS=n, RATE=r, DURATION=d, BOUND=percent.
optimistic: rocksdb
	cargo build $(SEL)
	benches/optimistic

# The real engine on disks whose power is cut. Linux with /dev/fuse, as root; elsewhere it says so.
# QUICK=1 is the part for every change; PART=name runs those whose name contains it.
power-loss: rocksdb
	cargo build $(SEL)
	POWER_LOSS=$(if $(QUICK),quick,full) cargo test --release --locked --workspace \
	  --test power_loss -- $(PART)

rocksdb: tools $(ROCKSDB_LIB)

# The library for this version, these flags and this compiler, from the cache if it is there.
$(ROCKSDB_LIB): tools/rocksdb/Cargo.lock tools/rocksdb/build.rs | tools
	@key="$(ROCKSDB_VERSION)-$$( (echo '$(ROCKSDB_CXXFLAGS)'; c++ --version) | sha256sum | cut -c1-16)"; \
	cache="$(CACHE_HOME)/quorum-store/$$key"; \
	mkdir -p "$(dir $@)" "$$cache"; \
	if [ ! -f "$$cache/librocksdb.a" ]; then \
	  echo "RocksDB is compiled once: about 10 minutes on two cores" >&2; \
	  CXXFLAGS_$(ARCH)_unknown_linux_gnu="$(ROCKSDB_CXXFLAGS)" ROCKSDB_ONCE_OUT="$$cache" \
	  env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC nice cargo build --release --locked --quiet \
	    --manifest-path tools/rocksdb/Cargo.toml --target-dir target/rocksdb/build; \
	fi; \
	cp "$$cache/librocksdb.a" "$@.partial"; mv "$@.partial" "$@"; touch "$@"

# The bindings of RocksDB are generated from its headers, which wants libclang.
tools:
	@for tool in cargo c++; do command -v $$tool >/dev/null || { \
	  echo "$$tool is missing: install Rust (1.95 or later) and a C++ compiler first" >&2; exit 2; }; done
	@found="$$(ls /usr/lib/llvm-*/lib/libclang.so* /usr/lib/llvm-*/lib/libclang-[0-9]*.so* \
	    /usr/lib/*/libclang-[0-9]*.so* /usr/lib64/libclang.so* 2>/dev/null || true)"; \
	if [ -z "$${LIBCLANG_PATH:-}$$found" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing libclang" >&2; \
	    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y libclang-dev; } >/dev/null; \
	  else \
	    echo "libclang is missing: run 'apt-get install -y libclang-dev' as root, then again" >&2; exit 2; \
	  fi; fi

# A workspace of its own, so that nobody but fuzzers needs a nightly compiler; see fuzz/README.md.
FUZZ_CRATE := --manifest-path fuzz/Cargo.toml --target-dir target/fuzz
FUZZ_TARGETS := decode_message:16384 verify_proof:1024 sequencer_operations:1024 recover:600
SECONDS ?= 60

# Runs each target for SECONDS, from the committed corpus on.
fuzz: nightly
	@cargo fuzz --version >/dev/null 2>&1 || { \
	  echo "installing cargo-fuzz (once): cargo install cargo-fuzz --locked" >&2; \
	  cargo install cargo-fuzz --locked; }
	@for target in $(FUZZ_TARGETS); do \
	  name=$${target%:*}; found=target/fuzz/corpus/$$name; broken=target/fuzz/artifacts/$$name/; \
	  mkdir -p $$found $$broken; echo "== $$name, $(SECONDS) s" >&2; \
	  cargo +nightly fuzz run -s none --target-dir target/fuzz $$name $$found fuzz/corpus/$$name -- \
	    -max_total_time=$(SECONDS) -max_len=$${target#*:} -len_control=0 -timeout=10 \
	    -artifact_prefix=$$broken; \
	done

# The pure core, its types and the store in memory under an interpreter that sees undefined
# behaviour. What would take it minutes is ignored there, one by one. NAME=part: those tests only.
# An interpreter has one thread, so every second test goes to one of MIRI_SHARDS=2 processes.
MIRI_MINUTES ?= 60
MIRI_SHARDS ?= 2
MIRI := cargo +nightly miri test --locked --no-default-features --features testkit --lib \
  --target-dir target/miri
miri: nightly
	@rustup component list --toolchain nightly | grep -q '^miri.*(installed)' || \
	  rustup component add miri rust-src --toolchain nightly
	@tests="$$($(MIRI) -- --list --format terse $(if $(NAME),$(NAME),sequencer:: types:: store::) \
	  | sed -n 's/: test$$//p')"; pids=""; failed=0; \
	for shard in $$(seq 0 $$(($(MIRI_SHARDS) - 1))); do \
	  of_shard="$$(awk "NR % $(MIRI_SHARDS) == $$shard" <<<"$$tests")"; \
	  [ -n "$$of_shard" ] || continue; \
	  timeout $(MIRI_MINUTES)m $(MIRI) -- --exact $$of_shard & pids="$$pids $$!"; \
	done; \
	for pid in $$pids; do wait "$$pid" || failed=1; done; exit $$failed

nightly:
	@cargo +nightly --version >/dev/null 2>&1 || { \
	  echo "installing the nightly compiler, which this needs" >&2; \
	  rustup toolchain install nightly --profile minimal; }

# Deliberate bugs, each of which the simulation has to find: one if NAME is part of its name.
mutations:
	tests/mutations/run $(NAME)

# The core through bad days: SEEDS=n of them, or SEED=s again, with NODES=n validators.
simulate:
	SOURCE_COMMIT="$$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" \
	cargo test --profile simulation --locked --no-default-features --features testkit \
	  --test simulation -- --nocapture $(if $(SEED)$(SEEDS),seeds)

# The two commands of a newcomer: `make demo` and `make test`; both set up what is missing. All targets: `make help`.
#
# Everything is built in one profile (release) and with one selection of packages and features, so that RocksDB's C++
# is compiled once. Where ccache is installed it goes in front of the compiler: cargo compiles librocksdb-sys again
# whenever another selection of packages changes the features of bindgen's dependencies, and with ccache that costs
# seconds instead of ten minutes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help ready setup build next-binary bless-fixture demo test test-long lint client-only unit doc-test demo-test chaos mutants install deny bench bench-sessions

ifneq ($(wildcard /usr/lib/ccache/.),)
export PATH := /usr/lib/ccache:$(PATH)
endif

TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
SELECTION := --release --workspace --features cli,testing
PREFIX ?= /usr/local
SHARE = $(DESTDIR)$(PREFIX)/share
MANAGERS ?= 3

help: ## this list
	@echo "make demo   and   make test   are all a newcomer needs"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 16

# Both commands of the README set up what is missing; on a machine that has everything this says nothing.
ready:
	@contrib/setup --quiet

setup: ## install what the build needs from the system (Debian, Ubuntu)
	@contrib/setup

build:
	@contrib/build $(SELECTION) --bin quorate --example cluster

# BREAK=1 puts a write on the list that was never sent: the demo must fail then. HOLD=1 leaves the cluster running.
# SHORT=1 is what the tests run: the same story with less load.
demo: ready build ## real processes lose a leader, a voter, all managers but one (MANAGERS=5, HOLD=1, BREAK=1, SHORT=1)
	@"$(TARGET)/release/examples/cluster" --managers $(MANAGERS) $(if $(BREAK),--break) $(if $(HOLD),--hold) $(if $(SHORT),--short)

test: ready lint client-only next-binary unit doc-test demo-test ## everything that must hold before a change is merged
	@echo "make test: all passed"

# The names of the scenarios are those of `make test`; the seeds are fresh ones, and each line that fails says how to repeat it.
test-long: export QUORATE_CHAOS_KILLS := 1000
test-long: export QUORATE_ROUNDS := 10
test-long: export QUORATE_SIM_SEEDS := 3000
test-long: export QUORATE_LONG_LOADS := 1
test-long: test ## the same with 1,000 kills, 10 rounds of promotions under kills, 3,000 fresh seeds and long loads (hours)

mutants: ready ## plant every deliberate bug, and see that the chaos harness catches it
	@contrib/mutants-binary "$(TARGET)" $(SELECTION)
	"$(TARGET)/release/chaos-mutants" mutants

lint:
	cargo fmt --all --check
	cargo fmt --manifest-path benches/beside/Cargo.toml --check
	cargo clippy $(SELECTION) --all-targets -- -D warnings

# The form for those who only talk to a cluster: it must build where neither protoc nor libclang can be found.
client-only:
	@contrib/client-only

# Tests of the upgrade run two binaries: today's, and that of the version after it, which lies beside it as quorate-next.
next-binary:
	@contrib/next-binary "$(TARGET)" $(SELECTION)

# Anew after a change of what lies on disk, as long as nothing is released; tests/fixtures/README.md says when not to.
bless-fixture: next-binary ## write the data directory in tests/fixtures that tests of tomorrow open (BLESS=1 of its test)
	BLESS=1 cargo test $(SELECTION) --test cli_fixtures
	@ls -l tests/fixtures

unit:
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run $(SELECTION); \
	else \
		echo "cargo-nextest is not installed: running cargo test instead"; \
		cargo test $(SELECTION) --no-fail-fast --lib --bins --tests --example cluster; \
	fi

doc-test:
	cargo test $(SELECTION) --doc

# The demo passes, and fails when its list holds a write that was never sent: a check that cannot fail proves nothing.
demo-test:
	@$(MAKE) --no-print-directory demo SHORT=1
	@echo "and once more with a write on the list that was never sent:"
	@code=0; $(MAKE) --no-print-directory demo SHORT=1 BREAK=1 >"$(TARGET)/demo-break.log" 2>&1 || code=$$?; \
	tail -4 "$(TARGET)/demo-break.log"; \
	if ! grep -q "MISSING load/never-sent" "$(TARGET)/demo-break.log" || [ "$$code" = 0 ]; then \
		echo "make demo BREAK=1 did not notice the write that was never sent (exit code $$code)"; exit 1; \
	fi; \
	echo "make demo BREAK=1 failed, as it must"

# About ten minutes. Scenarios that mount file systems need root: where we are not, they are skipped, and said to be.
CHAOS_OUT ?= $(TARGET)/chaos
CHAOS_SCENARIOS ?= S02,S04,S07,S20,S21,mix
CHAOS_ROOT_SCENARIOS ?= power,large,S22,S23
chaos: ready ## seeds that once failed, fixed seeds, fresh seeds, and real processes under faults; pages in CHAOS_OUT
	@contrib/build $(SELECTION) --bin quorate --bin chaos
	@echo "fixed seeds:"; "$(TARGET)/release/chaos" sim --kept --profile mixed --seeds 1..1001 --jobs 2 --budget 90s
	@echo "fresh seeds:"; from=$$(date +%s); "$(TARGET)/release/chaos" sim --profile mixed --seeds $$from..$$((from + 1000000)) --jobs 2 --budget 90s
	@echo "real processes:"; "$(TARGET)/release/chaos" real --scenario $(CHAOS_SCENARIOS) --duration 30s --out "$(CHAOS_OUT)"
	@if [ "$$(id -u)" = 0 ]; then \
		"$(TARGET)/release/chaos" real --scenario $(CHAOS_ROOT_SCENARIOS) --duration 30s --out "$(CHAOS_OUT)"; \
	else \
		echo "SKIPPED $(CHAOS_ROOT_SCENARIOS): mounting file systems needs root"; \
	fi

install: build ## put the binary into PREFIX/bin, with man pages and completions (PREFIX=/usr/local)
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(SHARE)/man/man1" "$(SHARE)/bash-completion/completions" \
		"$(SHARE)/zsh/site-functions" "$(SHARE)/fish/vendor_completions.d"
	install -m 755 "$(TARGET)/release/quorate" "$(DESTDIR)$(PREFIX)/bin/quorate"
	"$(TARGET)/release/quorate" man "$(SHARE)/man/man1"
	"$(TARGET)/release/quorate" completions bash >"$(SHARE)/bash-completion/completions/quorate"
	"$(TARGET)/release/quorate" completions zsh >"$(SHARE)/zsh/site-functions/_quorate"
	"$(TARGET)/release/quorate" completions fish >"$(SHARE)/fish/vendor_completions.d/quorate.fish"

deny: ## licences, bans, sources and advisories of all dependencies
	@cargo deny --version >/dev/null 2>&1 || { echo "make deny needs cargo-deny: cargo install --locked cargo-deny"; exit 1; }
	cargo deny --workspace --features cli,testing check

# Sessions of many workers with three real managers: memory, processor, the log, a killed worker, a killed manager.
SESSIONS ?= 1000
bench-sessions: ready ## what many workers cost three managers (SESSIONS=10000, BENCH="more options")
	@contrib/build $(SELECTION) --bin quorate --example sessions
	@"$(TARGET)/release/examples/sessions" --sessions $(SESSIONS) $(BENCH)

# quorate beside etcd (and hiqlite, for callers inside), turn about. What drives them are packages of their own, with a target directory of their own.
# ROWS="put 1 256B,get l 1000" measures these rows only and merges them into the results.
ROUNDS ?= 3
SECONDS_EACH ?= 8
bench: ## quorate beside etcd on this machine, into benches/RESULTS.md (ROWS="put 1 256B,get l 1000", ROUNDS=3)
	@contrib/setup --bench --quiet
	@contrib/build $(SELECTION) --bin quorate --example inside
	cargo build --release --locked --manifest-path benches/beside/Cargo.toml --target-dir "$(TARGET)/beside"
	cargo build --release --locked --manifest-path benches/hiqlite/Cargo.toml --target-dir "$(TARGET)/beside"
	@"$(TARGET)/beside/release/quorate-beside" --binary "$(TARGET)/release/quorate" --rounds $(ROUNDS) --seconds $(SECONDS_EACH) \
		--rows "$(ROWS)" --command 'make bench$(if $(ROWS), ROWS="$(ROWS)") ROUNDS=$(ROUNDS) SECONDS_EACH=$(SECONDS_EACH)'

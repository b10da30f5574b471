# What people and CI run. `make test` is all that a fresh machine with Rust needs.

.PHONY: check test test-kafka test-cluster chaos bench bench-state demo docs ci install install-build

# What the product is built from, linted as it ships and as it is tried.
FEATURES := demo,abomonation,fault-points
# The features of every test, so that nothing is built twice.
TESTED := demo,fault-points

check: install-build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features $(FEATURES) -- -D warnings
	cargo clippy --package deltajoin --lib --bins --no-default-features -- -D warnings

# Documentation and the optional encoding, across processes, first: the last lines of all are then
# those of the tests proper.
test: install
	cargo test --workspace --doc --features $(TESTED)
	cargo test --features abomonation,$(TESTED) --test cluster under_a_supervisor
	cargo test --workspace --lib --bins --tests --features $(TESTED)

test-kafka: install
	cargo test --test kafka --features $(TESTED)

test-cluster: install
	cargo test --test cluster --features $(TESTED)

# Random faults while data flows, so many as asked for: `make chaos FAULTS=1000`, also with
# `DELIVERY=at-least-once`.
FAULTS := 100
DELIVERY := exactly-once
chaos: install
	DELTAJOIN_FAULTS=$(FAULTS) DELTAJOIN_DELIVERY=$(DELIVERY) cargo test --test kafka --features $(TESTED) chaos -- --nocapture

# Figures of the whole job beside a hand-written loop; `make bench FIGURES=latency` makes one.
bench: install
	cargo bench --bench bench -- $(FIGURES)

# A day of keys, made up: memory, speed, disk, restart.
KEYS := 864000000
bench-state: install-build
	cargo bench --bench state -- $(KEYS)

demo: install-build
	cargo run --release --features demo -- demo

# Writes docs/configuration.md anew, which is made from the list of settings.
docs: install-build
	UPDATE_EXPECT=1 cargo test --package deltajoin --lib manual

ci: check test

# What building needs, and what testing needs beside it: Java, Maven, Python.
install-build:
	@scripts/install-missing.sh

install:
	@scripts/install-missing.sh test

# What can be done in a clone. The work is in scripts/ and `cargo xtask`; everything can be repeated cheaply.

.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench lint fuzz clean

help:
	@echo 'make demo    installs what is missing, builds, runs `git --version` in a microVM'
	@echo 'make test    what CI runs: unit tests, property tests, and real microVMs'
	@echo 'make test-all  that with every step of the kill tests, 1,000 MCP calls and a minute of fuzzing a decoder: two hours'
	@echo 'make lint    formatting, clippy, structure'
	@echo 'make bench   measures what SPECIFICATION.md promises'
	@echo 'make fuzz    fuzzes every decoder of foreign bytes for FUZZ_SECONDS (60)'
	@echo 'make clean   removes what was built here; caches of kernels and environments stay'

demo:
	@scripts/demo.sh

test:
	@scripts/test.sh

test-all:
	@NEXTEST_PROFILE=all PYRO_TEST_EVERY_STEP=1 PYRO_MCP_CALLS=1000 FUZZ_SECONDS=60 scripts/test.sh

lint:
	@scripts/bootstrap.sh test
	@scripts/lint.sh

bench:
	@scripts/bench.sh

fuzz:
	@scripts/bootstrap.sh fuzz
	@scripts/fuzz.sh

clean:
	rm -rf target fuzz/target

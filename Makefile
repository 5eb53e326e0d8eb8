# Each command installs missing packages (as root) or says how to install them.

.DEFAULT_GOAL := help
.PHONY: help run test test-full test-api test-upgrade test-container torture mutants fmt lint

help: ## List these commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 24

run: ## Build, then sell sample coupons on http://127.0.0.1:8080
	@scripts/install-packages
	@exec cargo run --release --locked -- demo

test: ## Run every quick test
	@scripts/install-packages
	@scripts/run-tests

test-full: ## Run every test, also the long ones, the mutants, the API, the upgrade and the container
	@scripts/install-packages
	@scripts/run-tests --long
	@scripts/run-mutants
	@scripts/test-api
	@scripts/test-upgrade
	@scripts/test-container

torture: ## Kill, pause, cut and flush under load: MINUTES=10 SEED= (random)
	@scripts/install-packages
	@SECKILL_TORTURE_MINUTES=$(MINUTES) SECKILL_TORTURE_SEED=$(SEED) cargo test --locked --test torture -- \
	  --ignored --exact --nocapture every_promise_holds_under_torture

mutants: ## Break the program on purpose, one patch at a time: a test must detect it
	@scripts/install-packages
	@scripts/run-mutants

test-api: ## Send generated requests to the API and compare the answers with its description: SEED= SECONDS_MAX=300
	@SEED=$(SEED) SECONDS_MAX=$(SECONDS_MAX) scripts/test-api

test-upgrade: ## Upgrade a sale of the version before partitions: nothing is lost, and the sale goes on
	@scripts/test-upgrade

test-container: ## Build the image and try it: sale, stop, kill, start again
	@scripts/test-container

fmt: ## Format the sources
	cargo fmt

lint: ## Check format and lints as CI does
	@scripts/install-packages
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

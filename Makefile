# make and Go are all that is needed; `make e2e` and `make bench` need a cluster.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

GO ?= go
BIN := bin
TOOLS := $(BIN)/tools
VERSION ?= $(shell git describe --tags --dirty 2>/dev/null)

TAG ?= dev
PLATFORMS ?= linux/amd64,linux/arm64
PUSH ?=

# Flags for go test. The race detector needs a C compiler: make test TESTFLAGS=-race
TESTFLAGS ?=
# What runs the tests; .ci/run wants a report of them too.
GOTEST ?= $(GO) test
# Flags for go build. A release is built with BUILDFLAGS=-trimpath; here it would
# have every dependency compiled twice, for the programs and for the tests.
BUILDFLAGS ?=
export CGO_ENABLED ?= $(if $(findstring -race,$(TESTFLAGS)),1,0)
FUZZTIME ?= 15s

##@ Use

.PHONY: help
help: ## Show this list.
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# As the programs ship, whatever the tests are built with.
.PHONY: build
build: ## Build the programs into bin/.
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -ldflags '-s -w -X main.release=$(VERSION)' -o $(BIN)/ ./cmd/...

.PHONY: run
run: build ## Run everything on this machine, without a cluster, until Ctrl-C.
	$(BIN)/dispatcher dev

.PHONY: demo
demo: build ## Show a few runs from submission to their end; takes seconds and needs nothing.
	$(BIN)/dispatcher demo

.PHONY: images
images: ## Make the container images; PUSH=registry/path pushes them, PLATFORMS= and TAG= choose.
	VERSION='$(VERSION)' $(GO) run ./internal/imagegen -tag '$(TAG)' -platforms '$(PLATFORMS)' -push '$(PUSH)' -buildflags '$(or $(BUILDFLAGS),-trimpath)'

##@ Test

.PHONY: test
test: ## Run every test that needs no cluster.
	$(GOTEST) -timeout 40m $(TESTFLAGS) ./...

# A test that fails runs once more, alone, because the cluster may be what failed.
# If it then passes, the last lines call it FLAKY. Tests of the code alone run once.
# Packages run one after the other: some tests stop the API server, or need the
# node for themselves.
E2EJSON ?= $(BIN)/e2e.json
.PHONY: e2e
e2e: kubeconfig $(TOOLS)/gotestsum ## Test against the cluster that KUBECONFIG names.
	$(TOOLS)/gotestsum --format testname --hide-summary output,skipped --jsonfile '$(E2EJSON)' \
		--rerun-fails=1 --rerun-fails-run-root-test --rerun-fails-abort-on-data-race \
		--packages "$$(grep -rl --include='*_test.go' '^//go:build e2e$$' . | xargs -n1 dirname | sort -u | xargs)" \
		-- -tags e2e -count=1 -p 1 -timeout 60m $(TESTFLAGS)
	@$(GO) run ./internal/tools/testreport -slowest 0 '$(E2EJSON)'

# The Python side: real NATS, dispatcher and ZenML servers, in an environment of
# its own, which takes a minute to set up the first time.
PYTHON ?= python3
ZENML := $(BIN)/zenml-venv
.PHONY: test-zenml
test-zenml: $(ZENML)/ready $(BIN)/nats build ## Check and test the plugin for ZenML servers; needs Python 3.10 or newer.
	$(GO) build -o $(BIN)/nats-server github.com/nats-io/nats-server/v2
	cd integrations/zenml && $(abspath $(ZENML))/bin/ruff format --check . && $(abspath $(ZENML))/bin/ruff check .
	cd integrations/zenml && $(abspath $(ZENML))/bin/mypy
	cd integrations/zenml && NO_PROXY=127.0.0.1 ROPEWALK_PROGRAMS=$(abspath $(BIN)) $(abspath $(ZENML))/bin/python -m pytest

$(ZENML)/ready: integrations/zenml/pyproject.toml
	$(PYTHON) -m venv $(ZENML)
	$(ZENML)/bin/pip install -q --disable-pip-version-check -e 'integrations/zenml[test]'
	@touch $@

# The nats command, with which docs/publish.md begins.
$(BIN)/nats: tools/nats/go.mod tools/nats/go.sum
	@echo "building $(@F)"
	@$(GO) -C tools/nats build -o $(abspath $@) github.com/nats-io/natscli/nats

.PHONY: compose-test
compose-test: kubeconfig ## Test docker-compose.yaml with a Docker of its own, as root on Debian.
	test/compose/run

.PHONY: readme-test
readme-test: ## Follow the README in a fresh clone; TESTFLAGS=-run=^nothing only compiles its tests.
	TESTFLAGS='$(TESTFLAGS)' GOTEST='$(GOTEST)' test/readme

.PHONY: bench
bench: kubeconfig ## Measure launching against the cluster that KUBECONFIG names.
	$(GO) run ./test/bench

.PHONY: bench-logs
bench-logs: kubeconfig ## Measure the way of log lines, in part against that cluster.
	$(GO) run ./test/bench/logs

.PHONY: kubeconfig
kubeconfig:
	@[ -n "$${KUBECONFIG:-}" ] && [ -r "$$KUBECONFIG" ] || { \
		echo "KUBECONFIG must name a readable file: the credentials of a cluster that tests may use as they like." >&2; exit 1; }

.PHONY: fuzz
fuzz: ## Fuzz each decoder for FUZZTIME (15s).
	@grep -rHoE '^func Fuzz\w+' --include='*_test.go' . | while IFS=: read -r file name; do \
		$(GO) test "$$(dirname "$$file")" -run '^$$' -fuzz "^$${name#func }$$" -fuzztime $(FUZZTIME); \
	done

##@ Check

.PHONY: ci
ci: ## Run the whole check of a change, as root on Debian; takes half an hour.
	.ci/run

.PHONY: verify
verify: fresh tidy-check fmt-check lint vuln ## Check format, code, modules and generated files; changes nothing.

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint ## Format the code.
	$< fmt

.PHONY: fmt-check
fmt-check: $(TOOLS)/golangci-lint
	$< fmt --diff

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## Check the code: vet, staticcheck, the layout and more.
	$< run

.PHONY: vuln
vuln: $(TOOLS)/govulncheck ## Look for known vulnerabilities in what the code calls.
	tools/vulncheck $<

.PHONY: generate
generate: $(TOOLS)/helm ## Write the generated documents, and the manifests that come from the chart.
	$(GO) run ./internal/docgen
	$(GO) test -count=1 -run '^TestPageOfCommandsIsFresh$$' ./cmd/... -args -update
	deploy/manifests/render $< deploy/manifests

.PHONY: fresh
fresh: $(TOOLS)/helm
	$(GO) run ./internal/docgen -check
	$(GO) test -run '^TestPageOfCommandsIsFresh$$' ./cmd/...
	@rendered=$$(mktemp -d) && trap 'rm -rf "$$rendered"' EXIT && deploy/manifests/render $< "$$rendered" && \
	for file in "$$rendered"/*; do \
		diff -u "deploy/manifests/$${file##*/}" "$$file" || { echo "deploy/manifests/$${file##*/} is stale: run make generate and commit the result" >&2; exit 1; }; \
	done

.PHONY: tidy-check
tidy-check:
	$(GO) mod tidy -diff
	$(GO) -C tools mod tidy -diff
	$(GO) -C tools/helm mod tidy -diff
	$(GO) -C tools/rootless mod tidy -diff

.PHONY: clean
clean: ## Remove what was built.
	rm -rf $(BIN)

# The checkers come from a module of their own, so that what they need is not
# needed by Ropewalk. Building them takes minutes once per version; after that
# the Go build cache has them.
$(TOOLS)/golangci-lint: PACKAGE := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(TOOLS)/govulncheck: PACKAGE := golang.org/x/vuln/cmd/govulncheck
$(TOOLS)/gotestsum: PACKAGE := gotest.tools/gotestsum
$(TOOLS)/golangci-lint $(TOOLS)/govulncheck $(TOOLS)/gotestsum: tools/go.mod tools/go.sum
	@echo "building $(@F)"
	@env -u GOOS -u GOARCH -u GOFLAGS $(GO) -C tools build -o $(abspath $@) $(PACKAGE)
	@touch $@

# So does Helm, whose versions of what they share would else be theirs.
$(TOOLS)/helm: tools/helm/go.mod tools/helm/go.sum
	@echo "building $(@F)"
	@env -u GOOS -u GOARCH -u GOFLAGS CGO_ENABLED=0 $(GO) -C tools/helm build -o $(abspath $@) helm.sh/helm/v4/cmd/helm
	@touch $@

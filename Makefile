# sidegate. `make run` tries it, `make test` proves it, `make help` lists the rest.

SHELL       := /bin/bash
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.0.0-dev)
LDFLAGS     := -s -w -X main.version=$(VERSION)
TOOLS       := $(CURDIR)/.cache/tools
export SIDEGATE_TOOLS ?= $(TOOLS)
export CGO_ENABLED    ?= 0
# Of the waf's engine: no files of its own, and no JSON schemas, which no rule
# of ours asks for (2 MB of the binary).
TAGS           := no_fs_access,coraza.disabled_operators.validateSchema
export GOFLAGS := $(GOFLAGS) -tags=$(TAGS)

.PHONY: help run build dashboard test lint fuzz bench profile package package-lint reproduce clean tools boot-test

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

run: build ## build, and start a gateway with two demo backends on loopback
	@exec bin/sidegate demo

build: ## leave bin/sidegate, compiled by the profile that make profile took
	go build -trimpath -pgo=cmd/sidegate/cpu.pgo -ldflags '$(LDFLAGS)' -o bin/sidegate ./cmd/sidegate

dashboard: ## check and build the dashboard's script and style, which are checked in (needs Node)
	cd cmd/sidegate/internal/admin/dashboard && npm ci --no-audit --no-fund --silent && npm run --silent check && npm run --silent build

tools: ## install the real servers that tests use (Consul, Pebble, nginx, ...)
	@.ci/setup

test: tools build lint ## every test, against real servers
	go test -run Alloc ./proxy/... # allocations can't be counted under the race detector
	CGO_ENABLED=1 go test -race -timeout 40m ./...
	packaging/boot-test.sh || { test $$? = 2 && printf '\n**** THE BOOT TEST WAS NOT RUN: this machine can%s, for the reason above. ****\n\n' "'t"; }

lint: tools ## gofmt, vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "not gofmt-clean:"; echo "$$out"; exit 1; }
	go vet ./...
	$$(.ci/tool staticcheck) ./...

fuzz: ## every fuzz target in turn, FUZZTIME each (10s), those that match PATTERN
	.ci/fuzz $(or $(FUZZTIME),10s) $(PATTERN)

bench: build ## CPU per request beside nginx and HAProxy (QUICK=1 for a short run)
	@.ci/setup bench
	go run ./proxy/bench $(if $(QUICK),-quick)

profile: build ## take the profile that the compiler goes by, under the loads of make bench
	@.ci/setup bench
	go run ./proxy/bench -profile cmd/sidegate/cpu.pgo

package: ## deb, rpm, tar.gz, container image and bill of materials in dist/
	packaging/package.sh

package-lint: package ## have lintian and rpmlint read the packages
	packaging/lint.sh

reproduce: ## build the packages of HEAD twice and compare every byte
	packaging/reproduce.sh

boot-test: tools ## boot a Debian, install the deb there, and try its whole life (root, systemd-nspawn, mmdebstrap)
	packaging/boot-test.sh

clean: ## remove what was built
	rm -rf bin dist .cache

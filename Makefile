# Thin names over go and scripts/; `make help` lists them.
SHELL    := /bin/bash
GO       ?= $(or $(shell command -v go),/usr/local/go/bin/go)
DESTDIR  ?=
PREFIX   ?= /usr
RUNDIR   ?= /run/carrel
BIN      ?= bin
DEBDIR   ?= $(BIN)
FUZZTIME ?= 30s
# nextprotocol makes the release after this one, for tests of an upgrade.
TAGS     ?=
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

LDFLAGS   = -s -w -X main.version=$(VERSION) -X main.socketPath=$(RUNDIR)/login.sock
GOBUILD   = $(GO) build -trimpath -buildvcs=false -tags '$(TAGS)'
STATIC    = carreld carrel carrel-init carrel-transfer carrel-unpack
# carrelsh asks for its session before the Go runtime has started.
ENTRY     = $(if $(filter amd64,$(shell $(GO) env GOARCH)),-E main.headStart)
BUILDDEPS = gcc libc6-dev
TESTDEPS  = $(BUILDDEPS) at cron exim4-daemon-light git iproute2 lintian mmdebstrap openssh-client openssh-server procps util-linux xauth zstd
# Some packages of nodejs have npm in them.
FIDELITYDEPS = $(shell cat test/fidelity/packages.txt) $(if $(shell command -v npm),,npm)
VMDEPS    = cpio e2fsprogs rsync xz-utils
BENCHDEPS = $(BUILDDEPS) crun openssh-client openssh-server podman runc util-linux

SHARE     = $(DESTDIR)$(PREFIX)/share
BASHCOMP  = $(SHARE)/bash-completion/completions/carrel
ZSHCOMP   = $(SHARE)/zsh/vendor-completions/_carrel
FISHCOMP  = $(SHARE)/fish/vendor_completions.d/carrel.fish

.PHONY: help build install uninstall demo deb test test-fidelity test-long test-vm check bench fuzz clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-13s %s\n",$$1,$$2}' $(firstword $(MAKEFILE_LIST))

build: ## build every binary into bin/
	@scripts/need $(BUILDDEPS)
	CGO_ENABLED=0 $(GOBUILD) -ldflags '$(LDFLAGS)' -o $(BIN)/ $(STATIC:%=./cmd/%)
	CGO_ENABLED=0 $(GOBUILD) -ldflags '$(LDFLAGS) $(ENTRY)' -o $(BIN)/ ./cmd/carrelsh
	CGO_ENABLED=1 $(GOBUILD) -tags 'netgo osusergo $(TAGS)' -ldflags '$(LDFLAGS) -extldflags "-static"' -o $(BIN)/ ./cmd/carrel-runtime

# Nothing is set-uid. carrelsh is not added to /etc/shells on purpose: su(1)
# ignores `su -s` for an account whose shell is not listed there, and chsh(1)
# offers what is. Listing it would let a user who knows a password step around
# the container.
install: build ## install below $(DESTDIR)$(PREFIX)
	install -d $(DESTDIR)$(PREFIX)/{bin,sbin,libexec/carrel} $(SHARE)/man/man{1,5,8} $(dir $(BASHCOMP) $(ZSHCOMP) $(FISHCOMP))
	install -m 0755 $(BIN)/carrelsh $(BIN)/carrel $(DESTDIR)$(PREFIX)/bin/
	install -m 0755 $(BIN)/carreld $(DESTDIR)$(PREFIX)/sbin/
	install -m 0700 $(BIN)/carrel-runtime $(DESTDIR)$(PREFIX)/libexec/carrel/
	install -m 0111 $(BIN)/carrel-init $(DESTDIR)$(PREFIX)/libexec/carrel/
	install -m 0755 $(BIN)/carrel-transfer $(BIN)/carrel-unpack $(DESTDIR)$(PREFIX)/libexec/carrel/
	$(BIN)/carrel docs man $(BIN)/man
	for page in packaging/man/*.[158] $(BIN)/man/*.[158]; do \
		install -m 0644 $$page $(SHARE)/man/man$${page##*.}/ || exit; done
	$(BIN)/carrel completion bash > $(BASHCOMP)
	$(BIN)/carrel completion zsh > $(ZSHCOMP)
	$(BIN)/carrel completion fish > $(FISHCOMP)

uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(PREFIX)/bin/{carrelsh,carrel} $(DESTDIR)$(PREFIX)/sbin/carreld
	rm -f $(SHARE)/man/man{1,5,8}/carrel*.[158] $(BASHCOMP) $(ZSHCOMP) $(FISHCOMP)
	rm -rf $(DESTDIR)$(PREFIX)/libexec/carrel

# The package has programs of its own, which know its version. VERSION=1.2 names
# another than the commit's.
deb: ## carrel_VERSION_ARCH.deb in $(DEBDIR), the same bytes each time
	@scripts/need $(BUILDDEPS) git
	$(GO) -C tools build -trimpath -buildvcs=false -o $(abspath $(BIN))/tools/nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm
	@version=$$(packaging/deb/version '$(if $(filter-out file,$(origin VERSION)),$(VERSION))') && \
	$(MAKE) --no-print-directory build BIN=$(BIN)/deb PREFIX=/usr RUNDIR=/run/carrel VERSION=$$version && \
	packaging/deb/build $(BIN)/tools/nfpm $(BIN)/deb $$version $(DEBDIR)/carrel_$${version}_$$(dpkg --print-architecture).deb

demo: ## a shell in a container, cleaned up afterwards; CMD='…' runs that instead
	@$(if $(findstring n,$(firstword -$(MAKEFLAGS))),,$(become scripts/demo,$(value CMD)))scripts/demo '$(subst ','\'',$(value CMD))'

test: ## every test, as root; installs what it needs
	@scripts/need $(TESTDEPS) $(FIDELITYDEPS)
	@scripts/need --root 'make test' 'go test ./... runs what can be run without it'
	CARREL_TEST_ROOT=1 $(GO) test -buildvcs=false -race -count=1 -timeout 14m $$($(GO) list ./... | grep -v /carrel/test)
	CARREL_TEST_ROOT=1 $(GO) test -buildvcs=false -race -count=1 -p 1 -timeout 14m ./test/...

test-fidelity: ## of these, a session beside a plain shell account's
	@scripts/need $(TESTDEPS) $(FIDELITYDEPS)
	@scripts/need --root 'make test-fidelity'
	CARREL_TEST_ROOT=1 $(GO) test -buildvcs=false -count=1 -timeout 14m ./test/fidelity

test-long: ## 10 GiB streams, 25,000 logins, OpenSSH's own tests, five minutes of kills
	@scripts/need $(TESTDEPS) $(FIDELITYDEPS)
	@scripts/need --root 'make test-long'
	CARREL_LONG=1 CARREL_TEST_ROOT=1 $(GO) test -buildvcs=false -count=1 -timeout 3h -v -p 1 ./test/fidelity ./test/survive

test-vm: ## the package on Debian with systemd in a virtual machine, 30 minutes
	@scripts/need $(TESTDEPS) $(VMDEPS)
	@scripts/need --root 'make test-vm'
	CARREL_TEST_ROOT=1 $(GO) test -buildvcs=false -tags vm -count=1 -timeout 50m -v ./test/vm

check: $(BIN)/tools/.built ## gofmt, vet, staticcheck, golangci-lint, import rules
	@files=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$files" ] || { echo "gofmt wants: $$files"; exit 1; }
	$(GO) vet ./...
	$(BIN)/tools/staticcheck ./...
	$(BIN)/tools/golangci-lint run ./...
	$(GO) test -count=1 .

bench: ## one table: Carrel beside nsenter, crun, runc, podman
	@scripts/need $(BENCHDEPS)
	@scripts/need --root 'make bench'
	@$(GOBUILD) -o $(BIN)/test/ ./test/bench
	@$(BIN)/test/bench $(BENCHFLAGS)

fuzz: ## every fuzz target for FUZZTIME each
	@GO='$(GO)' scripts/fuzz $(FUZZTIME)

clean: ## remove what was built
	rm -rf $(BIN)

$(BIN)/tools/.built: tools/go.mod tools/go.sum
	@scripts/need $(BUILDDEPS)
	$(GO) -C tools build -trimpath -buildvcs=false -o $(abspath $(BIN))/tools/ tool
	@touch $@

# make ends with status 2 whatever a recipe's status was. The demo promises the
# command's own, so make becomes scripts/demo. Without the loaded function the
# recipe still runs, and the status is make's.
ifneq ($(filter demo,$(MAKECMDGOALS)),)
-load $(BIN)/become.so
$(BIN)/become.so: scripts/become.c
	@scripts/need $(BUILDDEPS)
	@mkdir -p $(BIN)
	@gcc -shared -fPIC -O1 -o $@ $<
endif

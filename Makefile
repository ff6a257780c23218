# Thin names over go; `make help` lists them.
SHELL  := /bin/bash
GO     ?= go
PREFIX ?= /usr
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS = -s -w -X main.version=$(VERSION)

.PHONY: help build check
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n",$$1,$$2}' $(MAKEFILE_LIST)

build: ## build every binary into bin/
	CGO_ENABLED=0 $(GO) build ./...

// Package vm runs Carrel where its users run it: on Debian's own kernel with
// nothing but cgroup v2, in a virtual machine without KVM. `make test-vm` runs
// it; it is not part of `make test`, for it takes some minutes.
package vm

// Package vm runs Carrel where its users run it: on a Debian with systemd, PAM
// and nothing but cgroup v2, in a virtual machine without KVM. `make test-vm`
// runs it; it is not part of `make test`, for it takes some minutes.
//
//	image        makes the machine's disk, kernel and initrd; kept between runs
//	packages.txt what is on the disk
//	machine_test.go boots it and types on it over SSH
//	guest.sh     a machine without systemd: PID 1 of a second, short boot
//
// The disk is only read: what a run writes is gone with its QEMU, and lives
// through the reboots in between.
package vm

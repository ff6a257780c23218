// Package vm runs Carrel where its users run it: on Debian 12 and 13 with
// systemd, PAM and nothing but cgroup v2, in virtual machines without KVM. `make
// test-vm` runs it; it is not part of `make test`, for it takes half an hour.
//
//	qemu         unpacks the emulator; kept between runs
//	image        makes the machine's disk, kernel and initrd; kept between runs
//	packages.txt what is on the disk
//	machine_test.go boots it and types on it over SSH
//	guest.sh     a machine without systemd: PID 1 of a second, short boot
//
// The disk is only read: what a run writes is gone with its QEMU, and lives
// through the reboots in between.
package vm

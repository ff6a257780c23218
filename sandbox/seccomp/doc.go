// Package seccomp compiles the system call filter of a user's container into
// raw BPF, in Go, for the native architecture: no libseccomp, no cgo.
//
// Life cycle: carreld compiles a Profile once with Compile; the bytes travel in
// the container's boot data; PID 1 loads them on all its threads before the
// first process of the user (seccomp(2), SECCOMP_FILTER_FLAG_TSYNC), and every
// session inherits them. A filter can only be tightened afterwards, so what a
// session must not do, PID 1 cannot do either.
//
// # What it decides
//
// Default is moby's default profile for a container without capabilities, less
// what threats rows 55 to 58 remove:
//   - any architecture but the native one (i386, x32, 32-bit arm) is ENOSYS:
//     the socketcall of i386 would go around the rules for socket;
//   - sockets of AF_UNIX, AF_INET, AF_INET6 and routing netlink only, for
//     AF_ALG, AF_VSOCK, AF_RXRPC, AF_PACKET and netlink's xfrm are where the
//     page-cache bugs of 2026 were (CVE-2026-31431, CVE-2026-43500). The error
//     is EAFNOSUPPORT, which libaudit and others take as "not built in";
//   - no new namespaces: clone with a CLONE_NEW flag, unshare and setns are
//     EPERM; clone3, whose flags a filter cannot see, is ENOSYS, and libc falls
//     back to clone;
//   - no TIOCSTI or TIOCLINUX: both put typed text into a terminal;
//   - no keyrings, io_uring, bpf, perf, userfaultfd, file handles, mount calls.
//
// A call that is known and denied is EPERM; a number that the tables do not
// know is ENOSYS, as from an older kernel, so that libc falls back.
//
// clone3 has a price on cgroup v2: CLONE_INTO_CGROUP exists only there, so PID
// 1 under Default cannot have a session born in its leaf. Profile.Allow lets
// clone3 through where the container's user namespace has
// user.max_user_namespaces=0 and its bounding set is empty: then the kernel
// refuses every CLONE_NEW flag by itself.
//
// # Shape
//
// The kernel checks and translates a filter at each load: 143 instructions as a
// tree take 0.1 ms, 615 in a line 0.9. So numbers with the same fate are merged
// into ranges and found by binary search, and all returns are shared.
//
// # Not protected
//
// A filter sees numbers, not what pointers point at. It says nothing about
// which files, paths or peers a call is for, and a bug in an allowed call is
// not its business. The profile is the same for container root.
package seccomp

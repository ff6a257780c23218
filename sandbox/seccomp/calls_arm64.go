package seccomp

import "golang.org/x/sys/unix"

// auditArch is the architecture that the kernel reports for the native entry
// (linux/audit.h); 32-bit arm reports AUDIT_ARCH_ARM.
const auditArch = unix.AUDIT_ARCH_AARCH64

// arm64 has the generic table alone: nothing of its own on either side.
var (
	allowedHere [0]uint32
	deniedHere  [0]uint32
)

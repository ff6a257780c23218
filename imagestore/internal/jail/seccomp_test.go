package jail

import (
	"testing"

	"golang.org/x/sys/unix"
)

// run interprets the filter as the kernel does (the subset that program uses)
// and returns the action.
func run(t *testing.T, prog []unix.SockFilter, nr, arch uint32, arg0 uint32) uint32 {
	t.Helper()
	data := map[uint32]uint32{offsetNumber: nr, offsetArch: arch, offsetArg0: arg0}
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = data[in.K]
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			pc += jump(in, acc == in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			pc += jump(in, acc >= in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			pc += jump(in, acc&in.K != 0)
		default:
			t.Fatalf("instruction %#x", in.Code)
		}
	}
	t.Fatal("the filter ends without a return")
	return 0
}

func jump(in unix.SockFilter, condition bool) int {
	if condition {
		return int(in.Jt)
	}
	return int(in.Jf)
}

func TestProgram(t *testing.T) {
	if auditArch == 0 {
		t.Skip("there is no filter for this architecture")
	}
	const (
		allow  = unix.SECCOMP_RET_ALLOW
		eperm  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		kill   = unix.SECCOMP_RET_KILL_PROCESS
		thread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM
	)
	tests := []struct {
		name           string
		nr, arch, arg0 uint32
		want           uint32
	}{
		{"read", unix.SYS_READ, auditArch, 0, allow},
		{"openat2", unix.SYS_OPENAT2, auditArch, 0, allow},
		{"fchown", unix.SYS_FCHOWN, auditArch, 0, allow},
		{"exit_group", unix.SYS_EXIT_GROUP, auditArch, 0, allow},
		{"a call of the future", 600, auditArch, 0, allow},
		{"thread", unix.SYS_CLONE, auditArch, thread, allow},
		{"process", unix.SYS_CLONE, auditArch, uint32(unix.SIGCHLD), eperm},
		{"process in a new namespace", unix.SYS_CLONE, auditArch, unix.CLONE_NEWUSER | uint32(unix.SIGCHLD), eperm},
		{"clone3", unix.SYS_CLONE3, auditArch, 0, enosys},
		{"x32", 0x40000000 | unix.SYS_READ, auditArch, 0, eperm},
		{"negative", 1<<32 - 1, auditArch, 0, eperm},
		{"another architecture", unix.SYS_READ, unix.AUDIT_ARCH_I386, 0, kill},
	}
	prog := program()
	for _, tt := range tests {
		if got := run(t, prog, tt.nr, tt.arch, tt.arg0); got != tt.want {
			t.Errorf("%s: action %#x; want %#x", tt.name, got, tt.want)
		}
	}
	for _, nr := range append(append([]uint32{}, denied...), deniedHere...) {
		if got := run(t, prog, nr, auditArch, thread); got != eperm {
			t.Errorf("call %d: action %#x; want EPERM", nr, got)
		}
	}
}

func TestKeptSets(t *testing.T) {
	sets := keptSets()
	for c := range uint(unix.CAP_LAST_CAP + 1) {
		want := c == unix.CAP_CHOWN || c == unix.CAP_DAC_OVERRIDE || c == unix.CAP_FOWNER || c == unix.CAP_FSETID || c == unix.CAP_SETFCAP
		set := sets[c/32]
		if got := set.Effective>>(c%32)&1 == 1; got != want || set.Permitted != set.Effective || set.Inheritable != 0 {
			t.Errorf("capability %d is kept: %t; want %t", c, got, want)
		}
	}
}

// TestLandlockRights: what is needed is handled, and what a stranger would
// like is handled and not granted.
func TestLandlockRights(t *testing.T) {
	var handled uint64
	for _, abi := range landlockABI {
		handled |= abi.fs
	}
	if neededFS&^handled != 0 {
		t.Errorf("rights %#x are granted and not handled", neededFS&^handled)
	}
	for name, right := range map[string]uint64{
		"EXECUTE": unix.LANDLOCK_ACCESS_FS_EXECUTE, "MAKE_BLOCK": unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK,
		"MAKE_SOCK": unix.LANDLOCK_ACCESS_FS_MAKE_SOCK, "IOCTL_DEV": unix.LANDLOCK_ACCESS_FS_IOCTL_DEV,
	} {
		if handled&right == 0 || neededFS&right != 0 {
			t.Errorf("%s: handled %t, granted %t; want handled alone", name, handled&right != 0, neededFS&right != 0)
		}
	}
}

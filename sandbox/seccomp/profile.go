package seccomp

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// An Action is what the kernel does with a call: a SECCOMP_RET value. The zero
// value kills the thread, so a forgotten one is safe.
type Action uint32

// Allow lets the call through.
const Allow Action = unix.SECCOMP_RET_ALLOW

// Errno makes the call fail with e, at most 4095 (MAX_ERRNO).
func Errno(e unix.Errno) Action {
	return Action(unix.SECCOMP_RET_ERRNO | uint32(e)&unix.SECCOMP_RET_DATA)
}

// An Arg is a condition on the low 32 bits of one argument, which is all that
// the kernel reads of the ints that are filtered here: the rest must not
// decide, or setting it would go around a rule.
type Arg struct {
	Index int    // 0 to 5
	Mask  uint32 // applied before the comparison; 0 means all 32 bits
	Value uint32
}

// A Rule decides one call by its arguments.
type Rule struct {
	Call uint32

	// When has alternatives; one holds if all of its conditions do. None
	// never holds, an empty one always.
	When [][]Arg

	Then Action // if an alternative holds
	Else Action // if none does
}

// A Profile is what a filter decides. The zero value kills at every call.
type Profile struct {
	Calls map[uint32]Action // by number; a number must not have a rule too
	Rules []Rule            // at most one for a call

	Unknown Action // numbers that are in neither
	Foreign Action // every call through another architecture's entry
}

// namespaces are the flags of clone that make a namespace. CLONE_NEWTIME is
// not among them: in clone its bit belongs to the exit signal.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// addrNoRandomize is ADDR_NO_RANDOMIZE of personality(2), which gdb sets.
const addrNoRandomize = 0x0040000

// tioclinux is TIOCLINUX of ioctl_console(2); subcode 3 pastes a selection.
const tioclinux = 0x541C

// Default returns the profile of a user's container; the package documentation
// says what it is made of. The caller may change it.
func Default() Profile {
	p := Profile{
		Calls:   make(map[uint32]Action),
		Unknown: Errno(unix.ENOSYS),
		Foreign: Errno(unix.ENOSYS),
		Rules: []Rule{
			{
				Call: unix.SYS_SOCKET,
				When: [][]Arg{
					{{Index: 0, Value: unix.AF_UNIX}},
					{{Index: 0, Value: unix.AF_INET}},
					{{Index: 0, Value: unix.AF_INET6}},
					{{Index: 0, Value: unix.AF_NETLINK}, {Index: 2, Value: unix.NETLINK_ROUTE}},
				},
				Then: Allow, Else: Errno(unix.EAFNOSUPPORT),
			},
			{
				Call: unix.SYS_SOCKETPAIR,
				When: [][]Arg{{{Index: 0, Value: unix.AF_UNIX}}},
				Then: Allow, Else: Errno(unix.EAFNOSUPPORT),
			},
			{
				// The command is an unsigned int: CVE-2019-10063 was a filter
				// that compared 64 bits.
				Call: unix.SYS_IOCTL,
				When: [][]Arg{{{Index: 1, Value: unix.TIOCSTI}}, {{Index: 1, Value: tioclinux}}},
				Then: Errno(unix.EPERM), Else: Allow,
			},
			{
				Call: unix.SYS_CLONE,
				When: [][]Arg{{{Index: 0, Mask: namespaces, Value: 0}}},
				Then: Allow, Else: Errno(unix.EPERM),
			},
			{
				Call: unix.SYS_PERSONALITY,
				When: [][]Arg{
					{{Index: 0, Value: 0}},
					{{Index: 0, Value: addrNoRandomize}},
					{{Index: 0, Value: 0xffffffff}}, // asks, changes nothing
				},
				Then: Allow, Else: Errno(unix.EPERM),
			},
		},
	}
	for _, list := range [][]uint32{allowed[:], allowedHere[:]} {
		for _, call := range list {
			p.Calls[call] = Allow
		}
	}
	for _, list := range [][]uint32{denied[:], deniedHere[:]} {
		for _, call := range list {
			p.Calls[call] = Errno(unix.EPERM)
		}
	}
	p.Calls[unix.SYS_CLONE3] = Errno(unix.ENOSYS)
	return p
}

// Allow returns a copy of the profile that lets the calls through, whatever
// was said of them before.
func (p Profile) Allow(calls ...uint32) Profile {
	p.Calls = maps.Clone(p.Calls)
	if p.Calls == nil {
		p.Calls = make(map[uint32]Action)
	}
	var rules []Rule
	for _, r := range p.Rules {
		if !slices.Contains(calls, r.Call) {
			rules = append(rules, r)
		}
	}
	p.Rules = rules
	for _, call := range calls {
		p.Calls[call] = Allow
	}
	return p
}

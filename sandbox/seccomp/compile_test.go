package seccomp

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// run is the kernel's part: it interprets a program on one call
// (net/core/filter.c, for the instructions that Compile uses).
func run(program []unix.SockFilter, arch, call uint32, args [6]uint64) (Action, error) {
	var data [64]byte
	binary.NativeEndian.PutUint32(data[offNumber:], call)
	binary.NativeEndian.PutUint32(data[offArch:], arch)
	for i, a := range args {
		binary.NativeEndian.PutUint64(data[offArgs+8*i:], a)
	}
	var acc uint32
	jump := func(yes bool, ins unix.SockFilter) int {
		if yes {
			return int(ins.Jt)
		}
		return int(ins.Jf)
	}
	for pc := 0; pc < len(program); pc++ {
		ins := program[pc]
		switch ins.Code {
		case opLoad:
			if ins.K%4 != 0 || ins.K >= uint32(len(data)) {
				return 0, fmt.Errorf("%d: load of %d", pc, ins.K)
			}
			acc = binary.NativeEndian.Uint32(data[ins.K:])
		case opAnd:
			acc &= ins.K
		case opJEQ:
			pc += jump(acc == ins.K, ins)
		case opJGE:
			pc += jump(acc >= ins.K, ins)
		case opJA:
			pc += int(ins.K)
		case opRet:
			return Action(ins.K), nil
		default:
			return 0, fmt.Errorf("%d: instruction %#x", pc, ins.Code)
		}
	}
	return 0, fmt.Errorf("ran off the end")
}

// decide is what the program must do, by the profile's own words.
func decide(p Profile, arch, call uint32, args [6]uint64) Action {
	if arch != auditArch {
		return p.Foreign
	}
	for _, r := range p.Rules {
		if r.Call != call {
			continue
		}
		for _, all := range r.When {
			holds := true
			for _, a := range all {
				mask := a.Mask
				if mask == 0 {
					mask = 0xffffffff
				}
				holds = holds && uint32(args[a.Index])&mask == a.Value
			}
			if holds {
				return r.Then
			}
		}
		return r.Else
	}
	if a, ok := p.Calls[call]; ok {
		return a
	}
	return p.Unknown
}

// compare runs the program and the profile side by side.
func compare(t *testing.T, p Profile, program []unix.SockFilter, arch, call uint32, args [6]uint64) {
	t.Helper()
	got, err := run(program, arch, call, args)
	if want := decide(p, arch, call, args); err != nil || got != want {
		t.Fatalf("arch %#x, call %d%#x = %#x, %v; want %#x", arch, call, args, got, err, want)
	}
}

func TestCompileDefault(t *testing.T) {
	p := Default()
	program, err := Assemble(p)
	if err != nil {
		t.Fatal(err)
	}
	// 0.1 ms to load at 143 instructions, 0.9 at 615: the shape is the point.
	if len(program) > 143 {
		t.Errorf("%d instructions; want at most 143", len(program))
	}
	t.Logf("%d instructions", len(program))
	rnd := rand.New(rand.NewPCG(1, 2))
	values := []uint64{
		0, 1, 2, 10, 16, 9, 0x5412, 0x541C, 0x5413, 0x40000, 0xffffffff, 0xffffffffffffffff,
		1 << 32, 1<<32 | 1, 1<<32 | 16, 1<<32 | 0x5412, 0x7e020000, 0x10000000, 0x80, 17,
	}
	for call := range uint32(1200) {
		for range 60 {
			var args [6]uint64
			for i := range args {
				args[i] = values[rnd.IntN(len(values))]
			}
			compare(t, p, program, auditArch, call, args)
			compare(t, p, program, auditArch, call|0x40000000, args)
		}
		compare(t, p, program, unix.AUDIT_ARCH_I386, call, [6]uint64{})
		compare(t, p, program, unix.AUDIT_ARCH_ARM, call, [6]uint64{})
	}
	compare(t, p, program, auditArch, 0xffffffff, [6]uint64{})
}

// Whatever the profile, the program does what it says; long ones need jumps
// that 8 bits cannot hold.
func TestCompileProperty(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 3))
	longest := 0
	for range 150 {
		p := randomProfile(rnd)
		program, err := Assemble(p)
		if err != nil {
			t.Fatal(err)
		}
		longest = max(longest, len(program))
		for range 400 {
			call := rnd.Uint32N(700)
			if rnd.IntN(20) == 0 {
				call = rnd.Uint32()
			}
			var args [6]uint64
			for i := range args {
				args[i] = uint64(rnd.IntN(4)) | uint64(rnd.IntN(2))<<32
			}
			arch := uint32(auditArch)
			if rnd.IntN(50) == 0 {
				arch = rnd.Uint32()
			}
			compare(t, p, program, arch, call, args)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if longest < 600 {
		t.Errorf("the longest program had %d instructions; the far jumps went untested", longest)
	}
}

func randomProfile(rnd *rand.Rand) Profile {
	actions := []Action{Allow, Errno(unix.EPERM), Errno(unix.ENOSYS), Errno(unix.EAFNOSUPPORT)}
	action := func() Action { return actions[rnd.IntN(len(actions))] }
	p := Profile{Calls: make(map[uint32]Action), Unknown: action(), Foreign: action()}
	share := rnd.IntN(10)
	for call := range uint32(650) {
		switch n := rnd.IntN(20); {
		case n == 0 && len(p.Rules) < 60:
			r := Rule{Call: call, Then: action(), Else: action()}
			for range rnd.IntN(4) {
				var all []Arg
				for range rnd.IntN(3) {
					mask := uint32(rnd.IntN(4))
					value := uint32(rnd.IntN(4))
					if mask != 0 {
						value &= mask
					}
					all = append(all, Arg{Index: rnd.IntN(6), Mask: mask, Value: value})
				}
				r.When = append(r.When, all)
			}
			p.Rules = append(p.Rules, r)
		case n%10 >= share:
			p.Calls[call] = action()
		}
	}
	if rnd.IntN(4) == 0 {
		p.Calls[0xffffffff] = action()
	}
	return p
}

func TestCompileRefused(t *testing.T) {
	long := Profile{Calls: make(map[uint32]Action)}
	for i := range uint32(5000) {
		long.Calls[i] = Errno(unix.Errno(i % 2))
	}
	tests := map[string]Profile{
		"a call with an action and a rule": {Calls: map[uint32]Action{5: Allow}, Rules: []Rule{{Call: 5}}},
		"two rules":                        {Rules: []Rule{{Call: 5}, {Call: 5}}},
		"argument 6":                       {Rules: []Rule{{When: [][]Arg{{{Index: 6}}}}}},
		"argument -1":                      {Rules: []Rule{{When: [][]Arg{{{Index: -1}}}}}},
		"a value outside its mask":         {Rules: []Rule{{When: [][]Arg{{{Mask: 1, Value: 2}}}}}},
		"too many alternatives":            {Rules: []Rule{{When: make([][]Arg, 65)}}},
		"too long":                         long,
	}
	for name, p := range tests {
		if code, err := Compile(p); err == nil || code != nil {
			t.Errorf("%s: Compile = %d bytes, %v; want an error", name, len(code), err)
		}
	}
}

// The zero profile kills: a forgotten field is no hole.
func TestCompileZero(t *testing.T) {
	program, err := Assemble(Profile{})
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []uint32{auditArch, unix.AUDIT_ARCH_I386} {
		if got, err := run(program, arch, 1, [6]uint64{}); got != unix.SECCOMP_RET_KILL_THREAD || err != nil {
			t.Errorf("zero profile, arch %#x = %#x, %v; want the thread killed", arch, got, err)
		}
	}
}

func TestCompileEncoding(t *testing.T) {
	program, err := Assemble(Default())
	if err != nil {
		t.Fatal(err)
	}
	code, err := Compile(Default())
	if err != nil || len(code) != 8*len(program) {
		t.Fatalf("Compile = %d bytes, %v; want 8 for each of %d instructions", len(code), err, len(program))
	}
	for i, ins := range program {
		b := code[8*i:]
		if binary.NativeEndian.Uint16(b) != ins.Code || b[2] != ins.Jt || b[3] != ins.Jf || binary.NativeEndian.Uint32(b[4:]) != ins.K {
			t.Errorf("instruction %d: % x; want %+v", i, b[:8], ins)
		}
	}
}

func TestProfileAllow(t *testing.T) {
	p := Default()
	more := p.Allow(unix.SYS_CLONE3, unix.SYS_SOCKET)
	if a := decide(more, auditArch, unix.SYS_CLONE3, [6]uint64{}); a != Allow {
		t.Errorf("clone3 after Allow = %#x", a)
	}
	if a := decide(more, auditArch, unix.SYS_SOCKET, [6]uint64{38}); a != Allow {
		t.Errorf("socket after Allow = %#x", a)
	}
	if _, err := Compile(more); err != nil {
		t.Error(err)
	}
	if a := decide(p, auditArch, unix.SYS_CLONE3, [6]uint64{}); a != Errno(unix.ENOSYS) {
		t.Errorf("Allow changed the profile it was called on: clone3 = %#x", a)
	}
	if a := decide((Profile{}).Allow(1), auditArch, 1, [6]uint64{}); a != Allow {
		t.Errorf("Allow on the zero profile = %#x", a)
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if _, err := Compile(Default()); err != nil {
			b.Fatal(err)
		}
	}
}

package seccomp

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// maxInstructions is BPF_MAXINSNS (linux/bpf_common.h).
const maxInstructions = 4096

// Offsets in struct seccomp_data (seccomp(2)); arguments are 64 bits each, the
// low half first on the little-endian architectures that are supported.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// The instructions in use (linux/bpf_common.h).
const (
	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opJEQ  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opJGE  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opJA   = unix.BPF_JMP | unix.BPF_JA
	opRet  = unix.BPF_RET | unix.BPF_K
)

// Compile returns the program for the native architecture as an array of
// struct sock_filter in the machine's byte order, ready for seccomp(2).
func Compile(p Profile) ([]byte, error) {
	program, err := Assemble(p)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(program)*unix.SizeofSockFilter)
	for _, ins := range program {
		out = binary.NativeEndian.AppendUint16(out, ins.Code)
		out = append(out, ins.Jt, ins.Jf)
		out = binary.NativeEndian.AppendUint32(out, ins.K)
	}
	return out, nil
}

// Assemble is Compile before the encoding.
func Assemble(p Profile) ([]unix.SockFilter, error) {
	ranges, err := p.ranges()
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	b := &builder{returns: make(map[Action]int)}
	tree := b.tree(ranges)
	number := b.emit(opLoad, offNumber, tree)
	native := b.branch(opJEQ, auditArch, number, b.ret(p.Foreign))
	b.emit(opLoad, offArch, native)
	if len(b.reversed) > maxInstructions {
		return nil, fmt.Errorf("compile seccomp profile: %d instructions, the kernel takes %d", len(b.reversed), maxInstructions)
	}
	slices.Reverse(b.reversed)
	return b.reversed, nil
}

// A span is the calls from first up to the next span's, all with one fate: a
// rule, or an action.
type span struct {
	first  uint32
	action Action
	rule   *Rule
}

// ranges merges the calls of a profile into spans that cover all numbers.
func (p Profile) ranges() ([]span, error) {
	points := make([]span, 0, len(p.Calls)+len(p.Rules))
	for call, action := range p.Calls {
		points = append(points, span{first: call, action: action})
	}
	for i, r := range p.Rules {
		if _, ok := p.Calls[r.Call]; ok || slices.ContainsFunc(p.Rules[:i], func(o Rule) bool { return o.Call == r.Call }) {
			return nil, fmt.Errorf("call %d is decided twice", r.Call)
		}
		if err := r.check(); err != nil {
			return nil, err
		}
		points = append(points, span{first: r.Call, rule: &p.Rules[i]})
	}
	slices.SortFunc(points, func(a, b span) int { return cmp.Compare(a.first, b.first) })

	out := []span{{first: 0, action: p.Unknown}}
	add := func(s span) {
		switch last := &out[len(out)-1]; {
		case last.first == s.first:
			*last = s
		case last.rule == nil && s.rule == nil && last.action == s.action:
			return // the same fate
		default:
			out = append(out, s)
		}
	}
	next := uint64(0) // the number after the last point
	for _, s := range points {
		if uint64(s.first) > next {
			add(span{first: uint32(next), action: p.Unknown})
		}
		add(s)
		next = uint64(s.first) + 1
	}
	if next <= 0xffffffff {
		add(span{first: uint32(next), action: p.Unknown})
	}
	return out, nil
}

func (r Rule) check() error {
	for _, all := range r.When {
		for _, a := range all {
			if a.Index < 0 || a.Index > 5 {
				return fmt.Errorf("call %d: no argument %d", r.Call, a.Index)
			}
			if a.Mask != 0 && a.Value&^a.Mask != 0 {
				return fmt.Errorf("call %d: value %#x is never under mask %#x", r.Call, a.Value, a.Mask)
			}
		}
	}
	if len(r.When) > 64 {
		return errors.New("a rule has too many alternatives")
	}
	return nil
}

// A builder writes the program from its end, since BPF jumps only forward: what
// a jump leads to is there already. A position counts from the end, the last
// instruction being 1; it never changes.
type builder struct {
	reversed []unix.SockFilter
	returns  map[Action]int // where each return is
}

// add writes one instruction before all others and returns its position.
func (b *builder) add(ins unix.SockFilter) int {
	b.reversed = append(b.reversed, ins)
	return len(b.reversed)
}

// emit writes an instruction that goes on at position next.
func (b *builder) emit(op uint16, k uint32, next int) int {
	b.reach(next, 0)
	return b.add(unix.SockFilter{Code: op, K: k})
}

// reach makes next the position that follows at most far instructions after
// the one that is written next, if need be by a jump, and returns it.
func (b *builder) reach(next, far int) int {
	distance := len(b.reversed) - next
	if distance <= far {
		return next
	}
	return b.add(unix.SockFilter{Code: opJA, K: uint32(distance)})
}

// ret returns the position of a return.
func (b *builder) ret(a Action) int {
	at, ok := b.returns[a]
	if !ok {
		at = b.add(unix.SockFilter{Code: opRet, K: uint32(a)})
		b.returns[a] = at
	}
	return at
}

// branch writes a conditional jump. Its distances are 8 bits; a target that is
// too far gets a jump of its own.
func (b *builder) branch(op uint16, k uint32, yes, no int) int {
	const far = 255
	no = b.reach(no, far-1) // one more may come between
	yes = b.reach(yes, far)
	return b.add(unix.SockFilter{
		Code: op, K: k,
		Jt: uint8(len(b.reversed) - yes),
		Jf: uint8(len(b.reversed) - no),
	})
}

// tree writes the search for the number in the accumulator.
func (b *builder) tree(ranges []span) int {
	if len(ranges) == 1 {
		if r := ranges[0].rule; r != nil {
			return b.rule(*r)
		}
		return b.ret(ranges[0].action)
	}
	mid := len(ranges) / 2
	high := b.tree(ranges[mid:])
	low := b.tree(ranges[:mid])
	return b.branch(opJGE, ranges[mid].first, high, low)
}

// rule writes the conditions of one call, which load arguments over the number.
func (b *builder) rule(r Rule) int {
	next := b.ret(r.Else)
	then := b.ret(r.Then)
	for _, all := range slices.Backward(r.When) {
		at := then
		for _, a := range slices.Backward(all) {
			at = b.branch(opJEQ, a.Value, at, next)
			if a.Mask != 0 {
				at = b.emit(opAnd, a.Mask, at)
			}
			at = b.emit(opLoad, uint32(offArgs+8*a.Index), at)
		}
		next = at
	}
	return next
}

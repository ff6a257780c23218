package session

import "errors"

// Bounds of a frame. A command may be as long as one argument of execve(2)
// (MAX_ARG_STRLEN, 131072 with its NUL); one packet of a SOCK_SEQPACKET
// socket carries up to about 200 KiB with Linux's default net.core.wmem_max.
const (
	MaxFrame   = 160 << 10
	MaxCommand = 128<<10 - 1
	maxString  = MaxCommand
	maxArgs    = 256
	maxEnv     = 256
	maxGroups  = 65536 / 4 // NGROUPS_MAX is 65536; a frame holds 16384 with room to spare
	maxShells  = 8
	maxBlob    = 64 << 10
	// MaxNotice bounds a Reply.Notice, in bytes.
	MaxNotice = 8 << 10
)

// A Kind tells what a frame holds.
type Kind uint8

// The kinds of frames.
const (
	KindRequest   Kind = 1 + iota // carrelsh to carreld
	KindSpawn                     // carreld to carrel-init
	KindReply                     // the answer to either
	KindPing                      // carreld to carrel-init: are you there?
	KindPong                      // the answer
	KindSignal                    // carrelsh to carrel-init, control socket
	KindExit                      // carrel-init to carrelsh, control socket
	KindBoot                      // carrel-runtime to carrel-init, a pipe
	KindAgent                     // carrel-init to carrelsh, control socket, with one descriptor
	KindSessions                  // carreld to carrel-init: which sessions live?
	KindListing                   // the answer
	KindTell                      // carreld to carrel-init: a line for the open terminals
	KindTold                      // the answer
	KindWatch                     // carreld to carrel-init: stay connected and say which sessions end
	KindEnded                     // carrel-init to carreld, on that connection
	KindAwake                     // carrelsh to carreld: the user is there; no answer
	KindHeadStart                 // carrelsh to carreld: a request not looked at
	KindLate                      // the answer where a Request is wanted instead
	KindAsk                       // carrel-init to carreld, on the connection of a Watch: a user asks from inside
	KindAnswer                    // carreld to carrel-init
)

// ErrFrame says that a frame is not one of ours: of another version or kind,
// cut short, too long, or with a value out of bounds.
var ErrFrame = errors.New("malformed frame")

// KindOf returns the kind of a frame, 0 if it is of a version that is not spoken
// or empty.
func KindOf(frame []byte) Kind {
	if len(frame) < 2 || frame[0] < Oldest || frame[0] > Version {
		return 0
	}
	return Kind(frame[1])
}

// An encoder appends fields to a frame.
type encoder struct{ b []byte }

func newEncoder(kind Kind, size int) *encoder {
	e := &encoder{b: make([]byte, 0, size+2)}
	e.b = append(e.b, Version, byte(kind))
	return e
}

func (e *encoder) u8(v uint8)   { e.b = append(e.b, v) }
func (e *encoder) u16(v uint16) { e.b = append(e.b, byte(v>>8), byte(v)) }
func (e *encoder) u32(v uint32) { e.u16(uint16(v >> 16)); e.u16(uint16(v)) }
func (e *encoder) u64(v uint64) { e.u32(uint32(v >> 32)); e.u32(uint32(v)) }

func (e *encoder) flag(v bool) {
	if v {
		e.u8(1)
	} else {
		e.u8(0)
	}
}

func (e *encoder) str(s string) {
	e.u32(uint32(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) strs(list []string) {
	e.u32(uint32(len(list)))
	for _, s := range list {
		e.str(s)
	}
}

// A decoder takes fields off a frame. After the first fault it returns zero
// values only; end reports the fault.
type decoder struct {
	b   []byte
	bad bool
}

func newDecoder(frame []byte, kind Kind) *decoder {
	if len(frame) > MaxFrame || KindOf(frame) != kind {
		return &decoder{bad: true}
	}
	return &decoder{b: frame[2:]}
}

// end returns ErrFrame if a field was bad or bytes are left.
func (d *decoder) end() error {
	if d.bad || len(d.b) != 0 {
		return ErrFrame
	}
	return nil
}

func (d *decoder) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	head := d.b[:n]
	d.b = d.b[n:]
	return head
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.take(2); b != nil {
		return uint16(b[0])<<8 | uint16(b[1])
	}
	return 0
}

func (d *decoder) u32() uint32 { return uint32(d.u16())<<16 | uint32(d.u16()) }
func (d *decoder) u64() uint64 { return uint64(d.u32())<<32 | uint64(d.u32()) }

func (d *decoder) flag() bool {
	switch d.u8() {
	case 0:
		return false
	case 1:
		return true
	}
	d.bad = true
	return false
}

func (d *decoder) blob(limit int) []byte {
	n := d.u32()
	if n > uint32(limit) {
		d.bad = true
		return nil
	}
	return d.take(int(n))
}

// str takes a string. What becomes an argument, a variable or a path ends at
// a NUL in the kernel, so a NUL inside would mean two things to two readers.
func (d *decoder) str() string {
	b := d.blob(maxString)
	for _, c := range b {
		if c == 0 {
			d.bad = true
			return ""
		}
	}
	return string(b)
}

func (d *decoder) count(limit int) int {
	n := d.u32()
	if d.bad || n > uint32(limit) {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) strs(limit int) []string {
	n := d.count(limit)
	if n == 0 {
		return nil
	}
	list := make([]string, 0, min(n, 64))
	for i := 0; i < n && !d.bad; i++ {
		list = append(list, d.str())
	}
	return list
}

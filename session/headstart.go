package session

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// A HeadStart is a request as the kernel handed it to carrelsh: command line,
// environment and terminal, not looked at by anybody. carrelsh sends it from
// its first instructions, while the Go runtime is still to start, so that the
// session is made meanwhile; who receives it does the looking. Where that
// cannot be done outside of carrelsh, the answer is Late, and a Request is to
// follow on the same connection.
//
//	 0  version, kind, 0, 0
//	 4  argc
//	 8  umask
//	12  ioctl(0, TCGETS), ioctl(1, TCGETS), ioctl(2, TCGETS): 0 or -errno
//	24  struct termios of descriptor 0, struct winsize, four bytes of 0
//	72  the strings of argv and then those of envp, each with its NUL
//
// Integers are in the machine's order, unlike those of other frames: the
// sender is a few instructions, and on the same machine.
type HeadStart struct {
	Args, Env []string
	Umask     uint16
	// IsTty says which of the descriptors 0, 1 and 2 are terminals, IsOpen
	// which are open.
	IsTty, IsOpen [3]bool
	Terminal      Terminal // of descriptor 0
}

// Where the fields are.
const (
	headArgc    = 4
	headUmask   = 8
	headResults = 12
	headTermios = 24
	headWinsize = headTermios + 36
	headStrings = headWinsize + 8 + 4
	// headMax bounds the number of strings, and so what decoding costs.
	headMax = 4096
	// ebadf is the errno of a descriptor that is not open.
	ebadf = 9
)

// DecodeHeadStart takes a head start that a stranger wrote.
func DecodeHeadStart(frame []byte) (*HeadStart, error) {
	if len(frame) > MaxFrame || len(frame) <= headStrings || KindOf(frame) != KindHeadStart {
		return nil, ErrFrame
	}
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(frame[at:]) }
	u16 := func(at int) uint16 { return binary.NativeEndian.Uint16(frame[at:]) }
	block, whole := bytes.CutSuffix(frame[headStrings:], []byte{0})
	if bytes.Count(block, []byte{0}) >= headMax {
		return nil, ErrFrame
	}
	strs := strings.Split(string(block), "\x00")
	argc := u32(headArgc)
	if !whole || argc == 0 || uint64(argc) > uint64(len(strs)) || u32(headUmask) > 0o777 {
		return nil, ErrFrame
	}
	h := &HeadStart{Args: strs[:argc:argc], Env: strs[argc:], Umask: uint16(u32(headUmask))}
	for i := range h.IsTty {
		result := int32(u32(headResults + 4*i))
		h.IsTty[i], h.IsOpen[i] = result == 0, result != -ebadf
	}
	if h.IsTty[0] {
		h.Terminal = Terminal{
			Size: Winsize{
				Rows: u16(headWinsize), Cols: u16(headWinsize + 2),
				XPixel: u16(headWinsize + 4), YPixel: u16(headWinsize + 6),
			},
			HasModes: true,
			Modes: Modes{
				Iflag: u32(headTermios), Oflag: u32(headTermios + 4),
				Cflag: u32(headTermios + 8), Lflag: u32(headTermios + 12),
			},
		}
		copy(h.Terminal.Modes.Cc[:], frame[headTermios+17:headWinsize]) // after c_line
	}
	return h, nil
}

// Request returns the request that carrelsh will find itself to be making once
// it runs; false if only it can say.
func (h *HeadStart) Request() (*Request, bool) {
	for i := range h.IsOpen {
		if !h.IsOpen[i] { // carrelsh opens /dev/null there
			return nil, false
		}
	}
	for _, kv := range h.Env {
		if RulesRuntime(kv) { // carrelsh starts itself anew
			return nil, false
		}
	}
	known := true
	own := func(command string) bool {
		if strings.HasPrefix(command, "/") {
			known = false // which file carrelsh is, is its own to say
		}
		return false
	}
	call, ok := ParseInvocation(h.Args, h.getenv, own)
	if !ok || !known || call.Help || call.Version || call.Socket != "" || len(call.Command.Args) > maxArgs {
		return nil, false
	}
	r := &Request{
		Command: call.Command, Env: FilterEnv(h.Env), Agent: h.getenv("SSH_AUTH_SOCK") != "", Umask: h.Umask,
	}
	if h.IsTty[0] && h.IsTty[1] {
		r.Streams = Streams{Tty: true, SplitStderr: !h.IsTty[2]}
		r.Terminal = h.Terminal
	}
	return r, true
}

// getenv is the first variable of that name, as os.Getenv has it.
func (h *HeadStart) getenv(name string) string {
	for _, kv := range h.Env {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}

// RulesRuntime says that the variable NAME=VALUE rules the Go runtime.
// carrelsh starts itself anew without those: with GOMEMLIMIT=1, say, it would
// collect garbage for ever, outside of the user's limits.
func RulesRuntime(kv string) bool {
	switch name, _, _ := strings.Cut(kv, "="); name {
	case "GOGC", "GOMEMLIMIT", "GODEBUG", "GOMAXPROCS", "GOTRACEBACK":
		return true
	}
	return false
}

// Late is the answer to a head start that is no request.
func Late() []byte { return []byte{Version, byte(KindLate)} }

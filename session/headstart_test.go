package session

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// headStart makes a frame as carrelsh's first instructions do.
func headStart(argc uint32, results [3]int32, strs ...string) []byte {
	frame := make([]byte, headStrings)
	frame[0], frame[1] = Version, byte(KindHeadStart)
	put := func(at int, v uint32) { binary.NativeEndian.PutUint32(frame[at:], v) }
	put(headArgc, argc)
	put(headUmask, 0o27)
	for i, r := range results {
		put(headResults+4*i, uint32(r))
	}
	for i := range uint32(4) {
		put(headTermios+4*int(i), i+1)
	}
	frame[headTermios+16], frame[headTermios+17] = 9, 3 // c_line, c_cc[VINTR]
	binary.NativeEndian.PutUint16(frame[headWinsize:], 24)
	binary.NativeEndian.PutUint16(frame[headWinsize+2:], 80)
	return append(frame, strings.Join(strs, "\x00")+"\x00"...)
}

const enotty = -25

var (
	pipes     = [3]int32{enotty, enotty, enotty}
	terminals = [3]int32{0, 0, 0}
)

func TestHeadStartRequest(t *testing.T) {
	command := func(text string) Command { return Command{HasText: true, Text: text, Args: []string{}} }
	screen := Terminal{
		Size: Winsize{Rows: 24, Cols: 80}, HasModes: true,
		Modes: Modes{Iflag: 1, Oflag: 2, Cflag: 3, Lflag: 4, Cc: [19]uint8{3}},
	}
	for _, test := range []struct {
		name  string
		frame []byte
		want  *Request // nil is Late
	}{
		{"command", headStart(3, pipes, "sh", "-c", "a\nb", "LANG=C", "LD_PRELOAD=x", "SSH_AUTH_SOCK=/a"),
			&Request{Command: command("a\nb"), Env: []string{"LANG=C"}, Agent: true}},
		{"no environment", headStart(3, pipes, "sh", "-c", ""), &Request{Command: command("")}},
		{"terminal", headStart(1, terminals, "-sh"),
			&Request{Command: Command{Login: true}, Streams: Streams{Tty: true}, Terminal: screen}},
		{"terminal but for stderr", headStart(1, [3]int32{0, 0, enotty}, "-sh"),
			&Request{Command: Command{Login: true}, Streams: Streams{Tty: true, SplitStderr: true}, Terminal: screen}},
		{"half a terminal", headStart(3, [3]int32{0, enotty, 0}, "sh", "-c", "x"), &Request{Command: command("x")}},
		{"forced command", headStart(3, pipes, "sh", "-c", "/usr/bin/carrelsh", "SSH_ORIGINAL_COMMAND=id"), nil},
		{"path", headStart(3, pipes, "sh", "-c", "/usr/lib/openssh/sftp-server"), nil},
		{"help", headStart(2, pipes, "sh", "--help"), nil},
		{"version", headStart(2, pipes, "sh", "--version"), nil},
		{"socket", headStart(3, pipes, "sh", "--socket", "/x"), nil},
		{"usage", headStart(2, pipes, "sh", "-x"), nil},
		{"closed descriptor", headStart(3, [3]int32{enotty, -ebadf, enotty}, "sh", "-c", "x"), nil},
		{"runtime's variable", headStart(3, pipes, "sh", "-c", "x", "GOGC=1"), nil},
		{"too many arguments", headStart(300, pipes, append([]string{"sh", "-c"}, make([]string, 298)...)...), nil},
	} {
		h, err := DecodeHeadStart(test.frame)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if test.want != nil {
			test.want.Umask = 0o27
		}
		got, _ := h.Request()
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestDecodeHeadStartRefuses(t *testing.T) {
	good := headStart(1, pipes, "sh", "A=b")
	if _, err := DecodeHeadStart(good); err != nil {
		t.Fatal(err)
	}
	umask := headStart(1, pipes, "sh")
	binary.NativeEndian.PutUint32(umask[headUmask:], 0o1000)
	for name, frame := range map[string][]byte{
		"empty":               {},
		"no strings":          good[:headStrings],
		"no last NUL":         good[:len(good)-1],
		"no argument":         headStart(0, pipes, "sh"),
		"too few strings":     headStart(3, pipes, "sh", "-c"),
		"umask":               umask,
		"too many strings":    headStart(1, pipes, make([]string, headMax+1)...),
		"another kind":        {Version, byte(KindRequest)},
		"longer than allowed": headStart(1, pipes, "sh", strings.Repeat("x", MaxFrame)),
	} {
		if h, err := DecodeHeadStart(frame); err == nil {
			t.Errorf("%s: DecodeHeadStart = %+v", name, h)
		}
	}
}

// A request out of a head start keeps the bounds of one out of a Request.
func FuzzDecodeHeadStart(f *testing.F) {
	f.Add(headStart(3, pipes, "sh", "-c", "id", "TERM=xterm", "SSH_AUTH_SOCK=/a"))
	f.Add(headStart(1, terminals, "-sh", "LC_ALL=C"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, err := DecodeHeadStart(frame)
		if err != nil {
			return
		}
		r, ok := h.Request()
		if !ok {
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatalf("%+v cannot be encoded: %v", r, err)
		}
		back, err := DecodeRequest(again)
		if err != nil {
			t.Fatalf("%+v cannot be decoded: %v", r, err)
		}
		if len(back.Command.Args) == 0 && r.Command.Args != nil {
			back.Command.Args = []string{} // the frame does not tell them apart
		}
		if !cmp.Equal(r, back) {
			t.Fatalf("request = %+v; decoded %+v", r, back)
		}
	})
}

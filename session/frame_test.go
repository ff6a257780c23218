package session

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var fullRequest = Request{
	Command:  Command{Login: true, HasText: true, Text: "echo 'a\nb' \"\xff\"", Args: []string{"zero", ""}},
	Streams:  Streams{Tty: true, SplitStderr: true},
	Terminal: Terminal{Size: Winsize{24, 80, 1, 2}, HasModes: true, Modes: Modes{1, 2, 3, 4, [19]uint8{3, 28}}},
	Env:      []string{"TERM=xterm", "LANG=C.UTF-8"},
	Agent:    true,
	Umask:    0o27,
}

var fullSpawn = Spawn{
	ID: 1 << 40, User: "alice", UID: 1000, GID: 1001, Groups: []uint32{27, 1001}, Home: "/home/alice",
	Shells: []string{"/bin/bash", "/bin/sh"}, Command: fullRequest.Command, Streams: fullRequest.Streams,
	Terminal: fullRequest.Terminal, Env: []string{"HOME=/home/alice"}, KillRest: true, Umask: 0o22,
}

func TestFramesRoundTrip(t *testing.T) {
	frame, err := fullRequest.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeRequest(frame)
	if err != nil {
		t.Fatalf("DecodeRequest = %v", err)
	}
	if diff := cmp.Diff(&fullRequest, got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	frame, err = fullSpawn.Encode()
	if err != nil {
		t.Fatal(err)
	}
	spawn, err := DecodeSpawn(frame)
	if err != nil {
		t.Fatalf("DecodeSpawn = %v", err)
	}
	if diff := cmp.Diff(&fullSpawn, spawn); diff != "" {
		t.Errorf("spawn (-want +got):\n%s", diff)
	}
	boot := Boot{CgroupMode: 1, Boxes: 2, Hostname: "h", Passwd: "a:x:1:1::/:/bin/sh", Groups: []string{"g:x:1:"}, Seccomp: []byte{0, 1, 2}}
	if frame, err = boot.Encode(); err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeBoot(frame); err != nil || !cmp.Equal(&boot, got) {
		t.Errorf("DecodeBoot = %v, %v", got, err)
	}
	reply := Reply{Failure: NoImage, Shell: "/bin/sh", Detail: "tools"}
	if got, err := DecodeReply(reply.Encode()); err != nil || *got != reply {
		t.Errorf("DecodeReply = %v, %v", got, err)
	}
	if got, err := DecodeExit(Exit{Status: 7}.Encode()); err != nil || got.Status != 7 {
		t.Errorf("DecodeExit = %v, %v", got, err)
	}
	if got, err := DecodeSignal(Signal{Number: 15}.Encode()); err != nil || got.Number != 15 {
		t.Errorf("DecodeSignal = %v, %v", got, err)
	}
	if got, err := DecodePong(Pong{Sessions: 3}.Encode()); err != nil || got.Sessions != 3 {
		t.Errorf("DecodePong = %v, %v", got, err)
	}
}

// Every prefix of a frame and every frame with a byte more is refused, and so
// is every other first byte.
func TestDecodeRequestIsExact(t *testing.T) {
	frame, err := fullRequest.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range frame {
		if _, err := DecodeRequest(frame[:n]); err == nil {
			t.Fatalf("DecodeRequest of the first %d of %d bytes = nil", n, len(frame))
		}
	}
	if _, err := DecodeRequest(append(bytes.Clone(frame), 0)); err == nil {
		t.Error("DecodeRequest with a byte left over = nil")
	}
	for _, at := range []int{0, 1} {
		other := bytes.Clone(frame)
		other[at]++
		if _, err := DecodeRequest(other); err == nil {
			t.Errorf("DecodeRequest with byte %d changed = nil", at)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	mutate := func(f func(*Request)) []byte {
		r := fullRequest
		f(&r)
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, frame := range map[string][]byte{
		"empty":                        {},
		"a NUL in the text":            mutate(func(r *Request) { r.Command.Text = "a\x00b" }),
		"a NUL in a name":              mutate(func(r *Request) { r.Env = []string{"A=\x00"} }),
		"a mask of bits that are none": mutate(func(r *Request) { r.Umask = 0o1000 }),
		"a list of 4 billion":          append([]byte{Version, byte(KindRequest), 0, 0, 0, 0, 0, 0}, 0xff, 0xff, 0xff, 0xff),
		"a flag of 2":                  append([]byte{Version, byte(KindRequest)}, bytes.Repeat([]byte{2}, 64)...),
	} {
		if r, err := DecodeRequest(frame); err == nil {
			t.Errorf("%s: DecodeRequest = %v, nil; want ErrFrame", name, r)
		}
	}
	// The twin: what the mutations start from is accepted.
	if _, err := DecodeRequest(mutate(func(*Request) {})); err != nil {
		t.Errorf("unchanged: DecodeRequest = %v", err)
	}
}

func TestEncodeRefusesTooLong(t *testing.T) {
	r := Request{Command: Command{HasText: true, Text: strings.Repeat("x", MaxCommand)}}
	if _, err := r.Encode(); err != nil {
		t.Errorf("Encode of the longest command = %v", err)
	}
	r.Command.Text += "x"
	if _, err := r.Encode(); err == nil {
		t.Error("Encode of a longer command = nil")
	}
	for _, r := range []Request{
		{Command: Command{Args: make([]string, maxArgs+1)}}, {Env: make([]string, maxEnv+1)},
	} {
		if _, err := r.Encode(); err == nil {
			t.Error("Encode of a longer list = nil")
		}
	}
	r = Request{Command: Command{Args: []string{strings.Repeat("x", MaxCommand), strings.Repeat("y", MaxCommand)}}}
	if _, err := r.Encode(); err == nil {
		t.Error("Encode of a request over MaxFrame = nil")
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                "plain",
		"\x1b]0;x\x07":         "?]0;x?",
		"a\nb\x9bc":            "a?b?c",
		strings.Repeat("a", 9): "aaaaaaaa",
	} {
		if got := Printable(in, 8); got != want {
			t.Errorf("Printable(%q, 8) = %q; want %q", in, got, want)
		}
	}
}

// Whatever decodes encodes to the same bytes: no two frames mean one request.
func FuzzDecodeRequest(f *testing.F) {
	frame, _ := fullRequest.Encode()
	f.Add(frame)
	plain, _ := (&Request{}).Encode()
	f.Add(plain)
	f.Fuzz(func(t *testing.T, frame []byte) {
		r, err := DecodeRequest(frame)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(frame, again) {
			t.Errorf("frame %x decodes to %+v, which encodes to %x, %v", frame, r, again, err)
		}
		if len(r.Env) > maxEnv || len(r.Command.Args) > maxArgs || strings.ContainsRune(r.Command.Text, 0) {
			t.Errorf("out of bounds: %+v", r)
		}
	})
}

func FuzzDecodeSpawn(f *testing.F) {
	frame, _ := fullSpawn.Encode()
	f.Add(frame)
	f.Fuzz(func(t *testing.T, frame []byte) {
		s, err := DecodeSpawn(frame)
		if err != nil {
			return
		}
		if again, err := s.Encode(); err != nil || !bytes.Equal(frame, again) {
			t.Errorf("frame %x does not round-trip: %x, %v", frame, again, err)
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	f.Add((&Reply{Failure: Refused, Detail: "x"}).Encode())
	f.Fuzz(func(t *testing.T, frame []byte) {
		r, err := DecodeReply(frame)
		if err != nil {
			return
		}
		for _, s := range []string{r.Shell, r.Detail, r.Failure.Sentence(r.Detail)} {
			if s != Printable(s, len(s)) {
				t.Errorf("%q reaches the terminal", s)
			}
		}
	})
}
